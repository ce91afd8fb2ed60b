"""Between a checkpoint's tensors and the module tree: one table of names and two changes of layout.

Official checkpoints store RMSNorm weights as offsets from one and convolutions in torch's layout. The mlx-community
layout, which quantized checkpoints have, has this module tree's names, the one added, and MLX's layout. Only names of
the official layout are changed on reading, so renaming twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

from .config import Config

# Official prefix -> this module tree's, first match wins.
PREFIXES = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.vit_merger.": "vit_merger.",
    "model.vision_tower.": "vision_tower.",
    "model.merger.": "merger.",
    "lm_head.": "language_model.lm_head.",
}

# RMSNorms of the decoder whose weight w is used as 1 + w; `linear_attn.norm` is not among them.
_OFFSET_NORM = re.compile(
    r"(input_layernorm|post_attention_layernorm|q_norm|k_norm|^language_model\.model\.norm)\.weight$"
)

# Tensors that checkpoints may carry and this model computes or does without: position ids, multi-token prediction.
_UNUSED = re.compile(r"(^|\.)mtp\.|\.position_ids$")


def renamed(name: str) -> str:
    """The module path of a tensor; names of the mlx-community layout stay as they are."""
    for official, own in PREFIXES.items():
        if name.startswith(official):
            return own + name[len(official) :]
    return name


def is_unused(name: str, config: Config) -> bool:
    """Whether a tensor of a checkpoint has no place in the model by design."""
    return bool(_UNUSED.search(name)) or (
        config.tie_word_embeddings and renamed(name) == "language_model.lm_head.weight"
    )


def is_offset_norm(path: str) -> bool:
    """Weights of norms that the official layout stores less one; with the one added they are float32."""
    return bool(_OFFSET_NORM.search(path))


def is_float32_parameter(path: str) -> bool:
    """Parameters that keep the checkpoint's or full precision, whatever the rest is stored in."""
    return is_offset_norm(path) or path.endswith((".A_log", ".dt_bias"))


def rename_weights(weights: Mapping[str, mx.array], config: Config) -> dict[str, mx.array]:
    """Tensors of either layout by module path, in MLX's layout, norm weights with the one added in float32."""
    out: dict[str, mx.array] = {}
    for name, value in weights.items():
        if is_unused(name, config):
            continue
        path = renamed(name)
        if path in out:
            raise ValueError(f"the checkpoint has {path} twice, once in each layout")
        if path != name:  # a name of the official layout
            if _OFFSET_NORM.search(path):
                value = 1 + value.astype(mx.float32)
            elif path.endswith("conv1d.weight"):
                value = value.swapaxes(1, 2)  # [channels, 1, kernel] to [channels, kernel, 1]
            elif path.endswith("patch_embedding.weight"):
                value = value.transpose(0, 2, 3, 1)  # [out, channels, p, p] to [out, p, p, channels]
        out[path] = value
    return out


def official_weights(parameters: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The inverse of `rename_weights`: the module tree's parameters as an official checkpoint stores them.

    Norm weights stay float32, in which taking the one off and adding it again changes nothing.
    """
    out: dict[str, mx.array] = {}
    for path, value in parameters.items():
        if _OFFSET_NORM.search(path):
            value = value.astype(mx.float32) - 1
        elif path.endswith("conv1d.weight"):
            value = value.swapaxes(1, 2)
        elif path.endswith("patch_embedding.weight"):
            value = value.transpose(0, 3, 1, 2)
        out[official_name(path)] = value
    return out


def official_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a parameter of the module tree has in an official checkpoint."""
    if path.endswith("conv1d.weight"):
        channels, kernel, inputs = shape
        return channels, inputs, kernel
    if path.endswith("patch_embedding.weight"):
        outputs, rows, columns, channels = shape
        return outputs, channels, rows, columns
    return shape


def official_name(path: str) -> str:
    """The name of a module tree's parameter in an official checkpoint."""
    for official, own in PREFIXES.items():
        if path.startswith(own):
            return official + path[len(own) :]
    raise ValueError(f"{path} has no name in the official layout")
