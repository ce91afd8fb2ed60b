"""Conversions that cannot be, and folders that are in the way: nothing is half written."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm.utils import load_model
from support import tiny
from support.conversions import assert_same_tensors, convert_here, parameters, read_json
from support.quantized import Folders, assert_loads_as, stored_tensors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": True, "quant_predicate": "mixed_9_9"}, "mixed_9_9"),
        ({"quantize": True, "q_bits": 7}, "bits 7 is not supported"),
        ({"quantize": True, "q_group_size": 16}, "group size 16 is not supported"),
        ({"quantize": True, "q_mode": "mxfp4", "q_bits": 8}, "mxfp4 requires group_size=32, bits=4"),
        ({"quantize": True, "q_mode": "int4"}, "int4"),
        ({"quantize": True, "dequantize": True}, "either quantize or dequantize"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(x) for x in value.values()),
)
def test_refused_options(options: dict[str, Any], message: str, source: Folders, tmp_path: Path) -> None:
    """One error that names the value, and no folder."""
    with pytest.raises(ValueError, match=message):
        convert_here(source("base"), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_group_size_that_divides_nothing(source: Folders, tmp_path: Path) -> None:
    """mlx-vlm passes over matrices that a group size does not divide; a folder of plain weights says it is one."""
    folder = convert_here(source("base"), tmp_path / "out", quantize=True, q_group_size=48)
    assert_loads_as(folder, {})
    assert_same_tensors(parameters(load_model(folder)), parameters(load_model(source("base"))))


def test_incomplete_source(tmp_path: Path) -> None:
    """Refused before anything is written."""
    folder = tmp_path / "incomplete"
    tiny.make_checkpoint(folder, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00003"):
        convert_here(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_source_as_target(tmp_path: Path) -> None:
    """Refused before the weights are written over, by whatever path the folder is named."""
    folder = tiny.make_checkpoint(tmp_path / "folder")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    (tmp_path / "link").symlink_to(folder)
    for target in (folder, tmp_path / "link"):
        with pytest.raises(ValueError, match=f"{target} is the folder that the model is read from"):
            convert_here(folder, target, quantize=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_target_exists(converted: Folders, source: Folders, tmp_path: Path) -> None:
    """What another conversion left in a folder is replaced; a file in its place is refused."""
    shutil.copytree(converted("mixed"), tmp_path / "out")
    folder = convert_here(source("bf16"), tmp_path / "out")
    assert_same_tensors(stored_tensors(folder), stored_tensors(converted("bf16")))
    assert read_json(folder / "config.json") == read_json(converted("bf16") / "config.json")

    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        convert_here(source("base"), tmp_path / "file")
