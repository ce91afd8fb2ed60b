"""Look at a checkpoint folder before anything of it is loaded.

mlx-vlm passes over shards that an index names and the folder lacks, and drops modules without weights. Here a folder
is complete or refused, with the file and the tensor at fault. Only headers are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import MiniCPMV46Config
from .files import read_json
from .model import parameter_shapes
from .weights import is_unused, renamed

INDEX = "model.safetensors.index.json"
# What a quantized matrix has beside its packed weight.
_QUANTIZED = ("scales", "biases")
# `quantization_config.quant_method` of formats that mlx-vlm turns into its own on loading.
_OTHER_FORMATS = ("compressed-tensors", "fp8", "modelopt")
_SHOWN = 5


@dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor, and the file that holds it."""

    file: Path
    shape: tuple[int, ...]


def check_checkpoint(folder: Path) -> None:
    """Check that `folder` holds every tensor of the model, whole, and no other.

    Raises:
        FileNotFoundError: `config.json` or weights are missing.
        ValueError: a file is truncated or not safetensors, a tensor is missing, unexpected, there twice or of another
            shape, or `config.json` has values that are not supported.
    """
    params = read_config(folder)
    try:
        config = MiniCPMV46Config.from_dict(params)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    quantization = params.get("quantization") or {}
    tensors = read_tensors(folder, config)
    expected = parameter_shapes(config)

    if _other_format(params):
        # What a matrix has there is mlx-vlm's matter, which loads strictly; but it drops modules that have nothing.
        present = {path.rpartition(".")[0] for path in tensors}
        absent = sorted(path for path in expected if path.rpartition(".")[0] not in present)
        if absent:
            raise ValueError(f"{folder} lacks {_list(absent)}")
        return

    needed = set(expected)
    for path in expected:
        module, _, kind = path.rpartition(".")
        scales = tensors.get(f"{module}.scales")
        if kind != "weight" or scales is None:
            continue
        mode = _quantization_mode(quantization, module)
        if mode is None:
            raise ValueError(f"{scales.file} has {module}.scales, but config.json quantizes no {module}")
        needed.update({f"{module}.scales", f"{module}.biases"} if mode == "affine" else {f"{module}.scales"})

    missing = sorted(needed - tensors.keys())
    if missing:
        # A tensor of a quantized matrix belongs beside the matrix.
        files = {tensors[w].file for p in missing if (w := f"{p.rpartition('.')[0]}.weight") in tensors}
        files = files or {tensor.file for tensor in tensors.values()}
        raise ValueError(f"{folder} ({', '.join(sorted(f.name for f in files))}) lacks {_list(missing)}")
    unexpected = sorted(tensors.keys() - needed)
    if unexpected:
        file = tensors[unexpected[0]].file
        own = [path for path in unexpected if tensors[path].file == file]
        orphan = own[0].rpartition(".")
        if orphan[2] in _QUANTIZED and f"{orphan[0]}.weight" in needed:
            raise ValueError(f"{file} lacks {orphan[0]}.scales beside {own[0]}")
        raise ValueError(f"{file} has tensors that this model does not: {_list(own)}")
    for path, shape in expected.items():
        tensor = tensors[path]
        quantized = f"{path.rpartition('.')[0]}.scales" in tensors
        if not quantized and sorted(tensor.shape) != sorted(shape):  # layouts differ in the order of axes
            raise ValueError(f"{tensor.file} has {path} of shape {tensor.shape}, config.json asks for {shape}")


def read_tensors(folder: Path, config: MiniCPMV46Config) -> dict[str, Tensor]:
    """Tensors of a folder by module path; raises `ValueError` where one is there twice."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for name, shape in read_header(file).items():
            if is_unused(name, config):
                continue
            path = renamed(name)
            if path in tensors:
                raise ValueError(f"{path} is in {tensors[path].file} and again in {file}")
            tensors[path] = Tensor(file, shape)
    return tensors


def _other_format(params: dict[str, Any]) -> bool:
    section = params.get("quantization_config")
    return isinstance(section, dict) and section.get("quant_method") in _OTHER_FORMATS


def _quantization_mode(quantization: dict[str, Any], module: str) -> str | None:
    """How config.json says that a module is quantized; None where it is not."""
    for name in (module, module.removeprefix("language_model.")):
        own = quantization.get(name)
        if own is False:
            return None
        if isinstance(own, dict):
            return str(own.get("mode", "affine"))
    return str(quantization.get("mode", "affine")) if quantization else None


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder; raises `FileNotFoundError` or `ValueError` with its path."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json")
    return read_json(path)


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
    files = sorted(f for f in folder.glob("*.safetensors") if not f.name.endswith("consolidated.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *.safetensors file: it is not a checkpoint, or its download stopped")
    return files


def read_header(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file; raises `ValueError` where the file is not whole."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file} is truncated or not a safetensors file: {size} bytes")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise ValueError(f"{file} has no valid safetensors header: {error}") from error
    if size < 8 + length + end:
        raise ValueError(f"{file} is truncated: {size} of {8 + length + end} bytes")
    return shapes


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
