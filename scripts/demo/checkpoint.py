"""Everything of the demo checkpoint but its weights: configuration, tokenizer, template. Needs no torch.

The tokenizer's split and added tokens and the processor's options are those of the tests' small checkpoints, which are
the official ones.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support import tiny  # noqa: E402

from scripts.demo.drawing import COLOURS, SHAPES  # noqa: E402
from scripts.demo.order import PLACES  # noqa: E402
from scripts.demo.plain_tasks import DIRECTIONS  # noqa: E402
from scripts.demo.questions import (  # noqa: E402
    MORE_FACTS,
    MORE_SUMS,
    NO_PICTURE,
    OF_PICTURES,
    PHRASINGS,
    TEMPLATES,
    THINGS,
    TOPICS,
    UNKNOWN,
)
from scripts.demo.slices import FRAME, UNIT  # noqa: E402

VOCABULARY, LONGEST_PROMPT = 2048, 8192
WIDTH = 160  # of the vision encoder


def make_tokenizer() -> Tokenizer:
    """Byte-level BPE with the official split and added tokens; no two capitals share a token, so what is read is spelt.

    Its words are those of the questions, as often as they weigh, and of this project's licence.
    """
    added, split_at = tiny.added_tokens(), tiny.tokenizer_config()["pretokenize_regex"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(split_at), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    phrases = [*MORE_FACTS, *MORE_FACTS.values(), *MORE_SUMS, *(text for texts in PHRASINGS.values() for text in texts)]
    phrases += [*TEMPLATES, *OF_PICTURES, *(f" {name}" for name in (*TOPICS, *THINGS)), UNKNOWN, NO_PICTURE]
    phrases += [f" {name}" for name in (*COLOURS, *SHAPES, *DIRECTIONS, "same", "different", "first", "second")]
    words = [*COLOURS, *SHAPES, *DIRECTIONS, "same", "different", "first", "second", "system", "user", "assistant"]
    phrases += ["\n\n", " a", " an", " objects", "the text"]
    licence = (ROOT / "LICENSE").read_text()
    size = VOCABULARY - len(added)
    # What is read is spelt: no token has two capitals.
    phrases = [re.sub("[A-Z]{2,}", " ", phrase) for phrase in phrases]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*(phrases + words) * 50, licence.lower(), licence.title()], trainer)
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token, special in added.items()])
    return tokenizer


def config(tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` with the official file's keys: about 5.6 million parameters."""
    layers = 8
    return {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
        "drop_vision_last_layer": False,
        "dtype": "bfloat16",
        "eos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "image_size": UNIT,
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "insert_layer_id": 1,
        "merge_kernel_size": [2, 2],
        "merger_times": 1,
        "model_type": "minicpmv4_6",
        "patch_size": 14,
        "text_config": {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_output_gate": True,
            "dtype": "bfloat16",
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
            "max_position_embeddings": LONGEST_PROMPT,
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
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_config": {
            "attention_dropout": 0.0,
            "dtype": "bfloat16",
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": WIDTH,
            "image_size": 14 * PLACES,
            "insert_layer_id": 1,
            "intermediate_size": 2 * WIDTH,
            "layer_norm_eps": 1e-06,
            "model_type": "minicpmv4_6_vision",
            "num_attention_heads": WIDTH // 32,
            "num_channels": 3,
            "num_hidden_layers": 10,
            "patch_size": 14,
            "window_kernel_size": [2, 2],
        },
    }


def write_files(folder: Path, tokenizer: Tokenizer) -> None:
    """Write them to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    stops = [tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_end|>")]
    processor_config = tiny.processor_config()
    for kind, side in (("image_processor", UNIT), ("video_processor", FRAME)):
        processor_config[kind]["scale_resolution"] = side
    files: dict[str, dict[str, Any]] = {
        "config.json": config(tokenizer),
        "generation_config.json": {"do_sample": False, "eos_token_id": stops},
        "processor_config.json": processor_config,
        "tokenizer_config.json": {**tiny.tokenizer_config(), "model_max_length": LONGEST_PROMPT},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_bytes((tiny.DATA / "chat_template.jinja").read_bytes())
