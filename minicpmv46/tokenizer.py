"""The checkpoint's tokenizer: transformers' own, with what conversion takes from it put back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from .files import read_json
from .prompt import SpecialTokens

# What rows are filled up with; the official tokenizer's pad token.
PAD_TOKEN = "<|endoftext|>"


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint folder; raises `OSError` where its files are missing."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _restore_split_pattern(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD_TOKEN
    older = folder / "chat_template.json"  # where processors kept their template before transformers 5
    if tokenizer.chat_template is None and older.is_file():
        tokenizer.chat_template = read_json(older)["chat_template"]
    return tokenizer


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The checkpoint's names where its tokenizer still knows them; conversion by mlx-vlm drops them."""
    defaults = SpecialTokens()
    return SpecialTokens(**{name: getattr(tokenizer, name, None) or getattr(defaults, name) for name in vars(defaults)})


def token_id(tokenizer: Any, token: str) -> int:
    """Id of a token; raises `ValueError` where the tokenizer does not know it."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return int(found)


def encode(tokenizer: Any, texts: Sequence[str], *, add_special_tokens: bool, side: str | None) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of prompts, padded on `side` ("left", "right", or None for not at all).

    Padding is done here: a fast tokenizer keeps it as a state, which threads would change under each other.
    """
    rows = tokenizer(list(texts), add_special_tokens=add_special_tokens)["input_ids"]
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise ValueError(f"prompt {empty[0]} is empty")
    return {
        "input_ids": _padded(rows, tokenizer.pad_token_id, side),
        "attention_mask": _padded([[1] * len(row) for row in rows], 0, side),
    }


def _padded(rows: list[list[int]], value: int, side: str | None) -> Any:
    """int32 [prompts, length] filled up with `value`; with side None, the lists themselves where they differ."""
    length = max(map(len, rows), default=0)
    if side is None and any(len(row) != length for row in rows):
        return rows
    out = np.full((len(rows), length), value, dtype=np.int32)
    for i, row in enumerate(rows):
        start = length - len(row) if side == "left" else 0
        out[i, start : start + len(row)] = row
    return out


def _restore_split_pattern(tokenizer: Any) -> None:
    """Split text by the pattern of `tokenizer_config.json`.

    Conversion by mlx-vlm writes Qwen2's pattern into `tokenizer.json`, which parts vowel signs from their letters in
    many scripts; the configuration keeps the checkpoint's own.
    """
    pattern = tokenizer.init_kwargs.get("pretokenize_regex")
    backend = tokenizer.backend_tokenizer
    if pattern and json.dumps(pattern) not in json.dumps(json.loads(backend.pre_tokenizer.__getstate__())):
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
