"""`transformers.AutoProcessor` for our checkpoints, in a program that uses mlx-vlm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minicpmv46.plugin.ours import HUB_OPTIONS, MARK, is_our_type
from minicpmv46.processing import MiniCPMV46Processor


def from_pretrained(cls: type, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> MiniCPMV46Processor:
    """`AutoProcessor.from_pretrained`; mlx-vlm gives it all options of a load, and only the hub's are a processor's."""
    hub = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
    processor = MiniCPMV46Processor.from_pretrained(pretrained_model_name_or_path, **hub)
    setattr(processor.tokenizer, MARK, True)  # grammars are built from a tokenizer alone
    return processor


def install_auto_processor_patch(
    original: Callable[..., Any], target_model_types: str | list[str], processor_cls: type
) -> Any:
    """`mlx_vlm.models.base.install_auto_processor_patch`, less our model type."""
    from transformers import AutoProcessor

    names = [target_model_types] if isinstance(target_model_types, str) else target_model_types
    others = [name for name in names if not is_our_type(name, {})]
    return original(others, processor_cls) if others else AutoProcessor.from_pretrained
