"""Small random checkpoints in the official layout, made without torch, so that tests need no download.

Every tensor comes from a legacy `RandomState` seeded by the tensor's name: the bytes are the same on every
machine and do not move when another tensor is added. All norm weights and biases are random too (a skipped
bias or a forgotten `1 + w` would not show on the usual ones and zeros), and the scales keep activations near
one and greedy arg-max margins wide. The tokenizer is a real byte-level BPE with the model family's added
tokens in the official order, only with few merges.
"""

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1] / "data"

VOCAB_SIZE = 512  # 256 bytes, 206 merges and the 50 added tokens: exactly the tokenizer's size
ENDOFTEXT, IM_START, IM_END = 462, 463, 464
IMAGE_PAD, VIDEO_PAD = 474, 475
STOP_TOKENS = (ENDOFTEXT, IM_END)
PIXEL_VALUES_PER_PATCH = 14 * 14 * 3


@dataclass(frozen=True)
class Variant:
    """Model and sizes of one small checkpoint; the defaults are the base variant."""

    model_type: str = "minicpmv4_6"
    seed: int = 46
    dtype: str = "float32"
    tied: bool = True
    hidden: int = 64
    intermediate: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    key_heads: int = 2
    value_heads: int = 2
    key_dim: int = 32
    value_dim: int = 32
    vision_hidden: int = 64
    vision_intermediate: int = 128
    vision_layers: int = 3
    vision_heads: int = 4
    insert_layer: int = 1

    @property
    def layer_types(self) -> list[str]:
        return ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(self.layers)]


_BASE = Variant()
VARIANTS = {
    "base": _BASE,
    "value_heads": replace(_BASE, seed=47, value_heads=4),
    "untied": replace(_BASE, seed=48, tied=False, layers=8, value_dim=64, insert_layer=0, vision_heads=2),
    "bf16": replace(_BASE, dtype="bfloat16"),
    "ocr": replace(_BASE, model_type="minicpm_ocr", seed=49, value_heads=4),
    "ocr_recorded": replace(_BASE, model_type="minicpm_ocr", seed=47, value_heads=4),
}
# How the names of each model's classes in transformers begin, and the token mode of its processor.
CLASSES = {"minicpmv4_6": "MiniCPMV4_6", "minicpm_ocr": "MiniCPMOcr"}
MODES = {"minicpmv4_6": "16x", "minicpm_ocr": "4x"}

# (shape, kind of values); the kinds are the branches of _draw.
_Spec = tuple[tuple[int, ...], str]


