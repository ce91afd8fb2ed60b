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

from .checks import Check, names, quote, switch
from .files import read_json
from .image import PixelOptions
from .limits import Limits
from .options import (
    FIXED,
    OPTIONS,
    UPSIZE,
    HalfT,
    Options,
    VideoProcessor,
    changed,
    is_fixed,
    own_names,
)
from .schema import number
from .siblings import MINICPM_V_4_6, SIBLINGS, Sibling

# Each half's mean and deviation. The built-in port reads norm_mean, and writes mean with two more axes.
_PIXELS: dict[str, tuple[Any, ...]] = {
    "image_mean": (number(-1000, 1000), "image_mean", "norm_mean", "mean"),
    "image_std": (number(1e-6, 1000), "image_std", "norm_std", "std"),
}
_RESCALE_FACTOR = number(1e-9, 1000)
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
    image = _half_of(joint, "image_processor", folder / "preprocessor_config.json")
    video = _half_of(joint, "video_processor", folder / "video_preprocessor_config.json")
    try:
        defaults = Options.of(_sibling(folder, joint, image), Limits.of_checkpoint(folder))
        return replace(
            defaults,
            images=_half(defaults.images, image, "image_processor", defaults.limits),
            videos=_half(defaults.videos, image if video == {} else video, "video_processor", defaults.limits),
        )
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def save_options(folder: Path, options: Options) -> None:
    """Write `processor_config.json` in the official layout."""
    content = {
        "image_processor": options.images.to_dict(),
        "processor_class": f"{options.sibling.class_prefix}Processor",
        "video_processor": options.videos.to_dict(),
    }
    (folder / "processor_config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _sibling(folder: Path, joint: Mapping[str, Any], image: Any) -> Sibling:
    """The model whose processor a folder has: its classes say it, or `config.json` does, as in transformers."""
    section = image if isinstance(image, Mapping) else {}
    classes = [params.get(key) for params in (joint, section) for key in ("processor_class", "image_processor_type")]
    for name in classes:
        for sibling in SIBLINGS.values():
            if isinstance(name, str) and name.startswith(sibling.class_prefix):
                return sibling
    model_type = _section(folder / "config.json").get("model_type")
    return SIBLINGS.get(model_type, MINICPM_V_4_6) if isinstance(model_type, str) else MINICPM_V_4_6


def _half(half: HalfT, params: Any, section: str, limits: Limits) -> HalfT:
    """A half with the values of its section, within `limits`; `None` in a file is the default."""
    if not isinstance(params, Mapping):
        raise ValueError(f"{section} must be an object, not {quote(params)}")
    given = {name: value for name, value in params.items() if value is not None and name not in _HARMLESS}
    for name, value in FIXED.items():
        if name in given and not is_fixed(name, given.pop(name)):
            raise ValueError(f"{section}.{name} = {quote(params[name])} is not supported; supported: {value}")
    pixels: dict[str, Any] = {}
    for name, (check, *keys) in _PIXELS.items():
        values = [given.pop(key) for key in keys if key in given]
        if values:
            pixels[name] = tuple(_three(f"{section}.{keys[0]}", check, values[0]))
    if "rescale_factor" in given:
        pixels["rescale_factor"] = _RESCALE_FACTOR(f"{section}.rescale_factor", given.pop("rescale_factor"))
    try:
        half = replace(half, pixels=PixelOptions(**pixels))
        if "patch_size" in given:
            half = replace(half, slicing=replace(half.slicing, patch_size=given.pop("patch_size")))
        known = own_names(half.sibling, half.names)
        if isinstance(half, VideoProcessor) and half.sibling.has_small_image_upsize:
            given.pop(UPSIZE, None)  # of images; transformers keeps it where a video's options are read from theirs
        if unknown := given.keys() - set(known):
            raise ValueError(f"{names(unknown)} is not supported by {half.sibling.name}")
        if "use_image_id" in given:  # of videos it is the call's matter, but a file may name it
            switch("use_image_id", given["use_image_id"])
        half = changed(half, given)
        for part in (half.slicing, *([half.sampling] if isinstance(half, VideoProcessor) else [])):
            limits.check_options(part)
        return half
    except ValueError as error:
        raise ValueError(f"{section}: {error}") from error


def _three(name: str, check: Check, values: Any) -> list[float]:
    """The three numbers in a list, or in lists within each other as mlx-vlm's port writes them."""
    found = _flat(values)
    if not isinstance(values, list) or len(found) != 3:
        raise ValueError(f"{name} needs three values, not {quote(values)}")
    return [float(check(name, x)) for x in found]


def _flat(values: Any) -> list[Any]:
    return [x for value in values for x in _flat(value)] if isinstance(values, list) else [values]


def _half_of(joint: Mapping[str, Any], name: str, path: Path) -> Any:
    """A section of the joint file, or where it has none a file of its own."""
    return _section(path) if joint.get(name) in (None, {}) else joint[name]


def _section(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
