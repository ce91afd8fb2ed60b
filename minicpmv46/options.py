"""Options of the processor: one frozen value, made in one place from a call, a request or a checkpoint's files.

An option is a field, with its default and its check, of the class that uses it: `SliceOptions`, `SamplingOptions`, or
the halves below. `Options.updated` takes what somebody gave, by name, and returns the value that results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from .checks import check_options, option, positive, quote, switch
from .decoding import open_image
from .image import PixelOptions, plan_picture
from .limits import Limits
from .option_names import OPTIONS, GivenOptions, ImageOptions, VideoOptions, naming
from .resize import BICUBIC
from .sampling import SamplingOptions
from .siblings import MINICPM_V_4_6, SIBLINGS, Sibling
from .slicing import SliceOptions, largest_plan
from .spelling import refuse_unknown

if TYPE_CHECKING:
    from typing_extensions import Unpack

HalfT = TypeVar("HalfT", "ImageProcessor", "VideoProcessor")

# Steps that the model's numbers depend on. They may be named, in a file or in a call, with these values only.
FIXED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "resample": BICUBIC,
}

# The one option that not all of the models have.
UPSIZE = "small_image_upsize"


def _rates(_: str, value: Any) -> tuple[float, ...] | None:
    return None if value is None else tuple(positive("fps", rate) for rate in value)


def is_fixed(name: str, value: Any) -> bool:
    """Whether a step has the value that it must have; 1 is not True."""
    return type(value) is type(FIXED[name]) and bool(value == FIXED[name])


def changed(half: HalfT, given: Mapping[str, Any]) -> HalfT:
    """A half with those of the given options that it has; raises `ValueError` for a value that is not supported."""
    given = {name: value for name, value in given.items() if value is not None and name in half.names}
    changes: dict[str, Any] = {}
    if isinstance(half, VideoProcessor) and "fps" in given:
        each = isinstance(given["fps"], (list, tuple, np.ndarray))
        changes["rates"] = given.pop("fps") if each else None
    for f in fields(half):
        value = getattr(half, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            own = {g.name: given[g.name] for g in fields(value) if g.name in given and "check" in g.metadata}
            changes |= {f.name: replace(value, **own)} if own else {}
        elif f.name in given:
            changes[f.name] = given[f.name]
    return replace(half, **changes)


def own_names(sibling: Sibling, names: Iterable[str]) -> list[str]:
    """Those of the names of options that a model has."""
    return [name for name in names if name != UPSIZE or sibling.has_small_image_upsize]


def check_names(sibling: Sibling, given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Raise `TypeError` where `given` has names that are no options, or are options of another model."""
    if not sibling.has_small_image_upsize:
        if given.get(UPSIZE) is not None:
            others = ", ".join(row.name for row in SIBLINGS.values() if row.has_small_image_upsize)
            raise TypeError(
                f"{where} has {UPSIZE}, which {sibling.name} does not have (it always enlarges small images) and "
                f"{others} has; leave it out"
            )
        given = {name: given[name] for name in given if name != UPSIZE}
    unfixed = [name for name in given if name not in FIXED or not is_fixed(name, given[name])]
    refuse_unknown(unfixed, own_names(sibling, known), where)


@dataclass(frozen=True)
class ImageProcessor:
    """Options of images, as `processor.image_processor`."""

    names: ClassVar = tuple(ImageOptions.__annotations__)

    sibling: Sibling = MINICPM_V_4_6
    slicing: SliceOptions = field(default_factory=SliceOptions)
    pixels: PixelOptions = field(default_factory=PixelOptions)
    use_image_id: bool = option(True, switch)

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """The section of a processor file as the official processor writes it."""
        section = _section(self.slicing, self.pixels)
        if not self.sibling.has_small_image_upsize:
            del section[UPSIZE]
        return {
            **section,
            "use_image_id": self.use_image_id,
            "image_processor_type": f"{self.sibling.class_prefix}ImageProcessor",
        }

    @naming(ImageOptions)
    def num_image_tokens(self, height: int, width: int, *, image: Any = None, **given: Unpack[ImageOptions]) -> int:
        """Visual tokens of an image of `height` x `width` pixels, overview and slices together.

        Args:
            image: the image itself, in any form that the processor takes. With `small_image_upsize="adaptive"` what is
                in it decides; without it the result is the largest number that an image of this size can have.

        Raises:
            TypeError: an option is unknown.
            ValueError: an option has a value that is not supported, `image` cannot be read or has another size.
        """
        check_names(self.sibling, given, self.names, "num_image_tokens")
        slicing = changed(self, given).slicing
        if image is None:
            plan = largest_plan(height, width, slicing)
        else:
            plan = plan_picture(open_image(image, "image").picture(self.sibling.image_backend), slicing)
            if plan.size != (height, width):
                found = "x".join(map(str, plan.size))
                raise ValueError(f"image has {found} pixels (height x width), not {height}x{width}")
        return sum(plan.token_counts)


@dataclass(frozen=True)
class VideoProcessor:
    """Options of videos, as `processor.video_processor`; `rates` is an own `fps` for each video, or None."""

    names: ClassVar = tuple(VideoOptions.__annotations__)

    sibling: Sibling = MINICPM_V_4_6
    slicing: SliceOptions = field(default_factory=SliceOptions)
    pixels: PixelOptions = field(default_factory=PixelOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    do_sample_frames: bool = option(True, switch)
    rates: tuple[float, ...] | None = option(None, _rates)

    def __post_init__(self) -> None:
        check_options(self)

    def to_dict(self) -> dict[str, Any]:
        """The section of a processor file as the official processor writes it."""
        section = _section(self.slicing, self.pixels)
        del section[UPSIZE]
        return {
            **section,
            "max_num_frames": self.sampling.max_num_frames,
            "stack_frames": self.sampling.stack_frames,
            "do_sample_frames": self.do_sample_frames,
            "return_metadata": False,
            "use_image_id": True,
            "video_processor_type": f"{self.sibling.class_prefix}VideoProcessor",
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
    """All options of a processor or of one call, checked; `of` gives a model's defaults."""

    images: ImageProcessor = field(default_factory=ImageProcessor)
    videos: VideoProcessor = field(default_factory=VideoProcessor)
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def of(cls, sibling: Sibling, limits: Limits | None = None) -> Options:
        """The official defaults of a model."""
        slicing = SliceOptions(downsample_mode=sibling.downsample_mode)
        return cls(ImageProcessor(sibling, slicing), VideoProcessor(sibling, slicing), limits or Limits())

    @property
    def sibling(self) -> Sibling:
        """The model whose processor has these options."""
        return self.images.sibling

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
        check_names(self.sibling, given, OPTIONS, where)
        shared = {name: value for name, value in given.items() if not name.endswith("_kwargs")}
        for_images = _own("images_kwargs", given.get("images_kwargs"), self.images)
        for_videos = _own("videos_kwargs", given.get("videos_kwargs"), self.videos)
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


def _own(argument: str, given: Any, half: ImageProcessor | VideoProcessor) -> dict[str, Any]:
    """Options of `images_kwargs` or `videos_kwargs`."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} must be a mapping of options, not {quote(given)}")
    check_names(half.sibling, given, half.names, argument)
    return {name: value for name, value in given.items() if value is not None}