def tensor_specs(v: Variant) -> dict[str, _Spec]:
    """Official names and shapes of every tensor, as transformers' save_pretrained writes them."""
    specs: dict[str, _Spec] = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        specs[f"{name}.weight"] = ((outputs, inputs), "linear")
        if bias:
            specs[f"{name}.bias"] = ((outputs,), "bias")

    def layer_norm(name: str, size: int) -> None:
        specs[f"{name}.weight"] = ((size,), "scale")
        specs[f"{name}.bias"] = ((size,), "bias")

    def vision_attention(name: str) -> None:
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{name}.{projection}", v.vision_hidden, v.vision_hidden)

    tower = "model.vision_tower"
    specs[f"{tower}.embeddings.patch_embedding.weight"] = ((v.vision_hidden, 3, 14, 14), "linear")
    specs[f"{tower}.embeddings.patch_embedding.bias"] = ((v.vision_hidden,), "bias")
    specs[f"{tower}.embeddings.position_embedding.weight"] = ((70 * 70, v.vision_hidden), "embedding")
    for i in range(v.vision_layers):
        layer = f"{tower}.encoder.layers.{i}"
        layer_norm(f"{layer}.layer_norm1", v.vision_hidden)
        vision_attention(f"{layer}.self_attn")
        layer_norm(f"{layer}.layer_norm2", v.vision_hidden)
        linear(f"{layer}.mlp.fc1", v.vision_intermediate, v.vision_hidden)
        linear(f"{layer}.mlp.fc2", v.vision_hidden, v.vision_intermediate)
    layer_norm(f"{tower}.post_layernorm", v.vision_hidden)
    layer_norm(f"{tower}.vit_merger.layer_norm1", v.vision_hidden)
    vision_attention(f"{tower}.vit_merger.self_attn")
    layer_norm(f"{tower}.vit_merger.pre_norm", 4 * v.vision_hidden)
    linear(f"{tower}.vit_merger.linear_1", 4 * v.vision_intermediate, 4 * v.vision_hidden)
    linear(f"{tower}.vit_merger.linear_2", v.vision_hidden, 4 * v.vision_intermediate)

    layer_norm("model.merger.mlp.0.pre_norm", 4 * v.vision_hidden)
    linear("model.merger.mlp.0.linear_1", 4 * v.vision_hidden, 4 * v.vision_hidden)
    linear("model.merger.mlp.0.linear_2", v.hidden, 4 * v.vision_hidden)

    text = "model.language_model"
    specs[f"{text}.embed_tokens.weight"] = ((VOCAB_SIZE, v.hidden), "embedding")
    keys, values = v.key_heads * v.key_dim, v.value_heads * v.value_dim
    for i, layer_type in enumerate(v.layer_types):
        layer = f"{text}.layers.{i}"
        specs[f"{layer}.input_layernorm.weight"] = ((v.hidden,), "shift")
        if layer_type == "full_attention":
            attention = f"{layer}.self_attn"
            linear(f"{attention}.q_proj", 2 * v.heads * v.head_dim, v.hidden, bias=False)
            linear(f"{attention}.k_proj", v.kv_heads * v.head_dim, v.hidden, bias=False)
            linear(f"{attention}.v_proj", v.kv_heads * v.head_dim, v.hidden, bias=False)
            specs[f"{attention}.o_proj.weight"] = ((v.hidden, v.heads * v.head_dim), "attention_output")
            specs[f"{attention}.q_norm.weight"] = ((v.head_dim,), "shift")
            specs[f"{attention}.k_norm.weight"] = ((v.head_dim,), "shift")
        else:
            delta = f"{layer}.linear_attn"
            specs[f"{delta}.A_log"] = ((v.value_heads,), "decay")
            specs[f"{delta}.dt_bias"] = ((v.value_heads,), "step")
            specs[f"{delta}.conv1d.weight"] = ((2 * keys + values, 1, 4), "linear")
            linear(f"{delta}.in_proj_a", v.value_heads, v.hidden, bias=False)
            linear(f"{delta}.in_proj_b", v.value_heads, v.hidden, bias=False)
            linear(f"{delta}.in_proj_qkv", 2 * keys + values, v.hidden, bias=False)
            linear(f"{delta}.in_proj_z", values, v.hidden, bias=False)
            specs[f"{delta}.norm.weight"] = ((v.value_dim,), "scale")
            linear(f"{delta}.out_proj", v.hidden, values, bias=False)
        specs[f"{layer}.post_attention_layernorm.weight"] = ((v.hidden,), "shift")
        linear(f"{layer}.mlp.gate_proj", v.intermediate, v.hidden, bias=False)
        linear(f"{layer}.mlp.up_proj", v.intermediate, v.hidden, bias=False)
        linear(f"{layer}.mlp.down_proj", v.hidden, v.intermediate, bias=False)
    specs[f"{text}.norm.weight"] = ((v.hidden,), "shift")
    if not v.tied:
        specs["lm_head.weight"] = ((VOCAB_SIZE, v.hidden), "embedding")
    return specs


