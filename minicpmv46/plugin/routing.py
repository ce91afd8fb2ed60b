"""How a function of mlx-vlm is replaced, and how a replacement knows what is ours."""

import functools
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

MARK = "__minicpmv46__"

Function = Callable[..., Any]


def replace(owner: ModuleType | type, name: str, make: Callable[[Function], Function]) -> None:
    """Replace `name` of a module or class by `make(original)`, and wherever else the original was imported by name."""
    original = getattr(owner, name, None)
    if not callable(original) or getattr(original, MARK, False):
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, MARK, True)
    if isinstance(owner, type):
        setattr(owner, name, replacement)
        return
    for other in list(sys.modules.values()):
        if isinstance(other, ModuleType):
            for bound in [key for key, value in dict(vars(other)).items() if value is original]:
                setattr(other, bound, replacement)


def argument(function: Function, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument that `function` takes at `position`, however it was passed; None if it was not."""
    if position < len(args):
        return args[position]
    names = list(inspect.signature(function).parameters)
    return kwargs.get(names[position]) if position < len(names) else None


def is_our_model(model: object) -> bool:
    # Without importing our model, as below.
    ours = getattr(sys.modules.get("minicpmv46.model"), "Model", None)
    return ours is not None and isinstance(model, ours)


def is_our_language_model(model: object) -> bool:
    ours = getattr(sys.modules.get("minicpmv46.model"), "LanguageModel", None)
    return ours is not None and isinstance(model, ours)


def is_our_processor(processor: object) -> bool:
    # Without importing our processor for the sake of other models: while it is not loaded, none exists.
    ours = getattr(sys.modules.get("minicpmv46.processing"), "MiniCPMV46Processor", None)
    return ours is not None and isinstance(processor, ours)


def declared_model_type(config: object) -> str | None:
    """The model type of a config, a dict or an object, in lower case as mlx-vlm compares it."""
    value = config.get("model_type") if isinstance(config, dict) else getattr(config, "model_type", None)
    return value.lower() if isinstance(value, str) else None


def folder_model_type(folder: Path) -> str | None:
    """The model type in a checkpoint's config.json.

    None where it cannot be read: the caller then goes on to the original, which has its own words for it.
    """
    try:
        return declared_model_type(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def checkpoint_model_type(path: str | Path, hub: dict[str, Any]) -> str | None:
    """The same of a folder or of a repository on the hub."""
    if Path(path).is_dir():
        return folder_model_type(Path(path))
    from huggingface_hub import hf_hub_download

    try:
        return folder_model_type(Path(hf_hub_download(str(path), "config.json", **hub)).parent)
    except (OSError, ValueError):
        return None
