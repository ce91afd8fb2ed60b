"""Images and videos of a call: opened, compared with the limits, then decoded and cut into visual units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .decoding import ImageSource, flatten_images, on_host, open_image
from .frames import flatten_videos, open_video
from .image import VisualUnits, cut_units
from .limits import Limits
from .options import Options
from .slicing import Size, SliceOptions, largest_plan, smallest_plan
from .video import Clip, choose_frames
from .workers import map_ahead


@dataclass(frozen=True)
class Cost:
    """What an image or a video amounts to, counted from sizes, in either position, as EXIF may turn a picture.

    Attributes:
        tokens: with "adaptive" at least; the prompt shows how many there are.
        patches: at most, as they are what takes memory.
    """

    tokens: int
    patches: int


@dataclass(frozen=True)
class OpenMedia:
    """Images and videos of a call, of which nothing is decoded yet."""

    images: list[ImageSource]
    videos: list[Clip]
    options: Options

    def costs(self) -> tuple[list[Cost], list[Cost]]:
        """Cost of each image and of each video.

        Raises:
            ValueError: a picture has more pixels, or all have more patches, than the limits allow.
        """
        images, videos, limits = self.options.images, self.options.videos, self.options.limits
        for source in self.images:
            source.check_pixels(limits)
        of_images = [_cost([source.used_size], images.slicing, limits, source.name) for source in self.images]
        of_videos = [_cost(clip.sizes(), videos.slicing, limits, clip.name) for clip in self.videos]
        limits.check("patches", "the images and videos have patches:", sum(c.patches for c in (*of_images, *of_videos)))
        return of_images, of_videos

    def check_context(self, counts: tuple[list[int], ...]) -> None:
        """Compare the visual tokens of each prompt with the context, before anything is decoded.

        Args:
            counts: how many images, and how many videos, each prompt has.

        Raises:
            ValueError: they are more than it has, or `costs` raises.
        """
        pending = [iter(own) for own in self.costs()]
        for i, row in enumerate(zip(*counts, strict=True)):
            tokens = sum(next(own).tokens for own, count in zip(pending, row, strict=True) for _ in range(count))
            self.options.limits.check("context", f"prompt {i} has visual tokens:", tokens)

    def decode(self) -> tuple[list[VisualUnits], list[list[VisualUnits]]]:
        """Units of each image, and of each frame or composed picture of each video; raises `ValueError`."""
        options = self.options.images
        backend = options.sibling.image_backend
        levels = options.pixels.levels(backend)

        def cut(source: ImageSource) -> VisualUnits:
            return cut_units(source.picture(backend), backend, options.slicing, levels)

        most = self.options.limits.together
        images = list(map_ahead(cut, self.images, weight=lambda source: source.size[0] * source.size[1], most=most))
        videos = self.options.videos
        return images, [clip.cut(videos.slicing, videos.pixels, most) for clip in self.videos]


def open_media(
    images: Sequence[Any], videos: Sequence[Any], metadata: Any, box: tuple[int, int] | None, options: Options
) -> OpenMedia:
    """Open flat lists of images and videos.

    Args:
        metadata: `video_metadata` of the call, one entry a video.
        box: (width, height) that images are made to fit in, None leaves them.

    Raises:
        ValueError: one cannot be opened, or the options do not fit it.
    """
    # Arrays of MLX are evaluated on this thread.
    sources = map_ahead(lambda entry: open_image(entry[1], f"image {entry[0]}"), enumerate(map(on_host, images)))
    opened = [replace(source, box=box) for source in sources]
    entries = _one_each(metadata, len(videos))
    clips = []
    for i, (video, sampling) in enumerate(zip(videos, options.videos.samplings(len(videos)), strict=True)):
        name = f"video {i}"
        source = open_video(video, entries[i], name, sample=options.videos.do_sample_frames)
        clips.append(choose_frames(source, sampling, name))
    return OpenMedia(opened, clips, options)


def flatten_media(images: Any, videos: Any, prompts: int) -> tuple[list[Any], list[Any], Any, Any]:
    """Images and videos as flat lists, and how many there are: for each prompt where lists of lists say it, or all."""
    image_list, video_list = flatten_images(images), flatten_videos(videos)
    return image_list, video_list, _counts(images, prompts, flatten_images), _counts(videos, prompts, flatten_videos)


def _counts(media: Any, prompts: int, flatten: Callable[[Any], list[Any]]) -> Sequence[int] | int:
    lists = isinstance(media, (list, tuple)) and all(isinstance(entry, (list, tuple)) for entry in media)
    flat = flatten(media)
    whole = lists and len(flat) == len(media) and all(a is b for a, b in zip(flat, media, strict=True))
    if not lists or len(media) != prompts or whole:  # a list of frames is a video itself
        return len(flat)
    return [len(flatten(entry)) if entry else 0 for entry in media]


def _one_each(metadata: Any, count: int) -> list[Any]:
    """One entry a video: a list of as many, or one entry for a single video."""
    entries = list(metadata) if isinstance(metadata, (list, tuple)) else None
    if entries is None:
        if metadata is not None and count > 1:
            raise ValueError(f"video_metadata has one entry for {count} videos")
        return [metadata] * count
    if len(entries) != count:
        raise ValueError(f"video_metadata has {len(entries)} entries for {count} video{'s' * (count != 1)}")
    return entries


def _check_pixels(size: Size, limits: Limits, name: str) -> None:
    height, width = size
    limits.check("pixels", f"{name}, {height}x{width} (height x width), has pixels:", height * width)


def _cost(sizes: Iterable[Size], slicing: SliceOptions, limits: Limits, name: str) -> Cost:
    known: dict[Size, Cost] = {}
    costs = []
    for height, width in sizes:
        if (height, width) not in known:
            _check_pixels((height, width), limits, name)
            positions = ((height, width), (width, height))
            known[height, width] = Cost(
                max(sum(smallest_plan(*size, slicing).token_counts) for size in positions),
                max(sum(rows * cols for rows, cols in largest_plan(*size, slicing).patch_grids) for size in positions),
            )
        costs.append(known[height, width])
    return Cost(sum(cost.tokens for cost in costs), sum(cost.patches for cost in costs))
