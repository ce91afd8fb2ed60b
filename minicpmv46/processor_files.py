"""The files in which checkpoints keep the options of their processor.

Two kinds are read: the official `processor_config.json` (also split into `preprocessor_config.json` and
`video_preprocessor_config.json`), and the ones that mlx-vlm's built-in port writes on conversion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .checks import names, quote
from .files import read_json
from .image import PixelOptions
from .limits import Limits
from .options import (
    FIXED,
    OPTIONS,
    ImageProcessor,
    MediaOptions,
    Options,
    VideoOptions,
    VideoProcessor,
    changed,
    is_fixed,
)

# Each half's mean and deviation. The built-in port reads norm_mean, and writes mean with two more axes.
_PIXELS = {"image_mean": ("image_mean", "norm_mean", "mean"), "image_std": ("image_std", "norm_std", "std")}
# Keys of the official files and of the built-in port's that change nothing here.
_HARMLESS = frozenset(
    (
        *("auto_map", "data_format", "device", "disable_grouping", "feature_extractor_type", "image_processor_type"),
        *("image_seq_length", "input_data_format", "processor_class", "return_metadata", "return_tensors", "version"),
        *("video_processor_type", "im_start", "im_end", "im_id_start", "im_id_end", "slice_start", "slice_end"),
        *("image_feature_size", "pack_image_by_patch", "unk"),
    )
)


def load_options(folder: Path) -> Options:
    """Read the options of a checkpoint folder; files that are missing mean the official defaults.

    Raises:
        ValueError: a file is not JSON, or has a key or a value that is not supported.
    """
    path = folder / "processor_config.json"
    joint = _section(path)
    if beside := sorted(joint.keys() & set(OPTIONS)):
        raise ValueError(f"{path} has {names(beside)} beside its sections image_processor and video_processor")
    image = joint.get("image_processor") or _section(folder / "preprocessor_config.json")
    video = joint.get("video_processor") or _section(folder / "video_preprocessor_config.json")
    try:
        return Options(
            images=_half(ImageProcessor(), image, "image_processor", MediaOptions),
            videos=_half(VideoProcessor(), video or image, "video_processor", VideoOptions),
            limits=Limits.of_checkpoint(folder),
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def save_options(folder: Path, options: Options) -> None:
    """Write `processor_config.json` in the official layout."""
    content = {
        "image_processor": options.images.to_dict(),
        "processor_class": "MiniCPMV4_6Processor",
        "video_processor": options.videos.to_dict(),
    }
    (folder / "processor_config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _half(half: Any, params: Any, section: str, known: Any) -> Any:
    """A half with the values of its section; `None` in a file is the default."""
    if not isinstance(params, Mapping):
        raise ValueError(f"{section} must be an object, not {quote(params)}")
    given = {name: value for name, value in params.items() if value is not None and name not in _HARMLESS}
    for name, value in FIXED.items():
        if name in given and not is_fixed(name, given.pop(name)):
            raise ValueError(f"{section}.{name} = {quote(params[name])} is not supported; supported: {value}")
    pixels: dict[str, Any] = {}
    for name, keys in _PIXELS.items():
        values = [given.pop(key) for key in keys if key in given]
        if values:
            pixels[name] = tuple(np.ravel(values[0]).astype(float).tolist())
    if "rescale_factor" in given:
        pixels["rescale_factor"] = given.pop("rescale_factor")
    try:
        half = replace(half, pixels=PixelOptions(**pixels))
        if "patch_size" in given:
            half = replace(half, slicing=replace(half.slicing, patch_size=given.pop("patch_size")))
        if unknown := given.keys() - known.__annotations__.keys():
            raise ValueError(f"{names(unknown)} is not supported")
        return changed(half, given)
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from error


def _section(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
