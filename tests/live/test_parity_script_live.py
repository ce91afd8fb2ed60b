"""`scripts/parity.py` with the official implementation. Needs torch."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch

from scripts import parity, parity_official, parity_ours
from scripts.parity_answers import read_answer, write_answer
from scripts.parity_cases import cases
from scripts.parity_compare import CLOSE, compare, compare_rounded


def test_the_whole_script(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Equal; and different once a number in a saved answer is altered, with nothing computed anew."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # models this small only lose time to more
    folder, output = checkpoint("ocr"), tmp_path / "an output"
    arguments = [str(folder), "--environment", sys.prefix, "--output", str(output), "--cases", "text", "crop_adaptive"]
    status = parity.main(arguments)
    shown = capfd.readouterr()
    assert status == parity.EQUAL, shown
    assert shown.out.index("official float32: text") < shown.out.index("ours float32: crop_adaptive")
    assert "equal: all stages of 2 cases" in shown.out and not shown.err
    content = json.loads((output / "parity.json").read_text(encoding="utf-8"))
    assert [case["name"] for case in content["cases"]] == ["text", "crop_adaptive"]
    assert content["official"]["versions"]["torch"].startswith("2.14.1")
    assert str(folder.parent) not in json.dumps(content) and str(Path.home()) not in json.dumps(content)

    path = next((output / "ours-float32").glob("crop_adaptive-*.npz"))
    answer = read_answer(path)
    answer["logits"][0, 7] += 3e-4 * abs(answer["logits"]).max()
    write_answer(path, answer)
    assert parity.main(arguments) == parity.DIFFERENT
    shown = capfd.readouterr()
    assert "ours float32: 2 of 2 cases are saved already" in shown.out
    assert "different: 1 stages\ncrop_adaptive: logits: off by 3.0e-04 of the largest value, allowed 1e-04" in shown.out


def test_both_dtypes(checkpoint: Callable[[str], Path]) -> None:
    """A bfloat16 checkpoint: equal in float32, and in bfloat16 about as far from that as the official answer."""
    folder, case = checkpoint("bf16"), cases("minicpmv4_6")["crop"]
    official, rounded = (
        parity_official.Official(folder, "minicpmv4_6", dtype).answer(case) for dtype in (torch.float32, torch.bfloat16)
    )
    exact = parity_ours.load(str(folder), "float32")
    found = compare(parity_ours.answer_of(*exact, case, official["vision_features"]), official)
    assert {stage: x.why for stage, x in found.items() if not x.equal} == {}
    ours = parity_ours.answer_of(*parity_ours.load(str(folder), "bfloat16"), case, None)
    for stage, errors in compare_rounded(ours, rounded, official).items():
        assert stage in CLOSE and 1e-4 < errors.ours < 0.2 and 1e-4 < errors.official < 0.2
