"""Configuration of a model as frozen dataclasses, read from a checkpoint's `config.json`.

Keys that a checkpoint leaves out take the defaults of the official configuration classes (transformers
`models/minicpmv4_6`, `models/minicpm_ocr`, `models/qwen3_5`); where the models differ, they are in `siblings.py`. Each
field has the check of its type and range beside it. A value that this code does not implement raises `ValueError` with
its name; so does a key that is neither known nor on the list of those that do not change the computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar

from .checks import names, one_of, option, optional, quote, switch
from .config_keys import GENERIC, GENERIC_CHECKS, PIXELS, ROOT, ROOT_CHECKS, ROPE, TEXT, TEXT_CHECKS
from .schema import (
    check_fields,
    check_values,
    exactly,
    number,
    pair,
    section,
    size,
    texts,
    token_id,
    token_ids,
)
from .siblings import DOWNSAMPLE_MODES, MINICPM_V_4_6, SIBLINGS, DownsampleMode, Sibling

LayerType = Literal["linear_attention", "full_attention"]

_ConfigT = TypeVar("_ConfigT")
_VISION_TYPES = [sibling.vision_model_type for sibling in SIBLINGS.values()]

# Ceilings, far above the real sizes (widths to 4,096, 32 layers, 248,320 tokens).
_WIDTH, _HEADS, _LAYERS, _VOCABULARY = size(65_536), size(1024), size(1024), size(2**24)
# Below 1e-30 float32 has nothing left to add.
_EPS = number(1e-30, 1)
_ROPE_THETA = number(1, 1e15)
_ROTARY_FACTOR = number(1e-3, 1)


def _supported(config: str, params: Mapping[str, Any], name: str, *supported: object) -> None:
    """Raise if `params` sets `name` to anything but one of the `supported` values."""
    if name in params:
        exactly(f"{config}.{name}", params[name], supported)


def _known(config: str, cls: type[_ConfigT], params: Mapping[str, Any], harmless: frozenset[str]) -> dict[str, Any]:
    """The entries of `params` that `cls` has a field for.

    Raises:
        ValueError: a key has a value, is not a field, and is not known to be harmless; it might change the computation.
    """
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    unknown = [name for name, value in params.items() if value not in (None, {}, []) and name not in known | harmless]
    if unknown := [name for name in unknown if not name.startswith(("_", "mtp_"))]:
        raise ValueError(f"{config} has {names(unknown)}, which this model does not know and which may change it")
    return {name: value for name, value in params.items() if name in known}


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP2 encoder with the window-attention merger; defaults of the official vision configurations."""

    hidden_size: int = option(768, _WIDTH)
    intermediate_size: int = option(3072, _WIDTH)
    num_hidden_layers: int = option(12, _LAYERS)
    num_attention_heads: int = option(12, _HEADS)
    num_channels: int = option(3, size(3, 3))
    image_size: int = option(224, PIXELS)
    patch_size: int = option(16, PIXELS)
    layer_norm_eps: float = option(1e-6, _EPS)
    insert_layer_id: int = option(6, size(1023, 0))
    window_kernel_size: tuple[int, int] = option((2, 2), pair(2, 2))
    model_type: str = option(MINICPM_V_4_6.vision_model_type, one_of(*_VISION_TYPES))

    def __post_init__(self) -> None:
        check_fields(self, "vision_config.")
        _check_divisible("vision_config", self, "hidden_size", "num_attention_heads")
        if not 1 <= self.num_patches_per_side <= 4096:
            raise ValueError(
                f"vision_config.image_size = {self.image_size} and patch_size = {self.patch_size} make a table of "
                f"{self.num_patches_per_side} positions a side; supported: 1 to 4,096"
            )

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> VisionConfig:
        """Build from the `vision_config` section; raises `ValueError` for unsupported values."""
        section("vision_config", params)
        _supported("vision_config", params, "hidden_act", "gelu_pytorch_tanh")
        check_values(params, GENERIC_CHECKS, "vision_config.")
        return cls(**_known("vision_config", cls, params, GENERIC | {"hidden_act"}))

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def num_patches_per_side(self) -> int:
        """Side of the square table of learned position embeddings."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class TextConfig:
    """Qwen3.5 hybrid decoder; defaults of `Qwen3_5TextConfig`."""

    model_type: ClassVar[str] = "qwen3_5_text"

    vocab_size: int = option(248320, _VOCABULARY)
    hidden_size: int = option(4096, _WIDTH)
    intermediate_size: int = option(12288, size(2**20))
    num_hidden_layers: int = option(32, _LAYERS)
    num_attention_heads: int = option(16, _HEADS)
    num_key_value_heads: int = option(4, _HEADS)
    head_dim: int = option(256, size(8192))
    attention_bias: bool = option(False, switch)
    rms_norm_eps: float = option(1e-6, _EPS)
    rope_theta: float = option(10000.0, _ROPE_THETA)
    partial_rotary_factor: float = option(0.25, _ROTARY_FACTOR)
    linear_conv_kernel_dim: int = option(4, size(64))
    linear_key_head_dim: int = option(128, size(8192))
    linear_value_head_dim: int = option(128, size(8192))
    linear_num_key_heads: int = option(16, _HEADS)
    linear_num_value_heads: int = option(32, _HEADS)
    layer_types: tuple[LayerType, ...] = ()
    max_position_embeddings: int = option(32768, size(2**31 - 1))

    def __post_init__(self) -> None:
        check_fields(self, "text_config.")
        _check_divisible("text_config", self, "num_attention_heads", "num_key_value_heads")
        _check_divisible("text_config", self, "linear_num_value_heads", "linear_num_key_heads")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(
                f"text_config.partial_rotary_factor = {self.partial_rotary_factor} rotates {self.rotary_dim} of "
                f"head_dim = {self.head_dim} components; it must be an even number of them, and some"
            )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"text_config.layer_types has {len(self.layer_types)} entries for "
                f"num_hidden_layers = {self.num_hidden_layers}"
            )
        for i, layer_type in enumerate(self.layer_types):
            exactly(f"text_config.layer_types[{i}]", layer_type, ("linear_attention", "full_attention"))

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> TextConfig:
        """Build from the `text_config` section; raises `ValueError` for unsupported values."""
        section("text_config", params)
        _supported("text_config", params, "model_type", cls.model_type)
        _supported("text_config", params, "hidden_act", "silu")
        _supported("text_config", params, "attn_output_gate", True)
        _supported("text_config", params, "mlp_only_layers", [], (), None)
        _supported("text_config", params, "quantization_config", None)
        check_values(params, {**GENERIC_CHECKS, **TEXT_CHECKS}, "text_config.")
        known = {**_known("text_config", cls, params, GENERIC | TEXT), **_rope(params)}

        layers = known.get("num_hidden_layers", cls.num_hidden_layers)
        if params.get("layer_types") is None:
            interval = params.get("full_attention_interval") or 4
            known["layer_types"] = tuple(
                "linear_attention" if (i + 1) % interval else "full_attention"
                for i in range(_LAYERS("text_config.num_hidden_layers", layers))
            )
        else:
            known["layer_types"] = texts("text_config.layer_types", params["layer_types"])
        return cls(**known)

    @property
    def rotary_dim(self) -> int:
        """Leading components of each attention head that are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)


