"""Folders with a random fault each: loaded, or refused in a sentence that names the folder, in bounded memory and time.

A fault is a key or an entry that is deleted, added or replaced, or bytes that are cut, flipped or inserted, in a JSON
file or in the header of a weights file. `support/mutated_folders.py` makes and loads them in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import mutated_folders, tiny
from support.conversions import convert_here

COUNT = 300
# A fault is mostly seen: of each kind of folder so many are refused at least, and some faults change nothing.
REFUSED = COUNT // 2


def run(source: Path, scratch: Path, seed: int) -> list[dict[str, object]]:
    """Lines of `mutated_folders.py`."""
    scratch.mkdir()
    script = mutated_folders.__file__
    command = [sys.executable, script, str(source), str(scratch), str(seed), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # others print too


@pytest.mark.parametrize("kind", ["official", "quantized"])
def test_random_faults(kind: str, tmp_path: Path) -> None:
    source = tiny.make_checkpoint(tmp_path / "official", shards=3)
    if kind == "quantized":
        source = convert_here(source, tmp_path / "quantized", quantize=True)
    *wrong, counts = run(source, tmp_path / "scratch", {"official": 0, "quantized": 10_000}[kind])
    assert not wrong, "\n".join(map(str, wrong))
    assert int(str(counts["refused"])) >= REFUSED and int(str(counts["loaded"])) >= 10
