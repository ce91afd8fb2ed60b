"""The configuration object that mlx-vlm reads and writes.

mlx-vlm sets attributes on it after construction (stop tokens, sampling defaults, re-parsed sections), so it is an
ordinary object; the model itself is built from the frozen `architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minicpmv46.config import Config, TextConfig, VisionConfig

__all__ = ["ModelConfig", "TextConfig", "VisionConfig"]


class ModelConfig:
    """What mlx-vlm asks of `model.config`.

    Attributes:
        architecture: the frozen configuration.
        text_config, vision_config: its sections.
        image_token_id, video_token_id: placeholders; mlx-vlm's prompt caches look for them.
        eos_token_id: stop tokens, from `generation_config.json` where there is one.
    """

    def __init__(self, architecture: Config, params: Mapping[str, Any]) -> None:
        self.model_type = architecture.model_type
        self.architecture = architecture
        self.text_config = architecture.text_config
        self.vision_config = architecture.vision_config
        self.image_token_id = architecture.image_token_id
        self.video_token_id = architecture.video_token_id
        self.vocab_size = architecture.text_config.vocab_size
        self.eos_token_id: int | list[int] | None = params.get("eos_token_id")
        self.quantization: dict[str, Any] | None = params.get("quantization")

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> ModelConfig:
        """Read a `config.json`; raises `ValueError` for what this model does not support."""
        return cls(Config.from_dict(params), params)

    def to_dict(self) -> dict[str, Any]:
        """Attributes that are set, for mlx-vlm's own use."""
        return {name: value for name, value in vars(self).items() if value is not None}
