"""Look at a checkpoint folder before anything of it is loaded.

mlx-vlm passes over shards that an index names and the folder lacks, and drops modules without weights. Here a folder
is complete or refused, with the file and the tensor at fault. Only JSON files and headers are read, and nothing is
built before the headers have as many layers as `config.json` asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .checks import quote
from .config import Config
from .contents import Contents
from .files import read_json
from .model import parameter_shapes
from .quantized_form import Form, Quantization
from .schema import section
from .shards import Tensor, listed, read_header, weight_files
from .weights import is_unused, official_shape, renamed

# `quantization_config.quant_method` of formats that mlx-vlm turns into its own on loading.
_OTHER_FORMATS = ("compressed-tensors", "fp8", "modelopt")
# What a quantized matrix has beside its packed weight.
_QUANTIZED = ("scales", "biases")
# Types of numbers that a parameter may be stored in.
_FLOATS = ("F32", "F16", "BF16")
# What mlx-vlm takes from `generation_config.json` into `config.json`.
_GENERATION = ("eos_token_id", "temperature", "top_p", "top_k", "do_sample")


def check_checkpoint(folder: Path) -> Contents:
    """Check that `folder` holds every tensor of the model, whole, and no other; returns what it holds.

    Raises:
        OSError: `config.json` or weights are missing, or one of them is no regular file.
        ValueError: a file is truncated or not what its name says, a tensor is missing, unexpected, there twice or of
            another type or shape, or `config.json` has values that are not supported.
    """
    params = read_config(folder)
    config = _in(folder / "config.json", Config.from_dict, params)
    quantization = _in(folder / "config.json", Quantization.from_dict, params)
    _check_beside(folder, params)
    tensors = read_tensors(folder, config)
    _check_layers(folder, config, tensors)
    expected = parameter_shapes(config)

    if method := _other_format(params):
        # What a matrix has there is mlx-vlm's matter, which loads strictly; but it drops modules that have nothing.
        present = {path.rpartition(".")[0] for path in tensors}
        absent = sorted(path for path in expected if path.rpartition(".")[0] not in present)
        if absent:
            raise ValueError(f"{folder} lacks {listed(absent)}")
        return Contents(config, tensors, {}, method)

    forms: dict[str, Form] = {}
    needed = set(expected)
    for path in expected:
        module, _, kind = path.rpartition(".")
        scales = tensors.get(f"{module}.scales")
        if kind != "weight" or scales is None:
            continue
        form = quantization.form(module)
        if form is None:
            raise ValueError(f"{scales.file} has {module}.scales, but config.json quantizes no {module}")
        forms[module] = form
        needed.update(f"{module}.{name}" for name in form.beside)
    _check_names(folder, tensors, needed)
    for path in (*expected, *sorted(needed - expected.keys())):  # not in the order of a set: the first is told
        _check_tensor(path, tensors[path], expected, forms.get(path.rpartition(".")[0]))
    return Contents(config, tensors, forms)


def read_tensors(folder: Path, config: Config) -> dict[str, Tensor]:
    """Tensors of a folder by module path; raises `ValueError` where one is there twice."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for name, tensor in read_header(file).items():
            if is_unused(name, config):
                continue
            path = renamed(name)
            if path in tensors:
                raise ValueError(f"{listed([path])} is in {tensors[path].file} and again in {file}")
            tensors[path] = tensor
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder; raises `OSError` or `ValueError` with its path."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no config.json")
    return read_json(path)


def _in(path: Path, read: Any, params: Mapping[str, Any]) -> Any:
    """`read(params)`, whose error begins with the file's path."""
    try:
        return read(params)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_beside(folder: Path, params: Mapping[str, Any]) -> None:
    """The other JSON files that mlx-vlm reads with `config.json`."""
    generation = folder / "generation_config.json"
    if generation.exists():
        content = read_json(generation)
        own = {name: content[name] for name in _GENERATION if name in content}
        _in(generation, Config.from_dict, {**params, **own})
    if (folder / "offload_index.json").exists():
        raise ValueError(f"{folder / 'offload_index.json'} is of a model with experts, which this one has not")
    if (folder / "hf_quant_config.json").exists():
        path = folder / "hf_quant_config.json"
        content = read_json(path)
        _in(path, lambda values: section("quantization", values), content.get("quantization", {}))


def _check_layers(folder: Path, config: Config, tensors: Iterable[str]) -> None:
    """Raise `ValueError` where `config.json` asks for more layers than the files hold; none at all are named later."""
    asked = {
        "text_config.num_hidden_layers": ("language_model.model.layers", config.text_config.num_hidden_layers),
        "vision_config.num_hidden_layers": ("vision_tower.encoder.layers", config.vision_config.num_hidden_layers),
        "merger_times": ("merger.mlp", config.merger_times),
    }
    for name, (stem, count) in asked.items():
        found = {m[1] for path in tensors if (m := re.match(rf"{re.escape(stem)}\.(\d+)\.", path))}
        if 0 < len(found) < count:
            lacking = next(i for i in range(count) if str(i) not in found)
            raise ValueError(
                f"{folder / 'config.json'}: {name} = {count}, but the weights hold {len(found)}: "
                f"the folder lacks {stem}.{lacking}"
            )


def _other_format(params: Mapping[str, Any]) -> str:
    """The format, if it is one of `_OTHER_FORMATS`, else ""."""
    found = params.get("quantization_config")
    method = found.get("quant_method") if isinstance(found, dict) else None
    return method if method in _OTHER_FORMATS else ""


def _check_names(folder: Path, tensors: Mapping[str, Tensor], needed: set[str]) -> None:
    """Raise `ValueError` where a tensor is missing, or there and not of the model."""
    missing = sorted(needed - tensors.keys())
    if missing:
        # A tensor of a quantized matrix belongs beside the matrix.
        files = {tensors[w].file for p in missing if (w := f"{p.rpartition('.')[0]}.weight") in tensors}
        files = files or {tensor.file for tensor in tensors.values()}
        raise ValueError(f"{folder} ({listed(sorted(f.name for f in files))}) lacks {listed(missing)}")
    unexpected = sorted(tensors.keys() - needed)
    if unexpected:
        file = tensors[unexpected[0]].file
        own = [path for path in unexpected if tensors[path].file == file]
        module, _, kind = own[0].rpartition(".")
        if kind in _QUANTIZED and f"{module}.weight" in needed and f"{module}.scales" not in tensors:
            raise ValueError(f"{file} lacks {module}.scales beside {own[0]}")
        raise ValueError(f"{file} has tensors that this model does not: {listed(own)}")


def _check_tensor(path: str, tensor: Tensor, expected: Mapping[str, tuple[int, ...]], form: Form | None) -> None:
    """Raise `ValueError` where a tensor has not the shape and the type that its place needs."""
    module, _, kind = path.rpartition(".")
    if form is not None and kind in ("weight", *_QUANTIZED):
        shape, dtypes = form.stored(kind, expected[f"{module}.weight"])
    else:
        shape, dtypes = expected[path], _FLOATS
        if tensor.name != path:
            shape = official_shape(path, shape)
    if tensor.shape != shape:
        raise ValueError(f"{tensor.file} has {path} of shape {quote(tensor.shape)}, config.json asks for {shape}")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{tensor.file} has {path} in {tensor.dtype}; known here: {', '.join(dtypes)}")
