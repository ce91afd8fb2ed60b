"""Values of the processor's files: a wrong type or a value out of range is refused by its name, with the folder."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.conversions import read_json

from minicpmv46.processing import Processor

WRONG: tuple[Any, ...] = ("12", "x" * 100_000, [], [12], {}, {"a": 1}, math.nan, math.inf, True, -1, 0, 10**400, -1e308)
SECTIONS = ("image_processor", "video_processor")


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("base"), tmp_path / "folder"))


def error_of(folder: Path, section: str, name: str, value: Any) -> str:
    """What reading the folder says with another value in a section."""
    content = read_json(folder / "processor_config.json")
    changed = {**content, section: {**content[section], name: value}}
    (folder / "processor_config.json").write_text(json.dumps(changed))
    try:
        with pytest.raises(ValueError) as raised:
            Processor.from_pretrained(folder)
    finally:
        (folder / "processor_config.json").write_text(json.dumps(content))
    message = str(raised.value)
    assert str(folder) in message and section in message and name in message and len(message) < 1000, message
    return message


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_mean_and_deviation(name: str, section: str, folder: Path) -> None:
    """Three finite numbers each, a deviation above zero."""
    lists = ([0.5, 0.5], [0.5] * 4, [0.5, 0.5, "x"], [0.5, None, 0.5], [0.5, True, 0.5], [0.5, math.nan, 0.5], 0.5)
    lists += ([[0.5, 0.5], [0.5, 0.5]], [0.5, 0.5, 1e308], [[0.5, 0.5, {}]])
    for value in (*WRONG, *lists, *(([0.5, 0, 0.5], [0.5, -0.5, 0.5]) if name == "image_std" else ())):
        error_of(folder, section, name, value)


@pytest.mark.parametrize("section", SECTIONS)
def test_rescale_factor(section: str, folder: Path) -> None:
    for value in (*WRONG, 1e-320, 1e9):
        error_of(folder, section, "rescale_factor", value)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", ["max_slice_nums", "scale_resolution", "patch_size"])
def test_sizes(name: str, section: str, folder: Path) -> None:
    for value in (*WRONG, 448.0, 10**12):
        error_of(folder, section, name, value)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("name", ["use_image_id", "slice_mode", "do_resize", "do_normalize", "downsample_mode"])
def test_switches(name: str, section: str, folder: Path) -> None:
    for value in ("no", "true", 0, 1, [], {}, math.nan):
        error_of(folder, section, name, value)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [[], [1], "", "x", 0, 5, True])
def test_sections(value: Any, section: str, folder: Path) -> None:
    content = read_json(folder / "processor_config.json")
    (folder / "processor_config.json").write_text(json.dumps({**content, section: value}))
    with pytest.raises(ValueError, match=f"{section} must be an object") as raised:
        Processor.from_pretrained(folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize("value", [0, -1, True, "12", 1.5, None, []])
def test_length_of_the_context(value: Any, folder: Path) -> None:
    """The processor takes its limit from the model's file."""
    config = read_json(folder / "config.json")
    config["text_config"]["max_position_embeddings"] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError) as raised:
        Processor.from_pretrained(folder)
    assert str(folder) in str(raised.value) and "text_config.max_position_embeddings" in str(raised.value)
