"""The checkpoint's tokenizer: transformers' own, with what conversion takes from it put back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from .checks import check_options, integer, names, one_of, option, optional, quote, switch
from .config import Config
from .files import TOKENIZER_BYTES, read_json, read_text, shortened
from .prompt import SpecialTokens
from .schema import size, text

# What rows are filled up with; the official tokenizer's pad token.
PAD_TOKEN = "<|endoftext|>"


# The files that transformers reads for a tokenizer, each where it is there.
_JSON = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json")
_LARGE_JSON = ("tokenizer.json", "vocab.json")
_TEXT = ("chat_template.jinja", "merges.txt")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint folder; no code of the folder is run.

    Raises:
        OSError: files are missing, or one of them is no regular file.
        ValueError: a file cannot be read, or the tokenizer lacks a placeholder token; the text names file or folder.
    """
    read = _check_files(folder)
    longest = read.get("tokenizer_config.json", {}).get("model_max_length")
    if longest is not None:  # transformers writes 10**30 for "any"
        size(10**31)(f"{folder / 'tokenizer_config.json'}: model_max_length", longest)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        _restore_split_pattern(tokenizer)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = PAD_TOKEN
        tokens = special_tokens(tokenizer)
        for token in (tokens.image_token, tokens.video_token):
            token_id(tokenizer, token)
    # tokenizers raises a bare Exception for what it cannot read, and PanicException, which is not even that, for more;
    # transformers lets pass whatever comes of a value of another type.
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
            raise
        kind = OSError if isinstance(error, OSError) else ValueError
        said = f"{type(error).__name__}: {shortened(error)}"
        raise kind(f"{folder} has no tokenizer that can be read ({said})") from error
    older = read.get("chat_template.json", {})  # where processors kept their template before transformers 5
    if tokenizer.chat_template is None and "chat_template" in older:
        tokenizer.chat_template = text(f"{folder / 'chat_template.json'}: chat_template", older["chat_template"])
    template = tokenizer.chat_template
    for part in template.values() if isinstance(template, dict) else () if template is None else (template,):
        text(f"{folder}: chat_template", part)
    return tokenizer


def _check_files(folder: Path) -> dict[str, dict[str, Any]]:
    """The contents of a tokenizer's smaller JSON files; raises `OSError` or `ValueError` that names a file.

    `config.json` is looked at too, where there is one: transformers asks it for the tokenizer's class, and builds its
    own configuration from whatever it says.
    """
    path = folder / "config.json"
    if path.exists():
        params = read_json(path)
        try:
            Config.from_dict(params)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    found = {name: read_json(folder / name) for name in _JSON if (folder / name).exists()}
    for name in _LARGE_JSON:
        if (folder / name).exists():
            read_json(folder / name, TOKENIZER_BYTES)
    for name in _TEXT:
        if (folder / name).exists():
            read_text(folder / name, TOKENIZER_BYTES)
    return found


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The checkpoint's names where its tokenizer still knows them; conversion by mlx-vlm drops them."""
    defaults = SpecialTokens()
    return SpecialTokens(**{name: getattr(tokenizer, name, None) or getattr(defaults, name) for name in vars(defaults)})


def token_id(tokenizer: Any, token: str) -> int:
    """Id of a token; raises `ValueError` where the tokenizer does not know it."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token {quote(token)}")
    return int(found)


_SIDE = one_of("left", "right")
_PADDING: dict[str, bool | str] = {"longest": True, "do_not_pad": False, "max_length": "max_length"}
_TRUNCATION = {"longest_first": True, "only_first": True, "do_not_truncate": False}


def _padding(name: str, value: Any) -> bool | str:
    return _PADDING[one_of(*_PADDING)(name, value)] if isinstance(value, str) else switch(name, value)


def _truncation(name: str, value: Any) -> bool:
    return _TRUNCATION[one_of(*_TRUNCATION)(name, value)] if isinstance(value, str) else switch(name, value)


@dataclass(frozen=True)
class TextOptions:
    """How prompts become rows of ids; names and values are transformers'.

    Attributes:
        add_special_tokens: passed to the tokenizer.
        padding: True or "longest" fills rows up to the longest, "max_length" to `max_length`, False or "do_not_pad"
            leaves them as they are.
        padding_side: "left" or "right".
        max_length: length in tokens for `padding` and `truncation`; None takes the tokenizer's.
        truncation: True cuts rows that are longer, at the tokenizer's `truncation_side`.
        pad_to_multiple_of: fills rows up to a multiple of it.
    """

    add_special_tokens: bool = option(False, switch)
    padding: bool | str = option(True, _padding)
    padding_side: str = option("left", _SIDE)
    max_length: int | None = option(None, optional(integer), "context")
    truncation: bool = option(False, _truncation)
    pad_to_multiple_of: int | None = option(None, optional(integer), "context")

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def given(cls, text_kwargs: Any, **named: Any) -> TextOptions:
        """From options of a call; raises `TypeError` where `text_kwargs` is no mapping or has an unknown name."""
        if text_kwargs is None:
            return cls(**named)
        if not isinstance(text_kwargs, Mapping):
            raise TypeError(f"text_kwargs must be a mapping of options, not {quote(text_kwargs)}")
        if unknown := text_kwargs.keys() - named.keys():
            raise TypeError(f"text_kwargs has unknown options {names(unknown)}; known: {', '.join(named)}")
        return cls(**{**named, **text_kwargs})


def encode(tokenizer: Any, texts: Sequence[str], options: TextOptions) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of prompts, int32 [prompts, length]; lists where rows differ in length.

    Padding is done here: a fast tokenizer keeps it as a state, which threads would change under each other.

    Raises:
        ValueError: a prompt is empty.
    """
    rows = tokenizer(list(texts), add_special_tokens=options.add_special_tokens)["input_ids"]
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise ValueError(f"prompt {empty[0]} is empty")
    length = options.max_length or tokenizer.model_max_length
    if options.truncation:
        rows = [row[:length] if tokenizer.truncation_side == "right" else row[-length:] for row in rows]
    longest = max(map(len, rows), default=0)
    if not options.padding:
        target = None
    else:
        target = max(longest, length) if options.padding == "max_length" else longest
        multiple = options.pad_to_multiple_of or 1
        target = -(-target // multiple) * multiple
    return {
        "input_ids": _padded(rows, tokenizer.pad_token_id, target, options.padding_side),
        "attention_mask": _padded([[1] * len(row) for row in rows], 0, target, options.padding_side),
    }


def _padded(rows: list[list[int]], value: int, length: int | None, side: str) -> Any:
    """int32 [prompts, length] filled up with `value`; with length None, the lists themselves where they differ."""
    if length is None and len({len(row) for row in rows}) > 1:
        return rows
    length = len(rows[0]) if length is None else length
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
