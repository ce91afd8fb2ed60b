"""The image and video halves of a processor: their options, and the files in which checkpoints keep them.

Two kinds of files are read: the official `processor_config.json` (also split into `preprocessor_config.json` and
`video_preprocessor_config.json`), and the ones that mlx-vlm's built-in port writes on conversion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .files import read_json
from .image import PixelOptions
from .resize import BICUBIC
from .sampling import SamplingOptions
from .slicing import SliceOptions, plan_slices

_OptionsT = TypeVar("_OptionsT")

SLICE_OPTIONS = ("downsample_mode", "max_slice_nums", "slice_mode", "scale_resolution")
SAMPLING_OPTIONS = ("max_num_frames", "stack_frames")

# Steps that the model's numbers depend on: a checkpoint that turns one off is not this model.
_REQUIRED_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb")


def with_options(options: _OptionsT, changes: Mapping[str, Any]) -> _OptionsT:
    """A copy of a frozen options object with the entries of `changes` that it has and that are not None."""
    names = {f.name for f in fields(options)}  # type: ignore[arg-type]
    return replace(options, **{k: v for k, v in changes.items() if k in names and v is not None})  # type: ignore[type-var]


@dataclass(frozen=True)
class ImageProcessor:
    """Options of images, as `processor.image_processor`."""

    slicing: SliceOptions = field(default_factory=SliceOptions)
    pixels: PixelOptions = field(default_factory=PixelOptions)
    use_image_id: bool = True

    @classmethod
    def from_dict(cls, params: Mapping[str, Any], section: str = "image_processor") -> ImageProcessor:
        """Build from one section of a processor file; raises `ValueError` for what is not supported."""
        for name in _REQUIRED_STEPS:
            if params.get(name, True) is not True:
                raise ValueError(f"{section}.{name} = {params[name]!r} is not supported; supported: True")
        if params.get("resample", BICUBIC) != BICUBIC:
            raise ValueError(f"{section}.resample = {params['resample']!r} is not supported; supported: {BICUBIC}")
        pixels: dict[str, Any] = {}
        if params.get("rescale_factor") is not None:
            pixels["rescale_factor"] = params["rescale_factor"]
        # The built-in port takes norm_mean, and writes mean with two more axes.
        for keys in (("image_mean", "norm_mean", "mean"), ("image_std", "norm_std", "std")):
            value = next((params[key] for key in keys if params.get(key) is not None), None)
            if value is not None:
                pixels[keys[0]] = tuple(np.ravel(value).astype(float).tolist())
        names = (*SLICE_OPTIONS, "patch_size")
        return cls(
            slicing=SliceOptions(**{k: params[k] for k in names if params.get(k) is not None}),
            pixels=PixelOptions(**pixels),
            use_image_id=bool(params.get("use_image_id", True)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The section as the official processor writes it."""
        return {
            **dict.fromkeys(_REQUIRED_STEPS, True),
            **asdict(self.slicing),
            "image_mean": list(self.pixels.image_mean),
            "image_std": list(self.pixels.image_std),
            "rescale_factor": self.pixels.rescale_factor,
            "resample": BICUBIC,
            "use_image_id": self.use_image_id,
            "image_processor_type": "MiniCPMV4_6ImageProcessor",
        }

    def num_image_tokens(
        self,
        height: int,
        width: int,
        *,
        downsample_mode: str | None = None,
        max_slice_nums: int | None = None,
        slice_mode: bool | None = None,
        scale_resolution: int | None = None,
    ) -> int:
        """Visual tokens of an image of `height` x `width` pixels, overview and slices together."""
        changes = {
            "downsample_mode": downsample_mode,
            "max_slice_nums": max_slice_nums,
            "slice_mode": slice_mode,
            "scale_resolution": scale_resolution,
        }
        return sum(plan_slices(height, width, with_options(self.slicing, changes)).token_counts)


@dataclass(frozen=True)
class VideoProcessor:
    """Options of videos, as `processor.video_processor`."""

    slicing: SliceOptions = field(default_factory=SliceOptions)
    pixels: PixelOptions = field(default_factory=PixelOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    do_sample_frames: bool = True

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> VideoProcessor:
        """Build from one section of a processor file; raises `ValueError` for what is not supported."""
        image = ImageProcessor.from_dict(params, "video_processor")
        return cls(
            slicing=image.slicing,
            pixels=image.pixels,
            sampling=SamplingOptions(**{k: params[k] for k in SAMPLING_OPTIONS if params.get(k) is not None}),
            do_sample_frames=bool(params.get("do_sample_frames", True)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The section as the official processor writes it."""
        section = ImageProcessor(self.slicing, self.pixels).to_dict()
        del section["image_processor_type"]
        return {
            **section,
            **{name: getattr(self.sampling, name) for name in SAMPLING_OPTIONS},
            "do_sample_frames": self.do_sample_frames,
            "return_metadata": False,
            "video_processor_type": "MiniCPMV4_6VideoProcessor",
        }


def load_processor_options(folder: Path) -> tuple[ImageProcessor, VideoProcessor]:
    """Read the options of both halves from a checkpoint folder; files that are missing mean the official defaults.

    Raises:
        ValueError: a file is not JSON, or has a value that is not supported.
    """
    joint = _section(folder / "processor_config.json")
    image = joint.get("image_processor") or _section(folder / "preprocessor_config.json")
    video = joint.get("video_processor") or _section(folder / "video_preprocessor_config.json")
    return ImageProcessor.from_dict(image), VideoProcessor.from_dict(video or image)


def save_processor_options(folder: Path, image: ImageProcessor, video: VideoProcessor) -> None:
    """Write `processor_config.json` in the official layout."""
    content = {
        "image_processor": image.to_dict(),
        "processor_class": "MiniCPMV4_6Processor",
        "video_processor": video.to_dict(),
    }
    (folder / "processor_config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _section(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
