"""`scripts/parity.py` with the official implementation, as a command. Needs torch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.running import environment

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from scripts import parity
from scripts.parity_answers import read_answer, write_answer

# Models this small only lose time to more threads.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def command(folder: Path, output: Path, *cases: str) -> list[str]:
    script, place = str(Path(parity.__file__)), str(output)
    return [
        *(sys.executable, script, str(folder), "--environment", sys.prefix, "--output", place),
        *("--cases", *cases),
    ]


def run(folder: Path, output: Path, *cases: str) -> tuple[int, str]:
    done = subprocess.run(
        command(folder, output, *cases),
        env=environment() | ONE_THREAD,
        capture_output=True,
        text=True,
        cwd=output.parent,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_both_sides_of_a_run_that_was_stopped(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Stopped behind its first answer it goes on; it is equal, in bfloat16 near; an altered answer is different."""
    folder, output = checkpoint("bf16"), tmp_path / "an output"
    with subprocess.Popen(
        command(folder, output, "text", "crop"),
        env=environment() | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("official float32: text"):
                os.kill(process.pid, signal.SIGTERM)
        assert "the same command goes on" in process.stderr.read()
    assert process.returncode == parity.INTERRUPTED

    status, shown = run(folder, output, "text", "crop")
    assert status == parity.EQUAL, shown
    assert "official float32: 1 of 2 cases are saved already" in shown or "2 of 2" in shown
    assert "equal: all stages of 2 cases" in shown
    content = json.loads((output / "parity.json").read_text(encoding="utf-8"))
    assert content["model"]["dtype"] == "bfloat16"
    for case in content["cases"]:
        assert set(case["costs"]) == {f"{s}-{d}" for s in ("official", "ours") for d in ("float32", "bfloat16")}
        for found in case["own_dtype"].values():
            assert 0 < found["ours"] < 0.2 and 0 < found["official"] < 0.2
    assert str(folder.parent) not in json.dumps(content) and str(Path.home()) not in json.dumps(content)

    path = next((output / "ours-float32").glob("crop-*.npz"))
    answer = read_answer(path)
    answer["logits"][0, 7] += 3e-4 * abs(answer["logits"]).max()
    write_answer(path, answer)
    status, shown = run(folder, output, "text", "crop")
    assert status == parity.DIFFERENT
    assert "different: 1 stages\ncrop: logits: off by 3.0e-04 of the largest value, allowed 1e-04\n" in shown


def test_ocr(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Of a float32 checkpoint that is all; its own case is there."""
    status, shown = run(checkpoint("ocr"), tmp_path / "out", "crop_adaptive")
    assert status == parity.EQUAL, shown
    assert "| crop_adaptive | " in shown and "bfloat16" not in shown
