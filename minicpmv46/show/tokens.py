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
from ..sampling import VideoMetadata
from ..siblings import DOWNSAMPLE_MODES, DownsampleMode
from ..slicing import Size, SlicePlan, plan_slices
from ..video import Clip
from ..workers import map_ahead
from .media import Kind, open_sources, options_for
from .table import html_table, text_table

if TYPE_CHECKING:
    from typing_extensions import Unpack

# The markers alone: visual tokens are counted by the plans.
_MARKERS = SpecialTokens(image_token="", video_token="")
_MARKER = re.compile("</?[a-z_]+>")

Modes = dict[DownsampleMode, list[SlicePlan]]


@dataclass(frozen=True)
class SeenPicture:
    """An image, a frame of a video, or a picture that is composed of frames.

    Attributes:
        plan: how it is cut, in the mode in use.
        frames: indices of the video's frames that it shows; empty for an image.
        seconds: their times; empty for an image, and where the frame rate is not known.
    """

    plan: SlicePlan
    frames: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class MediumTokens:
    """Tokens of one image or video.

    Attributes:
        name: file name, or "image 0".
        pictures: one for an image; of a video those that the model sees, in its order.
        visual: visual tokens in each mode.
        prompt: all tokens in each mode, markers included.
        mode: the mode in use.
        metadata: of a video, where it is known.
    """

    name: str
    kind: Kind
    pictures: tuple[SeenPicture, ...]
    visual: dict[DownsampleMode, int]
    prompt: dict[DownsampleMode, int]
    mode: DownsampleMode
    metadata: VideoMetadata | None = None

    @property
    def size(self) -> Size:
        """(height, width) in pixels of the image, or of the first picture of a video."""
        return self.pictures[0].plan.size

    @property
    def slices(self) -> int:
        """Slices of all pictures."""
        return sum(len(picture.plan.slice_sizes) for picture in self.pictures)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON; sizes are named by width and height."""
        entry: dict[str, Any] = {"name": self.name, "kind": self.kind, **_size(self.size)}
        if self.kind == "image":
            entry |= _plan(self.pictures[0].plan)
        else:
            clip = self.metadata
            entry["video"] = clip and {"frames": clip.total_num_frames, "fps": clip.fps, "seconds": clip.duration}
            entry["slices"] = self.slices
            entry["pictures"] = [
                {"frames": list(p.frames), "seconds": list(p.seconds), **_size(p.plan.size), **_plan(p.plan)}
                for p in self.pictures
            ]
        return entry | {"visual_tokens": self.visual, "prompt_tokens": self.prompt}


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the images and videos of one prompt; prints as a table.

    Attributes:
        model: name of the model whose processor has these options.
        mode: the mode in use.
        context: tokens that a prompt may have.
        media: one entry an image or video, in the order in which they were given.
    """

    model: str
    mode: DownsampleMode
    context: int
    media: tuple[MediumTokens, ...]

    @property
    def visual(self) -> int:
        """Visual tokens of all, in the mode in use."""
        return sum(medium.visual[medium.mode] for medium in self.media)

    @property
    def prompt(self) -> int:
        """All tokens that the prompt gets for them, in the mode in use."""
        return sum(medium.prompt[medium.mode] for medium in self.media)

    @property
    def share(self) -> float:
        """Part of the context that they take, 1 for all of it."""
        return self.prompt / self.context

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "model": self.model,
            "mode": self.mode,
            "context": self.context,
            "media": [medium.to_dict() for medium in self.media],
            "visual_tokens": self.visual,
            "prompt_tokens": self.prompt,
            "context_share": self.share,
        }

    def rows(self) -> list[list[str]]:
        """The table: a head, a row a medium, and the sum where there are several."""
        modes = _modes(self.mode)
        counts = [f"{kind} {mode}" for mode in modes for kind in ("visual", "prompt")]
        rows = [["", "pixels", "slices", *counts, "of context"]]
        for medium in self.media:
            numbers = [f"{n[mode]:,}" for mode in modes for n in (medium.visual, medium.prompt)]
            share = percent(medium.prompt[medium.mode] / self.context)
            rows.append([medium.name, _pixels(medium), _slices(medium), *numbers, share])
        if len(self.media) > 1:
            sums = [sum(n[mode] for n in column) for mode in modes for column in self._columns()]
            rows.append(["together", "", "", *(f"{n:,}" for n in sums), percent(self.share)])
        return rows

    def _columns(self) -> tuple[list[dict[DownsampleMode, int]], list[dict[DownsampleMode, int]]]:
        return [medium.visual for medium in self.media], [medium.prompt for medium in self.media]

    @property
    def note(self) -> str:
        """What is counted, and with which model's options."""
        return (
            f"{self.model}, {self.mode} in use, context {self.context:,} tokens. visual: tokens that image features "
            "fill; prompt: these and the markers around them, all that the prompt gets."
        )

    def __repr__(self) -> str:
        return f"{text_table(self.rows())}\n{self.note}"

    def _repr_html_(self) -> str:
        return html_table(self.rows(), self.note)


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
    planned = list(map_ahead(lambda source: plan_medium(source, options), sources))
    names = [file_name(given, source.name) for given, source in zip(media, sources, strict=True)]
    return count(sources, planned, names, options)


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


def _modes(first: DownsampleMode) -> list[DownsampleMode]:
    return sorted(DOWNSAMPLE_MODES, key=lambda mode: mode != first)


def _pixels(medium: MediumTokens) -> str:
    height, width = medium.size
    return f"{width}x{height}" + (f", {len(medium.pictures)} frames" if medium.kind == "video" else "")


def _slices(medium: MediumTokens) -> str:
    grid = medium.pictures[0].plan.grid
    if medium.kind == "video" or grid is None:
        return str(medium.slices)
    return f"{medium.slices} ({grid[1]}x{grid[0]})"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.0005 or share == 0 else "<0.1%"


def _size(size: Size) -> dict[str, int]:
    return {"width": size[1], "height": size[0]}


def _plan(plan: SlicePlan) -> dict[str, Any]:
    """Units of a picture for JSON: what the overview and each slice have in pixels and tokens."""
    overview, *slices = [
        {**_size(size), "tokens": tokens}
        for size, tokens in zip((plan.overview, *plan.slice_sizes), plan.token_counts, strict=True)
    ]
    grid = plan.grid and {"rows": plan.grid[0], "columns": plan.grid[1]}
    return {"grid": grid, "overview": overview, "slices": slices}
