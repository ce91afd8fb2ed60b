"""A folder's weights in this project's model, without mlx-vlm."""

import json
from pathlib import Path

import mlx.core as mx

from minicpmv46.model import Model
from minicpmv46.plugin.model_config import ModelConfig


def load_model(folder: Path) -> Model:
    """Weights of a folder in this project's model, in float32."""
    model = Model(ModelConfig.from_dict(json.loads((folder / "config.json").read_text())))
    weights: dict[str, mx.array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(mx.load(str(file)))
    model.load_weights(list(model.sanitize(weights).items()), strict=True)
    model.set_dtype(mx.float32)
    return model
