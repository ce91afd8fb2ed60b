"""`transformers.AutoProcessor` for our checkpoints, in a program that uses mlx-vlm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minicpmv46.plugin.ours import HUB_OPTIONS, MARK
from minicpmv46.processing import Processor


def from_pretrained(cls: type, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Processor:
    """`AutoProcessor.from_pretrained`; mlx-vlm gives it all options of a load, and only the hub's are a processor's."""
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    processor = Processor.from_pretrained(pretrained_model_name_or_path, **hub)
    setattr(processor.tokenizer, MARK, True)  # grammars are built from a tokenizer alone
    return processor
