"""What a processor and a model are, in the few lines that `repr` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from . import __version__
from .options import ImageProcessor, Options, VideoProcessor
from .quantized_form import MODES

if TYPE_CHECKING:
    from .model import Model

# A form that fewer of a part's parameters have is not named: norms beside quantized matrices.
NAMED = 0.01


def describe_options(options: Options) -> str:
    """A processor: its model, mode and context, and the options that differ from the official defaults."""
    sibling = options.sibling
    usual = Options.of(sibling)
    images, videos = _changes(options.images, usual.images), _changes(options.videos, usual.videos)
    shared = {name: text for name, text in images.items() if videos.get(name) == text}
    modes = dict.fromkeys((options.images.slicing.downsample_mode, options.videos.slicing.downsample_mode))
    lines = [
        f"Processor of {sibling.name} (minicpmv46 {__version__})",
        f"  mode {' for images, '.join(modes)}{' for videos' * (len(modes) > 1)}, "
        f"context {options.limits.context:,} tokens",
    ]
    for name, own in (("images and videos", shared), ("images", images), ("videos", videos)):
        if told := [text for key, text in own.items() if own is shared or key not in shared]:
            lines.append(f"  {name}: {', '.join(told)}")
    return "\n".join(lines)


def describe_model(model: Model) -> str:
    """A model: its name, and layers, parameters and number formats of its parts."""
    config = model.config.architecture
    vision, text = config.vision_config, config.text_config
    attention = text.layer_types.count("full_attention")
    return "\n".join(
        (
            f"{config.sibling.name} (minicpmv46 {__version__})",
            f"  vision encoder and mergers: {vision.num_hidden_layers} layers of width {vision.hidden_size}, "
            + _parameters(model.vision_tower, model.vit_merger, model.merger),
            f"  language model: {text.num_hidden_layers} layers of width {text.hidden_size} ({attention} attention, "
            f"{text.num_hidden_layers - attention} delta nets), vocabulary {text.vocab_size:,}, "
            + _parameters(model.language_model),
        )
    )


def _changes(half: ImageProcessor | VideoProcessor, usual: ImageProcessor | VideoProcessor) -> dict[str, str]:
    """Options that differ from the usual ones, each with both values."""
    before = dict(_values(usual))
    return {
        name: f"{name}={value!r} (default {before[name]!r})"
        for name, value in _values(half)
        if name in half.names and value != before[name]
    }


def _values(part: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a half's options, the rates of single videos as `fps`."""
    for f in fields(part):
        value = getattr(part, f.name)
        if f.name == "rates":
            if value is not None:
                yield "fps", value
        elif is_dataclass(value):
            yield from _values(value)
        else:
            yield f.name, value


def _parameters(*modules: Any) -> str:
    """Number of parameters, and how most of them are stored."""
    found: Counter[str] = Counter()
    for module in modules:
        for _, part in module.named_modules():
            found.update(_own_parameters(part))
    total = sum(found.values())
    forms = [form for form, number in found.most_common() if number >= NAMED * total]
    told = " and ".join(filter(None, (", ".join(forms[:-1]), forms[-1])))
    return f"{total:,} parameters in {told}"


def _own_parameters(module: Any) -> dict[str, int]:
    """Parameters of a module without those below it, by their form; nothing is computed for it."""
    import mlx.core as mx

    arrays = {name: v for name, v in module.items() if isinstance(v, mx.array) and not name.startswith("_")}
    found: Counter[str] = Counter()
    if "scales" in arrays:
        bits, group, mode = module.bits, module.group_size, module.mode
        affine = f"{bits}-bit" + f" in groups of {group}" * (group != MODES["affine"][0])
        form = affine if mode == "affine" else mode
        found[form] = arrays.pop("weight").size * 32 // bits
        for name in ("scales", "biases"):
            arrays.pop(name, None)
    for value in arrays.values():
        found[str(value.dtype).removeprefix("mlx.core.")] += value.size
    return dict(found)
