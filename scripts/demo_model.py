"""The demo checkpoint before it is trained: configuration, tokenizer, template, first weights, and a batched forward.

The model is the official class of transformers. `Batched` shares its weights and differs in one thing: units of one
grid, of all pictures of a batch, go through the vision side together, where the official forward takes them one by one.
`check_equal` in `train_demo.py` holds the two against each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from scripts.demo_tasks import COLOURS, DIRECTIONS, FACTS, QUESTIONS, SHAPES, SIDE, SUMS

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "tests" / "data" / "chat_template.jinja"

VOCABULARY = 2048
PAPER = 0.8  # normalized level of the pictures' background
# The official tokenizer's added tokens in their order; True for special ones.
ADDED_TOKENS = {
    **dict.fromkeys(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), True),
    **dict.fromkeys(("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"), True),
    **dict.fromkeys(("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"), True),
    **dict.fromkeys(("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"), True),
    **dict.fromkeys(("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"), False),
    **dict.fromkeys(("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"), False),
    **dict.fromkeys(("<think>", "</think>"), False),
    **dict.fromkeys(("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"), True),
    **dict.fromkeys(("<tts_text_bos_single>", "<|audio_pad|>", "<unk>", "<image>", "</image>"), True),
    **dict.fromkeys(("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<point>", "</point>"), True),
    **dict.fromkeys(("<slice>", "</slice>", "<image_id>", "</image_id>", "<unit>", "</unit>"), True),
}
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MEDIA_TOKENS = {
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "audio_token": "<|audio_pad|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with the official split and added tokens; no two capitals share a token, so what is read is spelt.

    Its words are those of the questions, as often as they weigh, and of this project's licence.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    phrases = [*FACTS, *FACTS.values(), *SUMS, *(text for texts in QUESTIONS.values() for text in texts)]
    phrases += [f" {name}" for name in (*COLOURS, *SHAPES, *DIRECTIONS, "same", "different", "first", "second")]
    words = [*COLOURS, *SHAPES, *DIRECTIONS, "same", "different", "first", "second", "system", "user", "assistant"]
    phrases += ["\n\n", " a", " an"]
    licence = (ROOT / "LICENSE").read_text()
    size = VOCABULARY - len(ADDED_TOKENS)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*(phrases + words) * 50, licence.lower(), licence.title()], trainer)
    tokenizer.add_tokens(
        [AddedToken(token, special=special, normalized=False) for token, special in ADDED_TOKENS.items()]
    )
    return tokenizer


def config(tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` with the official file's keys: about 3.9 million parameters."""
    layers = 8
    ids = {name: tokenizer.token_to_id(token) for name, token in MEDIA_TOKENS.items()}
    return {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
        "drop_vision_last_layer": False,
        "dtype": "float32",
        "eos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "image_size": SIDE,
        "image_token_id": ids["image_token"],
        "insert_layer_id": 2,
        "merge_kernel_size": [2, 2],
        "merger_times": 1,
        "model_type": "minicpmv4_6",
        "patch_size": 14,
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "dtype": "float32",
            "full_attention_interval": 4,
            "head_dim": 32,
            "hidden_act": "silu",
            "hidden_size": 128,
            "initializer_range": 0.02,
            "intermediate_size": 256,
            "layer_types": ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(layers)],
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 32,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
            "linear_value_head_dim": 32,
            "max_position_embeddings": 8192,
            "model_type": "qwen3_5_text",
            "num_attention_heads": 4,
            "num_hidden_layers": layers,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.25,
            "rms_norm_eps": 1e-06,
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [2, 1, 1],
                "partial_rotary_factor": 0.25,
                "rope_theta": 10000,
                "rope_type": "default",
            },
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": tokenizer.get_vocab_size(),
        },
        "tie_word_embeddings": True,
        "video_token_id": ids["video_token"],
        "vision_config": {
            "attention_dropout": 0.0,
            "dtype": "float32",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 128,
            "image_size": 336,
            "insert_layer_id": 2,
            "intermediate_size": 256,
            "layer_norm_eps": 1e-06,
            "model_type": "minicpmv4_6_vision",
            "num_attention_heads": 4,
            "num_channels": 3,
            "num_hidden_layers": 8,
            "patch_size": 14,
            "window_kernel_size": [2, 2],
        },
    }


