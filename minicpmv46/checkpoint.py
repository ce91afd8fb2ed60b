"""Look at a checkpoint folder before anything of it is loaded.

mlx-vlm passes over shards that an index names and the folder lacks, and drops modules without weights. Here a folder
is complete or refused, with the file and the tensor at fault. Only headers are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .config import MiniCPMV46Config
from .model import parameter_names
from .weights import is_unused, renamed

INDEX = "model.safetensors.index.json"
# What a quantized matrix has beside its packed weight.
_QUANTIZED = ("scales", "biases")
_SHOWN = 5


def check_checkpoint(folder: Path) -> None:
    """Check that `folder` holds every tensor of the model, whole, and no other.

    Raises:
        FileNotFoundError: `config.json` or weights are missing.
        ValueError: a file is truncated or not safetensors, a tensor is missing or unexpected, or `config.json` has
            values that are not supported.
    """
    config = MiniCPMV46Config.from_dict(read_config(folder))
    homes: dict[str, Path] = {}
    for file in weight_files(folder):
        for name in read_header(file):
            if not is_unused(name, config):
                homes[renamed(name)] = file
    known = set(parameter_names(config))
    missing = sorted(known - homes.keys())
    if missing:
        files = ", ".join(sorted({file.name for file in homes.values()}))
        raise ValueError(f"{folder} ({files}) lacks {_list(missing)}")
    for path, file in homes.items():
        module, _, kind = path.rpartition(".")
        quantized = kind in _QUANTIZED and f"{module}.weight" in known
        if path not in known and not quantized:
            unexpected = sorted(p for p, f in homes.items() if f == file and p not in known)
            raise ValueError(f"{file} has tensors that this model does not: {_list(unexpected)}")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder; raises `FileNotFoundError` or `ValueError` with its path."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a checkpoint: those its index names, else all; raises where one or all are missing."""
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is not an index of safetensors files: {error}") from error
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise FileNotFoundError(f"{index} names files that are not there: {_list(absent)}")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *.safetensors file: it is not a checkpoint, or its download stopped")
    return files


def read_header(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file; raises `ValueError` where the file is not whole."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file} is truncated or not a safetensors file: {size} bytes")
        try:
            header = json.loads(stream.read(length))
            tensors = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise ValueError(f"{file} has no valid safetensors header: {error}") from error
    needed = 8 + length + max(tensors.values(), default=0)
    if size < needed:
        raise ValueError(f"{file} is truncated: {size} of {needed} bytes")
    return list(tensors)


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