@dataclass(frozen=True)
class Config:
    """The whole model; `from_dict` has the defaults of each of the official configurations."""

    model_type: str = field(metadata={"check": one_of(*SIBLINGS)})
    text_config: TextConfig
    vision_config: VisionConfig
    image_token_id: int = field(metadata={"check": token_id})
    tie_word_embeddings: bool = field(metadata={"check": switch})
    downsample_mode: DownsampleMode = field(metadata={"check": one_of(*DOWNSAMPLE_MODES)})
    video_token_id: int | None = option(None, optional(token_id))
    merge_kernel_size: tuple[int, int] = option((2, 2), pair(2, 2))
    merger_times: int = option(1, size(8))
    eos_token_id: tuple[int, ...] = option((), token_ids)

    @property
    def sibling(self) -> Sibling:
        """What tells this model from the others."""
        return SIBLINGS[self.model_type]

    def __post_init__(self) -> None:
        check_fields(self, "")
        vision = self.vision_config
        if vision.insert_layer_id >= vision.num_hidden_layers:
            raise ValueError(
                f"insert_layer_id = {vision.insert_layer_id} must name one of the "
                f"{vision.num_hidden_layers} layers of the vision encoder"
            )
        for name in ("image_token_id", "video_token_id"):
            if (getattr(self, name) or 0) >= self.text_config.vocab_size:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is not in text_config.vocab_size = {self.text_config.vocab_size}"
                )
        if self.image_token_id == self.video_token_id:
            raise ValueError(f"image_token_id and video_token_id are both {self.image_token_id}")

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> Config:
        """Build from a whole `config.json`.

        Raises:
            ValueError: `model_type` is another model's, a placeholder id is missing, or a value is unsupported.
        """
        found = params.get("model_type")
        sibling = SIBLINGS.get(found) if isinstance(found, str) else None
        if sibling is None:
            raise ValueError(f"config.json has model_type {quote(found)}, expected {' or '.join(map(repr, SIBLINGS))}")
        if "model_file" in params:
            raise ValueError(
                f"config.json has model_file = {quote(params['model_file'])}, which would run that file; this model "
                "needs no code of a checkpoint: remove the key"
            )
        _supported("config", params, "drop_vision_last_layer", False)
        # By these mlx-vlm takes a folder for another model's, whatever its type.
        _supported("config", params, "dflash_config", None)
        classes = texts("architectures", params.get("architectures") or ())
        if others := [name for name in classes if "MiniCPMV" not in name and sibling.class_prefix not in name]:
            raise ValueError(f"architectures has {names(others)}, which is another model's")
        if type(params.get("image_token_id")) is not int:
            raise ValueError(
                f"config.json needs an integer image_token_id, found {quote(params.get('image_token_id'))}"
            )
        check_values(params, {**GENERIC_CHECKS, **ROOT_CHECKS}, "")
        known = _known("config.json", cls, params, GENERIC | ROOT)
        # The root's insert_layer_id replaces the vision section's, as in the official configuration class.
        insert_layer_id = size(1023, 0)("insert_layer_id", params.get("insert_layer_id", 6))
        vision_params = section("vision_config", params.get("vision_config", {}))
        _supported("vision_config", vision_params, "model_type", sibling.vision_model_type)
        vision = VisionConfig.from_dict({**vision_params, "model_type": sibling.vision_model_type})
        known["vision_config"] = replace(vision, insert_layer_id=insert_layer_id)
        known["text_config"] = TextConfig.from_dict(section("text_config", params.get("text_config", {})))
        known["eos_token_id"] = params.get("eos_token_id")
        known.setdefault("tie_word_embeddings", sibling.tie_word_embeddings)
        known.setdefault("downsample_mode", sibling.downsample_mode)
        return cls(**known)


def _rope(params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the text section's `rope_parameters`, or of the older `rope_scaling`, that are fields."""
    name = "rope_scaling" if params.get("rope_parameters") is None else "rope_parameters"
    if params.get(name) is None:
        return {}
    prefix = f"text_config.{name}"
    rope = section(prefix, params[name])
    if unknown := [key for key, value in rope.items() if value is not None and key not in ROPE]:
        raise ValueError(f"{prefix} has {names(unknown)}, which this model does not know")
    _supported(prefix, rope, "rope_type", "default")
    _supported(prefix, rope, "type", "default", "mrope")
    checks = {"rope_theta": _ROPE_THETA, "partial_rotary_factor": _ROTARY_FACTOR}
    return {key: check(f"{prefix}.{key}", rope[key]) for key, check in checks.items() if key in rope}


def _check_divisible(config: str, values: Any, whole: str, part: str) -> None:
    if getattr(values, whole) % getattr(values, part):
        raise ValueError(
            f"{config}.{whole} = {getattr(values, whole)} is not divisible by {part} = {getattr(values, part)}"
        )
