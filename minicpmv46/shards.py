"""The safetensors files of a checkpoint folder: which they are, and what their headers say, checked before MLX reads.

A header is believed once every tensor's type, shape and place agree with each other, with the file and with the other
tensors. Only headers are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .checks import quote
from .files import MB, parse_json, read_json, regular_size
from .schema import section, size, text

INDEX = "model.safetensors.index.json"
# As the safetensors format has it; a real header has less than 1 MB.
HEADER_BYTES = 100 * MB
# Bytes a number of each type that MLX or mlx-vlm reads.
DTYPES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "C64"), 8),
}
_SHOWN = 5
_AXES = 8
_SIDE = size(2**31 - 1, 0)
_OFFSET = size(2**63 - 1, 0)


@dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor.

    Attributes:
        file: the file that holds it.
        name: its name there.
        dtype: one of `DTYPES`.
        shape: as stored.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a checkpoint: those its index names, else all.

    Raises:
        FileNotFoundError: one or all are missing.
        ValueError: the index is none, or names a file outside the folder; links in the folder are followed.
    """
    index = folder / INDEX
    if index.exists():
        content = read_json(index)
        try:
            entries = section("weight_map", content.get("weight_map"))
            names = sorted({_file_name(name, value) for name, value in entries.items()})
            if not names:
                raise ValueError("weight_map is empty")
        except ValueError as error:
            raise ValueError(f"{index} is not an index of safetensors files: {error}") from error
        absent = [name for name in names if not (folder / name).exists()]
        if absent:
            raise FileNotFoundError(f"{index} names files that are not there: {listed(absent)}")
        return [folder / name for name in names]
    files = sorted(f for f in folder.glob("*.safetensors") if not f.name.endswith("consolidated.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *.safetensors file: it is not a checkpoint, or its download stopped")
    return files


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        OSError: it cannot be read or is no regular file.
        ValueError: it is not whole, or what its header says cannot be; both name the file.
    """
    length_of_file = regular_size(file)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length_of_file < 8 or length > length_of_file - 8:
            raise ValueError(f"{file} is truncated or not a safetensors file: {length_of_file} bytes")
        if length > HEADER_BYTES:
            raise ValueError(f"{file} has no valid safetensors header: {length:,} bytes, at most {HEADER_BYTES:,}")
        header = parse_json(stream.read(length), f"{file} has no valid safetensors header: it")
    try:
        for key, value in section("__metadata__", header.pop("__metadata__", None) or {}).items():
            text(f"__metadata__[{quote(key)}]", value)
        places = {name: _place(name, entry) for name, entry in header.items()}
        _check_apart(places)
    except ValueError as error:
        raise ValueError(f"{file} has no valid safetensors header: {error}") from error
    end = max((end for _, end in places.values()), default=0)
    if length_of_file < 8 + length + end:
        raise ValueError(f"{file} is truncated: {length_of_file} of {8 + length + end} bytes")
    return {name: Tensor(file, name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}


def listed(names: list[str]) -> str:
    """The first of some names, each shortened, and how many more there are."""
    shown = ", ".join(name if len(name) <= 100 and name.isprintable() else quote(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _file_name(tensor: str, value: Any) -> str:
    """A file's name in an index."""
    what = f"weight_map[{quote(tensor)}]"
    path = PurePosixPath(text(what, value))
    if path.is_absolute() or ".." in path.parts or "\\" in value or not value.isprintable():
        raise ValueError(f"{what} = {quote(value)} is not a file in this folder")
    if path.suffix != ".safetensors" or len(value) > 255:
        raise ValueError(f"{what} = {quote(value)} is not the name of a safetensors file")
    return str(path)


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor begins and ends behind the header; raises `ValueError` where its entry contradicts itself."""
    of = quote(name)
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{of} must have dtype, shape and data_offsets and nothing else, not {quote(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{of} has dtype {quote(dtype)}, which MLX does not read; known: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > _AXES:
        raise ValueError(f"{of} has shape {quote(shape)}, which is not a list of at most {_AXES} integers")
    for side in shape:
        _SIDE(f"shape of {of}: side", side)
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError(f"{of} has data_offsets {quote(offsets)}, which are not two integers")
    begin, end = (_OFFSET(f"data_offsets of {of}: one", offset) for offset in offsets)
    if end - begin != math.prod(shape) * DTYPES[dtype]:
        raise ValueError(f"{of} has data_offsets {offsets} for shape {shape} of {dtype}")
    return begin, end


def _check_apart(places: Mapping[str, tuple[int, int]]) -> None:
    """Raise `ValueError` where two tensors share bytes."""
    behind, before = 0, ""
    for (begin, end), name in sorted((place, name) for name, place in places.items() if place[0] < place[1]):
        if begin < behind:
            raise ValueError(f"{quote(name)} overlaps {quote(before)}")
        behind, before = end, name
