"""What a decode step costs a GPU, held to ceilings, so that it cannot grow unseen: `scripts/launches.py` counts."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import convert
from support.running import python

from minicpmv46.demo import CHECKPOINT

LAUNCHES = 159  # of the demo's 8 layers in bfloat16; mlx-vlm's own port has 238
# Rows of different lengths, once the prompt is in the cache: positions by row and a mask for attention.
PADDED_LAUNCHES = 161
# The embedding's rows are dequantized, and scales come with them.
QUANTIZED_LAUNCHES = 170
SCRIPT = Path(__file__).parents[1] / "scripts" / "launches.py"


def count(folder: Path, checkpoint: Path, *arguments: str) -> dict[str, Any]:
    """What the script prints; in a process of its own, since the counter replaces functions of mlx."""
    done = python(SCRIPT, checkpoint, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["port"] == "minicpmv46.model"
    return found


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (("--rows", "1"), LAUNCHES),
        (("--rows", "4"), LAUNCHES),
        (("--rows", "4", "--padded"), PADDED_LAUNCHES),
    ],
    ids=["one row", "four rows", "four padded rows"],
)
def test_launches_of_a_decode_step(tmp_path: Path, arguments: tuple[str, ...], most: int) -> None:
    found = count(tmp_path, CHECKPOINT, *arguments)
    assert found["launches"] <= most, f"launches by kind: {found['kinds']}"


def test_quantized_decode_step(tmp_path: Path) -> None:
    """Projections stay one product when quantized, and a step reads a third of the bytes."""
    folder = tmp_path / "4-bit"
    convert(str(CHECKPOINT), str(folder), quantize=True, q_bits=4)
    found = count(tmp_path, CHECKPOINT), count(tmp_path, folder)
    assert found[1]["kinds"]["QuantizedMatmul"] == found[0]["kinds"]["Matmul"]
    assert found[1]["launches"] <= QUANTIZED_LAUNCHES, f"launches by kind: {found[1]['kinds']}"
    assert found[1]["bytes"] < found[0]["bytes"] / 3