def _draw(name: str, shape: tuple[int, ...], kind: str, seed: int) -> np.ndarray:
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0x7FFFFFFF)
    noise = random.standard_normal(shape)
    if kind == "linear":
        value = noise * 1.25 / np.sqrt(np.prod(shape[1:]))
    elif kind == "attention_output":  # louder: attention over random values averages them away
        value = noise * 3 / np.sqrt(shape[1])
    elif kind == "embedding":
        value = noise * 0.5
    elif kind == "bias":
        value = noise * 0.1
    elif kind == "scale":  # a norm weight that is used as stored
        value = 1 + noise * 0.2
    elif kind == "shift":  # a norm weight that is used as 1 + w
        value = 0.1 + noise * 0.2
    elif kind == "decay":  # log A: slow heads (decay about 0.97 a token) beside fast ones (about 0.2)
        slow = np.arange(shape[0]) % 2 == 0
        value = np.where(slow, np.log(0.03), np.log(1.5)) + noise * 0.4
    elif kind == "step":
        value = 0.5 + noise * 0.5
    else:
        raise ValueError(f"unknown kind of tensor: {kind}")
    return value.astype(np.float32)


def weights(variant: str = "base") -> dict[str, np.ndarray]:
    """Float32 weights under their official names (the bf16 variant is rounded only when stored)."""
    v = VARIANTS[variant]
    return {name: _draw(name, shape, kind, v.seed) for name, (shape, kind) in tensor_specs(v).items()}


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Finite float32 values rounded to nearest even bfloat16, as uint16 bit patterns."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def save_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    """Write float32 arrays as a safetensors file of `dtype`; by hand because numpy has no bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, offset = [], 0
    for name in sorted(tensors):
        x = tensors[name]
        blob = (bfloat16_bits(x) if dtype == "bfloat16" else x.astype("<f4")).tobytes()
        header[name] = {
            "dtype": {"bfloat16": "BF16", "float32": "F32"}[dtype],
            "shape": list(x.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(blobs))


def config(variant: str = "base") -> dict[str, Any]:
    """`config.json` of a variant, with the official file's keys."""
    v = VARIANTS[variant]
    of_4_6 = v.model_type == "minicpmv4_6"
    return {
        "architectures": [f"{CLASSES[v.model_type]}ForConditionalGeneration"],
        "bos_token_id": None,
        **({"drop_vision_last_layer": False} if of_4_6 else {"downsample_mode": MODES[v.model_type]}),
        "dtype": v.dtype,
        "eos_token_id": ENDOFTEXT,
        **({"image_size": 1120} if of_4_6 else {}),
        "image_token_id": IMAGE_PAD,
        "insert_layer_id": v.insert_layer,
        "merge_kernel_size": [2, 2],
        "merger_times": 1,
        "model_type": v.model_type,
        "pad_token_id": None,
        "patch_size": 14,
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "bos_token_id": None,
            "dtype": v.dtype,
            "eos_token_id": None,
            "full_attention_interval": 4,
            "head_dim": v.head_dim,
            "hidden_act": "silu",
            "hidden_size": v.hidden,
            "initializer_range": 0.02,
            "intermediate_size": v.intermediate,
            "layer_types": v.layer_types,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": v.key_dim,
            "linear_num_key_heads": v.key_heads,
            "linear_num_value_heads": v.value_heads,
            "linear_value_head_dim": v.value_dim,
            "mamba_ssm_dtype": "float32",
            "max_position_embeddings": 262144,
            "mlp_only_layers": [],
            "model_type": "qwen3_5_text",
            "mtp_num_hidden_layers": 1,
            "mtp_use_dedicated_embeddings": False,
            "num_attention_heads": v.heads,
            "num_hidden_layers": v.layers,
            "num_key_value_heads": v.kv_heads,
            "pad_token_id": None,
            "partial_rotary_factor": 0.25,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000000,
                "rope_type": "default",
            },
            "tie_word_embeddings": v.tied,
            "use_cache": True,
            "vocab_size": VOCAB_SIZE,
        },
        "tie_word_embeddings": v.tied,
        "transformers_version": "5.7.0",
        "video_token_id": VIDEO_PAD,
        "vision_config": {
            "attention_dropout": 0.0,
            "dtype": v.dtype,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": v.vision_hidden,
            "image_size": 980,
            "insert_layer_id": v.insert_layer,
            "intermediate_size": v.vision_intermediate,
            "layer_norm_eps": 1e-06,
            "model_type": f"{v.model_type}_vision",
            "num_attention_heads": v.vision_heads,
            "num_channels": 3,
            "num_hidden_layers": v.vision_layers,
            "patch_size": 14,
            "window_kernel_size": [2, 2],
        },
    }


