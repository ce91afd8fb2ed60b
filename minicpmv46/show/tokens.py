"""How many tokens images and videos take in a prompt, before anything runs.

Visual tokens are the places that the model's features fill. The prompt has more: a marker before and after each unit
(`<image>`, `</image>`, `<slice>`, `</slice>`), a line break between the rows of a grid, and the number of the image
(`<image_id>0</image_id>`). Each marker, line break and digit is one token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..decoding import ImageSource
from ..frames import DecodedFrames
from ..image import plan_picture
from ..option_names import OPTIONS, GivenOptions, naming
from ..options import Options
from ..prompt import SpecialTokens, image_placeholder, video_placeholder
from ..resize import Picture
from ..siblings import DOWNSAMPLE_MODES, DownsampleMode
from ..slicing import Size, SlicePlan, plan_slices
from ..video import Clip
from ..workers import map_ahead
from .counts import MediumTokens, SeenPicture, TokenCounts
from .media import Kind, open_sources, options_for

if TYPE_CHECKING:
    from typing_extensions import Unpack

# The markers alone: visual tokens are counted by the plans.
_MARKERS = SpecialTokens(image_token="", video_token="")
_MARKER = re.compile("</?[a-z_]+>")

Modes = dict[DownsampleMode, list[SlicePlan]]


@naming(GivenOptions)
def count_tokens(
    *media: Any, processor: Any = None, video_metadata: Any = None, **given: Unpack[GivenOptions]
) -> TokenCounts:
    """Tokens that images and videos take together in one prompt, and for videos which frames are used.

    Nothing is run and no weights are needed; images are decoded, videos are not. `count_tokens(...).media[0].pictures`
    has the geometry of an image, and the frames of a video with their times in seconds.

    Args:
        media: images and videos in the order of the prompt: paths, URLs, PIL images, arrays, everything that the
            processor takes. Files are told by their content. A list is one video, so of a list of images give
            `*images`.
        processor: of a loaded checkpoint, whose options and context then hold; None takes the official ones of
            MiniCPM-V 4.6.
        video_metadata: for decoded videos, one entry a video with total_num_frames, fps and duration.
        given: options of images and videos, see `option_names.GivenOptions`.

    Raises:
        TypeError: an option is unknown, or `processor` is not one of this package's.
        ValueError: an image or video cannot be read, an option has a value that is not supported, or something is
            larger than the limits. More tokens than the context has are not an error here.
    """
    options = options_for(processor, "count_tokens", OPTIONS, **given)
    kinds, opened = open_sources(media, video_metadata, options)
    images, clips = iter(opened.images), iter(opened.videos)
    sources: list[ImageSource | Clip] = [next(images) if kind == "image" else next(clips) for kind in kinds]
    most = options.limits.together
    planned = list(map_ahead(lambda source: plan_medium(source, options), sources, weight=pixels_of, most=most))
    names = [file_name(given, source.name) for given, source in zip(media, sources, strict=True)]
    return count(sources, planned, names, options)


def pixels_of(source: Any) -> int:
    """Pixels that are decoded at once to plan an image or a video, which limits how many are planned together."""
    return source.size[0] * source.size[1] if isinstance(source, ImageSource) else 0


def plan_medium(source: ImageSource | Clip, options: Options) -> Modes:
    """The plan of an image, or of each picture of a video, in both modes; raises `ValueError` for a damaged image."""
    if isinstance(source, ImageSource):
        return plan_image(source.picture(options.sibling.image_backend), options)
    slicing, sizes = options.videos.slicing, list(_sizes(source))
    plans: Modes = {}
    for mode in DOWNSAMPLE_MODES:
        own = replace(slicing, downsample_mode=mode)
        known = {size: plan_slices(*size, own) for size in set(sizes)}
        plans[mode] = [known[size] for size in sizes]
    return plans


def plan_image(picture: Picture, options: Options) -> Modes:
    """The plan of an RGB image in both modes."""
    slicing = options.images.slicing
    return {mode: [plan_picture(picture, replace(slicing, downsample_mode=mode))] for mode in DOWNSAMPLE_MODES}


def count(
    sources: Sequence[ImageSource | Clip], planned: Sequence[Modes], names: Sequence[str], options: Options
) -> TokenCounts:
    """Tokens of media that are planned, as they stand in one prompt."""
    mode = options.images.slicing.downsample_mode
    numbers: dict[Kind, int] = {"image": 0, "video": 0}
    media = []
    for source, plans, name in zip(sources, planned, names, strict=True):
        kind: Kind = "image" if isinstance(source, ImageSource) else "video"
        own = mode if kind == "image" else options.videos.slicing.downsample_mode
        number = numbers[kind] if options.images.use_image_id else None
        media.append(
            MediumTokens(
                name,
                kind,
                tuple(_pictures(source, plans[own])),
                {m: sum(sum(plan.token_counts) for plan in plans[m]) for m in plans},
                {m: prompt_tokens(kind, plans[m], number) for m in plans},
                own,
                source.source.metadata if isinstance(source, Clip) else None,
            )
        )
        numbers[kind] += 1
    return TokenCounts(options.sibling.name, mode, options.limits.context, tuple(media))


def prompt_tokens(kind: Kind, plans: Sequence[SlicePlan], number: int | None) -> int:
    """All tokens that stand in the prompt for an image or a video; `number` is its own, None where it has none."""
    markers = image_placeholder(plans[0], _MARKERS) if kind == "image" else video_placeholder(plans, _MARKERS)
    if number is not None:
        markers = f"{_MARKERS.image_id_start_token}{number}{_MARKERS.image_id_end_token}{markers}"
    # Beside markers there are line breaks and digits, a token each.
    return len(_MARKER.sub("m", markers)) + sum(sum(plan.token_counts) for plan in plans)


def _pictures(source: ImageSource | Clip, plans: Sequence[SlicePlan]) -> Iterator[SeenPicture]:
    if isinstance(source, ImageSource):
        yield SeenPicture(plans[0])
        return
    fps = source.source.metadata.fps if source.source.metadata else None
    for unit, plan in zip(source.units, plans, strict=True):
        yield SeenPicture(plan, unit, tuple(index / fps for index in unit) if fps else ())


def _sizes(clip: Clip) -> Iterator[Size]:
    """(height, width) of each picture of a clip. Frames that are image files may be turned by EXIF: these are read."""
    if not isinstance(clip.source, DecodedFrames):
        return clip.sizes()
    indices = sorted({index for unit in clip.units for index in unit})
    turned = {index: (frame.shape[0], frame.shape[1]) for index, frame in clip.source.read(indices)}
    return replace(clip, source=_Measured(clip.source, turned)).sizes()


@dataclass
class _Measured:
    """Frames whose sizes are known."""

    source: DecodedFrames
    sizes: dict[int, Size]

    def __post_init__(self) -> None:
        self.metadata = self.source.metadata

    def __len__(self) -> int:
        return len(self.source)

    def size(self, index: int) -> Size:
        return self.sizes[index]

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        return self.source.read(indices)


def file_name(source: Any, otherwise: str) -> str:
    """What a table calls a source: its file's name, or something else where it is none."""
    if isinstance(source, Path) or (isinstance(source, str) and not source.startswith("data:")):
        return PurePath(source).name[-40:] or otherwise
    return otherwise
