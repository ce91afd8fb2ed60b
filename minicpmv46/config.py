"""Configuration of MiniCPM-V 4.6 as frozen dataclasses, read from a checkpoint's `config.json`.

Keys that a checkpoint leaves out take the defaults of the official configuration classes (transformers
`models/minicpmv4_6`, `models/qwen3_5`). A value that this code does not implement raises `ValueError` with its
name; so does a key that is neither known nor on the list of those that do not change the computation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from .checks import names, one_of, quote

MODEL_TYPE = "minicpmv4_6"

DownsampleMode = Literal["4x", "16x"]
LayerType = Literal["linear_attention", "full_attention"]
DOWNSAMPLE_MODES: tuple[DownsampleMode, ...] = ("4x", "16x")

_ConfigT = TypeVar("_ConfigT")

# Keys that change nothing here. First what transformers and mlx-vlm write into any section.
_GENERIC = frozenset(
    (
        *("architectures", "attention_dropout", "attn_implementation", "bos_token_id", "chunk_size_feed_forward"),
        *("dropout", "dtype", "eos_token_id", "finetuning_task", "hidden_dropout", "id2label", "initializer_range"),
        *("is_encoder_decoder", "label2id", "model_type", "output_attentions", "output_hidden_states"),
        *("pad_token_id", "problem_type", "return_dict", "torch_dtype", "transformers_version", "use_cache"),
        *("decoder_start_token_id", "sep_token_id", "prefix", "task_specific_params", "tokenizer_class"),
        *("is_decoder", "add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder"),
        *("pruned_heads", "torchscript", "use_bfloat16", "tf_legacy_loss"),
    )
)
# Heads for drafting (`mtp_*`) are not part of the model; the state of the delta nets is float32 always.
_TEXT = frozenset(
    (
        *("attn_output_gate", "full_attention_interval", "hidden_act", "mamba_ssm_dtype", "mlp_only_layers"),
        *("rope_parameters", "rope_scaling", "tie_word_embeddings"),
    )
)
# Position ids are the same on all three axes here, so sections and interleaving of MRoPE change nothing.
_ROPE = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
# The root's sizes repeat those of the vision section; quantization is mlx-vlm's, and sampling is generation's.
_ROOT = frozenset(
    (
        *("auto_map", "drop_vision_last_layer", "image_size", "insert_layer_id", "patch_size", "quantization"),
        *("quantization_config", "vision_start_token_id", "vision_end_token_id", "image_token_index"),
        *("video_token_index", "do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "max_length"),
        *("generation_config", "max_new_tokens", "min_p", "presence_penalty", "frequency_penalty"),
        *("language_model_only", "version"),
    )
)


def _require(config: str, params: Mapping[str, Any], name: str, *supported: object) -> None:
    """Raise if `params` sets `name` to anything but one of the `supported` values."""
    if name in params and params[name] not in supported:
        raise ValueError(
            f"{config}.{name} = {quote(params[name])} is not supported; supported: {', '.join(map(repr, supported))}"
        )


def _pair(config: str, name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{config}.{name} must be a pair of integers, not {quote(value)}")
    return int(value[0]), int(value[1])


def _token_ids(config: str, name: str, value: object) -> tuple[int, ...]:
    """The ids of one integer, a list of them, or None."""
    ids = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    if not all(isinstance(i, int) for i in ids):
        raise ValueError(f"{config}.{name} must be an integer or a list of integers, not {quote(value)}")
    return tuple(ids)


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
    """SigLIP2 encoder with the window-attention merger; defaults of `MiniCPMV4_6VisionConfig`."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    layer_norm_eps: float = 1e-6
    insert_layer_id: int = 6
    window_kernel_size: tuple[int, int] = (2, 2)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"vision_config.hidden_size = {self.hidden_size} is not divisible by "
                f"num_attention_heads = {self.num_attention_heads}"
            )
        if self.window_kernel_size != (2, 2):
            raise ValueError(
                f"vision_config.window_kernel_size = {self.window_kernel_size} is not supported; supported: (2, 2)"
            )

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> VisionConfig:
        """Build from the `vision_config` section; raises `ValueError` for unsupported values."""
        _require("vision_config", params, "model_type", "minicpmv4_6_vision")
        _require("vision_config", params, "hidden_act", "gelu_pytorch_tanh")
        known = _known("vision_config", cls, params, _GENERIC | {"hidden_act"})
        if "window_kernel_size" in known:
            known["window_kernel_size"] = _pair("vision_config", "window_kernel_size", known["window_kernel_size"])
        for name in ("image_size", "patch_size"):
            if not isinstance(known.get(name, 0), int):
                raise ValueError(
                    f"vision_config.{name} = {quote(known[name])} is not supported; supported: one integer"
                )
        return cls(**known)

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

    vocab_size: int = 248320
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 256
    attention_bias: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 0.25
    linear_conv_kernel_dim: int = 4
    linear_key_head_dim: int = 128
    linear_value_head_dim: int = 128
    linear_num_key_heads: int = 16
    linear_num_value_heads: int = 32
    layer_types: tuple[LayerType, ...] = ()
    max_position_embeddings: int = 32768

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"text_config.num_attention_heads = {self.num_attention_heads} is not divisible by "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise ValueError(
                f"text_config.linear_num_value_heads = {self.linear_num_value_heads} is not divisible by "
                f"linear_num_key_heads = {self.linear_num_key_heads}"
            )
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"text_config.layer_types has {len(self.layer_types)} entries for "
                f"num_hidden_layers = {self.num_hidden_layers}"
            )
        for i, layer_type in enumerate(self.layer_types):
            if layer_type not in ("linear_attention", "full_attention"):
                raise ValueError(
                    f"text_config.layer_types[{i}] = {quote(layer_type)} is not supported; "
                    "supported: 'linear_attention', 'full_attention'"
                )

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> TextConfig:
        """Build from the `text_config` section; raises `ValueError` for unsupported values."""
        _require("text_config", params, "model_type", "qwen3_5_text")
        _require("text_config", params, "hidden_act", "silu")
        _require("text_config", params, "attn_output_gate", True)
        _require("text_config", params, "mlp_only_layers", [], (), None)
        known = _known("text_config", cls, params, _GENERIC | _TEXT)

        rope = params.get("rope_parameters") or params.get("rope_scaling") or {}
        if unknown := [name for name, value in rope.items() if value is not None and name not in _ROPE]:
            raise ValueError(f"text_config.rope_parameters has {names(unknown)}, which this model does not know")
        _require("text_config.rope_parameters", rope, "rope_type", "default")
        _require("text_config.rope_parameters", rope, "type", "default", "mrope")
        for name in ("rope_theta", "partial_rotary_factor"):
            if name in rope:
                known[name] = rope[name]

        layers = known.get("num_hidden_layers", cls.num_hidden_layers)
        if params.get("layer_types") is None:
            interval = params.get("full_attention_interval") or 4
            known["layer_types"] = tuple(
                "linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)
            )
        else:
            known["layer_types"] = tuple(params["layer_types"])
        return cls(**known)

    @property
    def rotary_dim(self) -> int:
        """Leading components of each attention head that are rotated."""
        return int(self.head_dim * self.partial_rotary_factor)


