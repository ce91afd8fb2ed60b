"""Headers of safetensors files that contradict themselves, the file or `config.json`: refused with the file's name.

Only headers are read, so a file may state any size without costing more than its header.
"""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_vlm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.conversions import convert_here

from minicpmv46.checkpoint import check_checkpoint
from minicpmv46.shards import HEADER_BYTES, read_header

Header = dict[str, Any]
Change = Callable[[Header], object]

NORM = "model.language_model.norm.weight"
SQUARE = "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight"
UP = "model.language_model.layers.0.mlp.up_proj.weight"
CONV = "model.language_model.layers.0.linear_attn.conv1d.weight"
PATCHES = "model.vision_tower.embeddings.patch_embedding.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.make_checkpoint(tmp_path / "folder")


def edit_header(file: Path, change: Change) -> None:
    """Another header before the same numbers."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    write(file, json.dumps(header).encode(), content[8 + length :])


def write(file: Path, header: bytes, numbers: bytes = b"") -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + numbers)


def entry(**values: Any) -> Change:
    """Other values for the norm's entry; its 64 numbers are float32."""
    return lambda header: header[NORM].update(values)


def moved(begin: int) -> Change:
    """The norm's numbers at another place."""
    return lambda header: header[NORM].update(data_offsets=[begin, begin + 256])


CHANGES: dict[str, Change] = {
    **{
        f"dtype {x!r}": entry(dtype=x)
        for x in ("F31", "f32", "F64", "F8_E5M2", "", None, 32, True, ["F32"], "x" * 9999)
    },
    **{f"other dtype {x!r}": entry(dtype=x) for x in ("I32", "U32", "F16", "C64", "BOOL")},
    **{
        f"shape {x!r}": entry(shape=x)
        for x in (None, 64, "64", [-64], [-8, -8], [64.0], [True], [[64]], ["64"], {}, [32], [2**31], [10**400])
    },
    "shape of many axes": entry(shape=[1] * 2000 + [64]),
    "shape that wraps around": entry(shape=[2**32, 2**32, 64]),
    **{
        f"data_offsets {x!r}": entry(data_offsets=x)
        for x in (
            None,
            0,
            [0],
            [0, 1, 2],
            ["0", "256"],
            [0.0, 256.0],
            [False, 256],
            [-256, 0],
            [256, 0],
            {},
            [0, 2**70],
        )
    },
    "data_offsets without end": entry(data_offsets=[0, 2**70]),
    "data_offsets behind the end": moved(10**9),
    "data_offsets that overlap": moved(4),
    "data_offsets of another tensor": lambda header: header[NORM].update(data_offsets=header[SQUARE]["data_offsets"]),
    "no dtype": lambda header: header[NORM].pop("dtype"),
    "no shape": lambda header: header[NORM].pop("shape"),
    "no data_offsets": lambda header: header[NORM].pop("data_offsets"),
    **{f"entry {x!r}": (lambda header, x=x: header.update({NORM: x})) for x in (None, [], 1, "x", {})},
    **{f"__metadata__ {x!r}": (lambda header, x=x: header.update(__metadata__=x)) for x in (["x"], 1, {"a": 1})},
}


def error_of(folder: Path, file: Path) -> str:
    with pytest.raises(ValueError) as raised:
        check_checkpoint(folder)
    assert str(file) in str(raised.value) and len(str(raised.value)) < 1000
    return str(raised.value)