def generation_config() -> dict[str, Any]:
    return {
        "bos_token_id": IM_START,
        "do_sample": True,
        "eos_token_id": list(STOP_TOKENS),
        "repetition_penalty": 1.0,
        "temperature": 0.7,
        "top_k": 0,
        "top_p": 1.0,
        "transformers_version": "5.7.0",
    }


def processor_config(variant: str = "base") -> dict[str, Any]:
    model_type = VARIANTS[variant].model_type
    prefix, upsize = CLASSES[model_type], {"small_image_upsize": "always"} if model_type == "minicpm_ocr" else {}
    shared = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "downsample_mode": MODES[model_type],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_slice_nums": 9,
        "patch_size": 14,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "scale_resolution": 448,
        "slice_mode": True,
        "use_image_id": True,
    }
    video = {
        "do_sample_frames": True,
        "max_num_frames": 128,
        "return_metadata": False,
        "stack_frames": 1,
        "video_processor_type": f"{prefix}VideoProcessor",
    }
    return {
        "image_processor": {**shared, **upsize, "image_processor_type": f"{prefix}ImageProcessor"},
        "processor_class": f"{prefix}Processor",
        "video_processor": {**shared, **video},
    }


def _tokenizer() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / "tokenizer.json").read_text(encoding="utf-8"))
    return content


def added_tokens() -> dict[str, bool]:
    """The official tokenizer's added tokens in their order; True for special ones."""
    return {token["content"]: token["special"] for token in _tokenizer()["added_tokens"]}


def tokenizer_config() -> dict[str, Any]:
    """`tokenizer_config.json` with the official file's keys; the regular expression is tokenizer.json's."""
    tokenizer = _tokenizer()
    media_tokens = {
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
        "audio_token": "<|audio_pad|>",
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    return {
        **media_tokens,
        "add_prefix_space": False,
        "backend": "tokenizers",
        "bos_token": "<|im_start|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "image_start_token": "<image>",
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
            "image_id_start_token": "<image_id>",
            "image_id_end_token": "</image_id>",
        },
        "is_local": True,
        "model_max_length": 262144,
        "model_specific_special_tokens": media_tokens,
        "pad_token": "<|endoftext|>",
        "pretokenize_regex": tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": "<unk>",
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_checkpoint(folder: Path, variant: str = "base", shards: int = 1) -> Path:
    """Write a complete checkpoint folder in the official layout and return it.

    `variant` is a key of `VARIANTS`. With `shards` above one the weights are split over that many files
    beside an index.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}, known: {sorted(VARIANTS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = VARIANTS[variant].dtype
    _write_json(folder / "config.json", config(variant))
    _write_json(folder / "generation_config.json", generation_config())
    _write_json(folder / "processor_config.json", processor_config(variant))
    _write_json(folder / "tokenizer_config.json", tokenizer_config())
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    tensors = weights(variant)
    if shards == 1:
        save_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    weight_map: dict[str, str] = {}
    for i, names in enumerate(np.array_split(sorted(tensors), shards)):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        save_safetensors(folder / file, {str(name): tensors[str(name)] for name in names}, dtype)
        weight_map |= {str(name): file for name in names}
    size = sum(x.size for x in tensors.values()) * (2 if dtype == "bfloat16" else 4)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    return folder