@dataclass(frozen=True)
class MiniCPMV46Config:
    """The whole model; defaults of `MiniCPMV4_6Config`."""

    text_config: TextConfig
    vision_config: VisionConfig
    image_token_id: int
    video_token_id: int | None = None
    tie_word_embeddings: bool = False
    downsample_mode: DownsampleMode = "16x"
    merge_kernel_size: tuple[int, int] = (2, 2)
    merger_times: int = 1
    eos_token_id: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        one_of(*DOWNSAMPLE_MODES)("downsample_mode", self.downsample_mode)
        vision = self.vision_config
        if not 0 <= vision.insert_layer_id < vision.num_hidden_layers:
            raise ValueError(
                f"insert_layer_id = {vision.insert_layer_id} must name one of the "
                f"{vision.num_hidden_layers} layers of the vision encoder"
            )
        if self.merge_kernel_size != (2, 2):
            raise ValueError(f"merge_kernel_size = {self.merge_kernel_size} is not supported; supported: (2, 2)")
        if self.merger_times < 1:
            raise ValueError(f"merger_times = {self.merger_times} must be at least 1")

    @classmethod
    def from_dict(cls, params: Mapping[str, Any]) -> MiniCPMV46Config:
        """Build from a whole `config.json`.

        Raises:
            ValueError: `model_type` is another model's, a placeholder id is missing, or a value is unsupported.
        """
        if params.get("model_type") != MODEL_TYPE:
            raise ValueError(f"config.json has model_type {quote(params.get('model_type'))}, expected {MODEL_TYPE!r}")
        _require("config", params, "drop_vision_last_layer", False)
        if not isinstance(params.get("image_token_id"), int):
            raise ValueError(
                f"config.json needs an integer image_token_id, found {quote(params.get('image_token_id'))}"
            )
        if not isinstance(params.get("video_token_id"), int | None):
            raise ValueError(
                f"config.json needs an integer video_token_id or none, found {quote(params['video_token_id'])}"
            )
        known = _known("config.json", cls, params, _GENERIC | _ROOT)
        # The root's insert_layer_id replaces the vision section's, as in the official configuration class.
        vision = {**(params.get("vision_config") or {}), "insert_layer_id": params.get("insert_layer_id", 6)}
        known["vision_config"] = VisionConfig.from_dict(vision)
        known["text_config"] = TextConfig.from_dict(params.get("text_config") or {})
        if "merge_kernel_size" in known:
            known["merge_kernel_size"] = _pair("config", "merge_kernel_size", known["merge_kernel_size"])
        known["eos_token_id"] = _token_ids("config", "eos_token_id", params.get("eos_token_id"))
        return cls(**known)