@pytest.mark.parametrize("name", CHANGES)
def test_contradictions(name: str, folder: Path) -> None:
    edit_header(folder / "model.safetensors", CHANGES[name])
    error_of(folder, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", ["I64", "U64"])
def test_integers_in_the_place_of_numbers(dtype: str, folder: Path) -> None:
    """A whole entry of a type that no parameter has."""
    edit_header(folder / "model.safetensors", entry(dtype=dtype, shape=[32]))
    edit_header(folder / "model.safetensors", entry(shape=[32]))
    assert "(32,)" in error_of(folder, folder / "model.safetensors")
    weights = dict(mx.load(str(folder / "model.safetensors")))
    weights[NORM] = mx.zeros(64, mx.int64 if dtype == "I64" else mx.uint64)
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    assert f"in {dtype}" in error_of(folder, folder / "model.safetensors")


def test_name_twice(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    again = json.dumps({NORM: json.loads(header)[NORM]})[1:]
    write(file, header[:-1] + b", " + again.encode(), content[8 + length :])
    assert NORM in error_of(folder, file)


def test_header_over_the_bound(folder: Path) -> None:
    """Neither read nor believed: the file has no blocks."""
    file = folder / "model.safetensors"
    with file.open("wb") as stream:
        stream.write((HEADER_BYTES + 1).to_bytes(8, "little") + b"{")
        stream.truncate(2**40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"{HEADER_BYTES + 1:,} bytes" in error_of(folder, file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# Shapes


@pytest.mark.parametrize("name", [UP, CONV, PATCHES])
def test_transposed(name: str, folder: Path) -> None:
    """The numbers of a shape that has the same sides in another order."""
    edit_header(folder / "model.safetensors", lambda header: header[name]["shape"].reverse())
    assert "config.json asks for" in error_of(folder, folder / "model.safetensors")


@pytest.mark.parametrize("name", [UP, CONV])
def test_transposed_in_the_layout_of_conversions(name: str, folder: Path, tmp_path: Path) -> None:
    """There convolutions have MLX's order; the official one is as wrong as any other."""
    quantized = convert_here(folder, tmp_path / "quantized", quantize=True)
    check_checkpoint(quantized)
    file = quantized / "model.safetensors"
    own = name.replace("model.language_model.", "language_model.model.")
    edit_header(file, lambda header: header[own].update(shape=header[own]["shape"][:1] + header[own]["shape"][:0:-1]))
    if name == UP:
        check_checkpoint(quantized)  # two sides: the first stayed
        edit_header(file, lambda header: header[own]["shape"].reverse())
    assert "config.json asks for" in error_of(quantized, file)


def quantized_faults() -> dict[str, tuple[str, Change]]:
    """What `config.json` says of a folder of four bits, and is not so."""
    return {
        "bits": ("config.json asks for", lambda q: q.update(bits=8)),
        "group_size": ("config.json asks for", lambda q: q.update(group_size=32)),
        "mode": ("quantization.group_size = 64", lambda q: q.update(mode="mxfp4")),
        "whole mode": ("embed_tokens.biases", lambda q: q.update(mode="mxfp4", group_size=32, bits=4)),
        **{f"bits {x!r}": ("quantization.bits", lambda q, x=x: q.update(bits=x)) for x in (0, "4", None, 4.0, 10**12)},
        **{f"group {x!r}": ("quantization.group_size", lambda q, x=x: q.update(group_size=x)) for x in (0, -64, True)},
        **{f"mode {x!r}": ("quantization.mode", lambda q, x=x: q.update(mode=x)) for x in (0, "int4", None)},
        "no bits": ("quantization has no bits", lambda q: q.pop("bits")),
        "nothing": ("quantization has no group_size", lambda q: q.clear()),
    }


@pytest.mark.parametrize("name", quantized_faults())
def test_quantization(name: str, folder: Path, tmp_path: Path) -> None:
    told, change = quantized_faults()[name]
    quantized = convert_here(folder, tmp_path / "quantized", quantize=True)
    config = json.loads((quantized / "config.json").read_text())
    config["quantization"] = {k: v for k, v in config["quantization"].items() if not isinstance(v, dict)}
    change(config["quantization"])
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as raised:
        check_checkpoint(quantized)
    assert told in str(raised.value) and str(quantized) in str(raised.value)


@pytest.mark.parametrize("value", [[], "4bit", 4, True])
def test_quantization_that_is_no_section(value: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"quantization": value},
        {"quantization_config": value},
        {"quantization_config": {"quant_method": 5}},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        error_of(folder, folder / "config.json")


# Any header


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_ENTRIES = st.fixed_dictionaries({"dtype": _VALUES, "shape": _VALUES, "data_offsets": _VALUES}) | _VALUES
_SIZED = st.builds(
    lambda side, begin: {"dtype": "F32", "shape": [side], "data_offsets": [begin, begin + 4 * side]},
    st.integers(0, 9),
    st.integers(0, 40),
)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text(max_size=8), _ENTRIES | _SIZED, max_size=4), numbers=st.integers(0, 64))
def test_header_of_any_values(header: Header, numbers: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What passes is read by MLX, with the same names and shapes."""
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    write(file, json.dumps(header).encode(), bytes(numbers))
    try:
        tensors = read_header(file)
    except ValueError as error:
        assert str(file) in str(error) and len(str(error)) < 1000
        return
    assert {name: x.shape for name, x in mx.load(str(file)).items()} == {n: t.shape for n, t in tensors.items()}


def test_whole_folder_still_loads(folder: Path) -> None:
    mlx_vlm.load(str(folder))