def write_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Everything of a checkpoint folder but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    stops = [tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>")]
    pixels = {
        **dict.fromkeys(("do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True),
        "downsample_mode": "16x",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_slice_nums": 9,
        "patch_size": 14,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "scale_resolution": SIDE,
        "slice_mode": True,
        "use_image_id": True,
    }
    frames = {"do_sample_frames": True, "max_num_frames": 128, "return_metadata": False, "stack_frames": 1}
    files: dict[str, dict[str, Any]] = {
        "config.json": config(tokenizer),
        "generation_config.json": {"do_sample": False, "eos_token_id": stops},
        "processor_config.json": {
            "image_processor": {**pixels, "image_processor_type": "MiniCPMV4_6ImageProcessor"},
            "processor_class": "MiniCPMV4_6Processor",
            "video_processor": {**pixels, **frames, "video_processor_type": "MiniCPMV4_6VideoProcessor"},
        },
        "tokenizer_config.json": {
            **MEDIA_TOKENS,
            "add_prefix_space": False,
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
            "model_max_length": 8192,
            "model_specific_special_tokens": MEDIA_TOKENS,
            "pad_token": "<|endoftext|>",
            "pretokenize_regex": SPLIT,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": "<unk>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def make_model(folder: Path, seed: int = 46) -> Any:
    """The official model for a folder's `config.json` with first weights of a usual scale.

    The official class draws some weights of the window merger from a unit normal distribution, which suits a trained
    encoder and no other.
    """
    from transformers import AutoConfig, MiniCPMV4_6ForConditionalGeneration

    torch.manual_seed(seed)
    model = MiniCPMV4_6ForConditionalGeneration(AutoConfig.from_pretrained(folder)).float()
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "lm_head" not in name:
                last = name.endswith(("out_proj", "o_proj", "down_proj", "fc2", "vit_merger.linear_2"))
                module.weight.normal_(0, (0.4 if last else 1.0) / math.sqrt(module.in_features))
                if module.bias is not None:
                    module.bias.zero_()
            elif name.endswith("linear_attn"):
                module.A_log.copy_(torch.log(torch.linspace(0.02, 1.0, module.A_log.numel())))
                module.dt_bias.zero_()
        tower = model.model.vision_tower
        # Neighbouring places look alike, and patches first look at what is like them: near, and of one colour. Light
        # paper is nothing. (No gain was measured in 250 steps; the shipped weights started so.)
        embeddings = tower.embeddings
        embeddings.position_embedding.weight.copy_(waves(embeddings.num_patches_per_side, embeddings.embed_dim))
        embeddings.patch_embedding.weight.normal_(0, 1 / math.sqrt(3 * 14 * 14))
        embeddings.patch_embedding.bias.copy_(-PAPER * embeddings.patch_embedding.weight.sum((1, 2, 3)))
        for layer in tower.encoder.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        model.model.language_model.embed_tokens.weight.normal_(0, 0.06)
    return model


def waves(side: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, [side * side, width]."""
    periods = torch.logspace(math.log10(3), math.log10(2 * side), width // 4)
    angles = torch.arange(side)[:, None] * 2 * math.pi / periods
    one = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    rows, cols = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return torch.cat([rows, cols], dim=-1).reshape(side * side, width)


Grid = tuple[int, int]


class Batched:
    """The official model's computations for many requests at once.

    Args:
        model: `MiniCPMV4_6ForConditionalGeneration`, whose weights are used where they are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tower, self.merger = model.model.vision_tower, model.model.merger
        self.text = model.model.language_model

    def features(self, patches: Tensor, grid: Grid, merge: bool) -> tuple[Tensor, Tensor]:
        """Features of units of one grid: [units, rows * cols, 14 * 14 * 3] to [units, tokens, width].

        Beside them, what the encoder has of each patch where the window merger stands, [units, rows * cols, width].
        """
        inner = h = self.inner(patches, grid)
        if merge:
            h = self.window_merge(h, grid)
            grid = grid[0] // 2, grid[1] // 2
        for layer in self.tower.encoder.layers[self.tower.config.insert_layer_id + 1 :]:
            h = block(layer, h)
        h = self.tower.post_layernorm(h)
        merged = self.merger.mlp[0](squares(h, grid).flatten(2))
        return merged.reshape(len(patches), grid[0] * grid[1] // 4, -1), inner

    def inner(self, patches: Tensor, grid: Grid) -> Tensor:
        """What the encoder has of each patch where the window merger stands."""
        embeddings = self.tower.embeddings
        weight = embeddings.patch_embedding.weight.permute(0, 2, 3, 1).flatten(1)
        side = embeddings.num_patches_per_side
        rows, cols = (torch.arange(n) * side // n for n in grid)
        places = (rows[:, None] * side + cols).flatten()
        h = F.linear(patches, weight, embeddings.patch_embedding.bias) + embeddings.position_embedding(places)
        for layer in self.tower.encoder.layers[: self.tower.config.insert_layer_id + 1]:
            h = block(layer, h)
        return h

    def window_merge(self, h: Tensor, grid: Grid) -> Tensor:
        merger = self.tower.vit_merger
        units, _, width = h.shape
        h = squares(h, grid).flatten(0, 1)  # [windows, 4, width]
        h = h + attention(merger.self_attn, merger.layer_norm1(h))
        r = merger.linear_2(merger.act(merger.linear_1(merger.pre_norm(h.flatten(1)))))
        return (h.mean(dim=1) + r).reshape(units, -1, width)

    def hidden(
        self, ids: Tensor, groups: Sequence[tuple[Tensor, Grid, bool, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Hidden states of right-padded prompts, [rows, length, width], and what `features` gives for each group.

        Args:
            ids: [rows, length]; what follows a row's end does not reach it.
            groups: patches, grid and mode of units, and the places that they fill in `ids.flatten()`, [units, tokens].
        """
        embeds = self.text.embed_tokens(ids)
        flat = embeds.flatten(0, 1)
        seen = []
        for patches, grid, merge, places in groups:
            found, inner = self.features(patches, grid, merge)
            seen.append((found, inner))
            flat = flat.index_copy(0, places.flatten(), found.flatten(0, 1).to(flat.dtype))
        return self.text(inputs_embeds=flat.view_as(embeds), use_cache=False).last_hidden_state, seen


def block(layer: Any, h: Tensor) -> Tensor:
    h = h + attention(layer.self_attn, layer.layer_norm1(h))
    return h + layer.mlp(layer.layer_norm2(h))


def attention(module: Any, x: Tensor) -> Tensor:
    """Unmasked attention with an official module's projections, [batch, length, width]."""
    q, k, v = (
        projection(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for projection in (module.q_proj, module.k_proj, module.v_proj)
    )
    out = F.scaled_dot_product_attention(q, k, v, scale=module.scaling)
    return module.out_proj(out.transpose(1, 2).flatten(2))


def squares(h: Tensor, grid: Grid) -> Tensor:
    """[units, rows * cols, D] to [units, rows/2 * cols/2, 4, D], in reading order."""
    units, _, width = h.shape
    rows, cols = grid
    h = h.view(units, rows // 2, 2, cols // 2, 2, width).transpose(2, 3)
    return h.reshape(units, rows * cols // 4, 4, width)
