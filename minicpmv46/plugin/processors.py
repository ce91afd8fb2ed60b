"""`transformers.AutoProcessor` for our checkpoints, in a program that uses mlx-vlm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minicpmv46.checks import quote
from minicpmv46.option_names import OPTIONS, LoadOptions
from minicpmv46.plugin.ours import MARK
from minicpmv46.processing import Processor
from minicpmv46.spelling import meant


def from_pretrained(cls: type, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Processor:
    """`AutoProcessor.from_pretrained`; mlx-vlm gives it all options of a load, of which most are no processor's."""
    for name in kwargs:
        if name not in OPTIONS and (guess := meant(name, OPTIONS)):
            raise TypeError(f"unknown option {quote(name)}; did you mean {guess!r}?")
    own = {name: value for name, value in kwargs.items() if name in LoadOptions.__annotations__}
    processor = Processor.from_pretrained(pretrained_model_name_or_path, **own)
    setattr(processor.tokenizer, MARK, True)  # grammars are built from a tokenizer alone
    return processor
