"""`transformers.AutoProcessor` for our checkpoints, in a program that uses mlx-vlm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minicpmv46.option_names import OPTIONS
from minicpmv46.plugin.ours import HUB_OPTIONS, MARK
from minicpmv46.processing import Processor


def from_pretrained(cls: type, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Processor:
    """`AutoProcessor.from_pretrained`; mlx-vlm gives it all options of a load, of which most are no processor's."""
    own = {name: kwargs[name] for name in (*HUB_OPTIONS, *OPTIONS) if name in kwargs}
    processor = Processor.from_pretrained(pretrained_model_name_or_path, **own)
    setattr(processor.tokenizer, MARK, True)  # grammars are built from a tokenizer alone
    return processor
