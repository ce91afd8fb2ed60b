"""What a decode step costs a GPU, held to ceilings, so that it cannot grow unseen: `scripts/launches.py` counts."""

import json
from pathlib import Path

import pytest
from running import python

from minicpmv46.demo import CHECKPOINT

LAUNCHES = 179  # of the demo's 8 layers in bfloat16; mlx-vlm's own port has 238
# Rows of different lengths, once the prompt is in the cache: positions by row and a mask for attention.
PADDED_LAUNCHES = 184
SCRIPT = Path(__file__).parents[1] / "scripts" / "launches.py"


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
    """In a process of its own, since the counter replaces functions of mlx."""
    done = python(SCRIPT, CHECKPOINT, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["port"] == "minicpmv46.model"
    assert found["launches"] <= most, f"launches by kind: {found['kinds']}"
