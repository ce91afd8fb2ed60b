"""What `mlx_vlm.convert` writes for our checkpoints.

Plain weights are written in the official layout, which transformers, mlx-vlm's own port and we read; quantized ones
in the mlx-community layout, which has names for scales.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from minicpmv46.model import Model
from minicpmv46.quantization import Form, asked_for
from minicpmv46.shards import read_header, weight_files
from minicpmv46.weights import official_weights

QUANTIZATION_KEYS = ("quantization", "quantization_config")


def quantize_model(
    original: Callable[..., Any],
    model: Model,
    config: dict[str, Any],
    group_size: int | None,
    bits: int | None,
    mode: str = "affine",
    *args: Any,
    **kwargs: Any,
) -> Any:
    """`mlx_vlm.quant_utils.quantize_model`, which says nothing to a model's `quant_predicate` of what was asked for."""
    from mlx_vlm.quant_utils import get_quantization_params

    with asked_for(Form(**get_quantization_params(group_size, bits, mode or "affine"))):
        return original(model, config, group_size, bits, mode, *args, **kwargs)


def save_weights(
    original: Callable[..., None], save_path: str | Path, model: Model, *, donate_weights: bool = False
) -> None:
    """`mlx_vlm.utils.save_weights` for our model.

    Raises:
        ValueError: the converter, which donates the weights, would write over the folder that it converts; it fails
            there later on, when the weights are replaced and `config.json` still describes the old ones.
    """
    source = getattr(model, "model_path", None)
    if donate_weights and source is not None and Path(save_path).resolve() == Path(source).resolve():
        raise ValueError(f"{save_path} is the folder that the model is read from; convert into another one")
    if _has_scales(dict(tree_flatten(model.parameters()))):
        original(save_path, model, donate_weights=donate_weights)
        return
    stored = nn.Module()
    for name, tree in tree_unflatten(list(official_weights(dict(tree_flatten(model.parameters()))).items())).items():
        stored[name] = tree
    if donate_weights:
        model.update(tree_map(lambda _: mx.array([]), model.parameters()))
    original(save_path, stored, donate_weights=True)


def save_config(original: Callable[..., None], config: dict[str, Any], config_path: str | Path) -> None:
    """`mlx_vlm.utils.save_config` for our checkpoints: no word of quantization beside weights that have none.

    mlx-vlm leaves it standing after dequantization.
    """
    folder = Path(config_path).parent
    if any(folder.glob("*.safetensors")):
        names = (name for file in weight_files(folder) for name in read_header(file))
        if not _has_scales(names):
            config = {name: value for name, value in config.items() if name not in QUANTIZATION_KEYS}
    original(config, config_path)


def _has_scales(names: Any) -> bool:
    return any(name.endswith(".scales") for name in names)
