"""Options of the processor: one frozen value, made in one place from a call, a request or a checkpoint's files.

An option is a field, with its default and its check, of the class that uses it: `SliceOptions`, `SamplingOptions`, or
the halves below. `Options.updated` takes what somebody gave, by name, and returns the value that results.
`GivenOptions` repeats the names for type checkers, completion and `help()`; a test compares both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np

from .checks import check_options, option, positive, quote, switch
from .config import DownsampleMode
from .image import PixelOptions
from .limits import Limits
from .resize import BICUBIC
from .sampling import SamplingOptions
from .slicing import SliceOptions, plan_slices
from .spelling import refuse_unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

_HalfT = TypeVar("_HalfT")
_FunctionT = TypeVar("_FunctionT", bound=Callable[..., Any])


class MediaOptions(TypedDict, total=False):
    """Options of images and of videos. None takes the checkpoint's.

    downsample_mode: "16x", or "4x" for four times the visual tokens.
    max_slice_nums: largest number of slices of an image or a frame, beside its overview.
    slice_mode: False keeps overviews only.
    scale_resolution: side in pixels of a unit's square.
    use_image_id: number the images and videos in the prompt.
    """

    downsample_mode: DownsampleMode | None
    max_slice_nums: int | None
    slice_mode: bool | None
    scale_resolution: int | None
    use_image_id: bool | None


class VideoOptions(MediaOptions, total=False):
    """Options of videos.

    max_num_frames: largest number of main frames of a video.
    stack_frames: pictures a second, 1 without stacking.
    do_sample_frames: False uses all frames of videos that are given decoded.
    fps: main frames a second, one for all videos or one a video; 1 is the official rate.
    nframes, min_frames, max_frames: mlx-vlm's frame counts; see `sampling.SamplingOptions`.
    """

    max_num_frames: int | None
    stack_frames: int | None
    do_sample_frames: bool | None
    fps: float | Sequence[float] | None
    nframes: int | None
    min_frames: int | None
    max_frames: int | None


class GivenOptions(VideoOptions, total=False):
    """Options of a call.

    images_kwargs, videos_kwargs: options of images or of videos only; they win over the others.
    """

    images_kwargs: MediaOptions | None
    videos_kwargs: VideoOptions | None


# Steps that the model's numbers depend on. They may be named, in a file or in a call, with these values only.
FIXED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": BICUBIC,
}


def _rates(_: str, value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(positive("fps", rate) for rate in value)


def is_fixed(name: str, value: Any) -> bool:
    """Whether a step has the value that it must have; 1 is not True."""
    return type(value) is type(FIXED[name]) and bool(value == FIXED[name])


def _without_fixed(given: Mapping[str, Any]) -> list[str]:
    return [name for name, value in given.items() if name not in FIXED or not is_fixed(name, value)]


def changed(half: _HalfT, given: Mapping[str, Any]) -> _HalfT:
    """A half with those of the given options that it has; raises `ValueError` for a value that is not supported."""
    given = {name: value for name, value in given.items() if value is not None}
    changes: dict[str, Any] = {}
    if isinstance(half, VideoProcessor) and "fps" in given:
        each = isinstance(given["fps"], (list, tuple, np.ndarray))
        changes["rates"] = given.pop("fps") if each else None
    for f in fields(half):  # type: ignore[arg-type]
        value = getattr(half, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            own = {g.name: given[g.name] for g in fields(value) if g.name in given and "check" in g.metadata}
            changes |= {f.name: replace(value, **own)} if own else {}
        elif f.name in given:
            changes[f.name] = given[f.name]
    return replace(half, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class ImageProcessor:
    """Options of images, as `processor.image_processor`."""

    slicing: SliceOptions = field(default_factory=SliceOptions)
    pixels: PixelOptions = field(default_factory=PixelOptions)
    use_image_id: bool = option(True, switch)

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """The section of a processor file as the official processor writes it."""
        return {
            **_section(self.slicing, self.pixels),
            "use_image_id": self.use_image_id,
            "image_processor_type": "MiniCPMV4_6ImageProcessor",
        }

    def num_image_tokens(self, height: int, width: int, **given: Unpack[MediaOptions]) -> int:
        """Visual tokens of an image of `height` x `width` pixels, overview and slices together."""
        refuse_unknown(given, MediaOptions.__annotations__, "num_image_tokens")
        return sum(plan_slices(height, width, changed(self, given).slicing).token_counts)


@dataclass(frozen=True)
class VideoProcessor:
    """Options of videos, as `processor.video_processor`; `rates` is an own `fps` for each video, or None."""

    slicing: SliceOptions = field(default_factory=SliceOptions)
    pixels: PixelOptions = field(default_factory=PixelOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    do_sample_frames: bool = option(True, switch)
    rates: tuple[float, ...] | None = option(None, _rates)

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """The section of a processor file as the official processor writes it."""
        return {
            **_section(self.slicing, self.pixels),
            "max_num_frames": self.sampling.max_num_frames,
            "stack_frames": self.sampling.stack_frames,
            "do_sample_frames": self.do_sample_frames,
            "return_metadata": False,
            "use_image_id": True,
            "video_processor_type": "MiniCPMV4_6VideoProcessor",
        }

    def samplings(self, count: int) -> list[SamplingOptions]:
        """Sampling of each of `count` videos; raises `ValueError` where there are rates for another number."""
        if self.rates is None:
            return [self.sampling] * count
        if len(self.rates) != count:
            raise ValueError(f"fps has {len(self.rates)} entries for {count} video{'s' * (count != 1)}")
        return [replace(self.sampling, fps=rate) for rate in self.rates]


def _section(slicing: SliceOptions, pixels: PixelOptions) -> dict[str, Any]:
    """What both halves have in a file."""
    return {
        **FIXED,
        **asdict(slicing),
        "image_mean": list(pixels.image_mean),
        "image_std": list(pixels.image_std),
        "rescale_factor": pixels.rescale_factor,
    }


@dataclass(frozen=True)
class Options:
    """All options of a processor or of one call, checked."""

    images: ImageProcessor = field(default_factory=ImageProcessor)
    videos: VideoProcessor = field(default_factory=VideoProcessor)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for part in (self.images, self.images.slicing, self.videos, self.videos.slicing, self.videos.sampling):
            self.limits.check_options(part)
        for rate in self.videos.rates or ():
            self.limits.check("rate", "fps is", rate)

    def updated(self, where: str = "the call", /, **given: Unpack[GivenOptions]) -> Options:
        """These options with those that are given; what is None stays as it is.

        Args:
            where: where they were given, for errors.

        Raises:
            TypeError: a name is unknown, `images_kwargs` or `videos_kwargs` is not a mapping.
            ValueError: a value is not supported, is above its ceiling, or contradicts another.
        """
        refuse_unknown(_without_fixed(given), OPTIONS, where)
        shared = {name: value for name, value in given.items() if not name.endswith("_kwargs")}
        for_images = _own("images_kwargs", given.get("images_kwargs"), MediaOptions)
        for_videos = _own("videos_kwargs", given.get("videos_kwargs"), VideoOptions)
        # One prompt numbers its images and its videos alike.
        ids = {switch(name, own[name]) for own in (for_images, for_videos) for name in own if name == "use_image_id"}
        if len(ids) > 1:
            raise ValueError("images_kwargs and videos_kwargs have different values of use_image_id")
        if ids:
            shared["use_image_id"] = for_images["use_image_id"] = ids.pop()
        return replace(
            self,
            images=changed(self.images, {**shared, **for_images}),
            videos=changed(self.videos, {**shared, **for_videos}),
        )


OPTIONS = tuple(GivenOptions.__annotations__)


def naming(kind: Any) -> Callable[[_FunctionT], _FunctionT]:
    """Decorator of a function that ends in `**given: Unpack[kind]`: its signature names the options."""

    def decorate(function: _FunctionT) -> _FunctionT:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation.__forward_arg__)
            for name, annotation in kind.__annotations__.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
        return function

    return decorate


def _own(argument: str, given: Any, kind: Any) -> dict[str, Any]:
    """Options of `images_kwargs` or `videos_kwargs`."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} must be a mapping of options, not {quote(given)}")
    refuse_unknown(_without_fixed(given), kind.__annotations__, argument)
    return {name: value for name, value in given.items() if value is not None}
