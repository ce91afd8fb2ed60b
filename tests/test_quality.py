"""`scripts/quality.py`: a folder against itself, against a coarser form of it, and what it says of a wrong folder."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.conversions import convert_here, read_json

from minicpmv46.demo import CHECKPOINT, sample
from scripts import quality

TEXT = "What is 7 plus 8? 15\nThe capital of France is Paris, and grass is green.\n" * 3


def judged(folder: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """What the script writes for a folder against the demo checkpoint."""
    quality.main([str(folder), "--against", str(CHECKPOINT), "--json", str(out), *arguments])
    return read_json(out)


@pytest.fixture(scope="module")
def two_bits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert_here(CHECKPOINT, tmp_path_factory.mktemp("quality") / "2bit", quantize=True, q_bits=2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def test_folder_against_itself(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(CHECKPOINT, tmp_path / "out.json", "--texts", str(text), "--images", sample("read.png"))
    for kind in ("texts", "answers", "all"):
        row = found[kind]
        assert (row["mean_kl"], row["largest_kl"], row["same_first_choice"]) == (0, 0, 1)
        assert row["perplexity"] == row["reference_perplexity"] > 1
    assert found["all"]["positions"] == found["texts"]["positions"] + found["answers"]["positions"]
    assert "| texts |" in capsys.readouterr().out


def test_coarser_form(tmp_path: Path, two_bits: Path) -> None:
    """On the demo's pictures and questions: its answers still are the likely ones, yet not as likely."""
    found = judged(two_bits, tmp_path / "out.json")
    row = found["answers"]
    assert 0 < row["mean_kl"] < 1
    assert row["mean_kl"] < row["largest_kl"] < 20
    assert 0.5 < row["same_first_choice"] <= 1
    assert row["perplexity"] > row["reference_perplexity"]
    assert len(found["passages"]) == len(quality.DEMO_PICTURES) + len(quality.QUESTIONS)


def test_text_in_pieces(tmp_path: Path, two_bits: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of positions, and of what is read before them, change nothing; only a new context does."""
    whole = judged(two_bits, tmp_path / "whole.json", "--texts", str(text))["texts"]
    monkeypatch.setattr(quality, "PIECE", 7)
    monkeypatch.setattr(quality, "PREFILL", 5)
    pieces = judged(two_bits, tmp_path / "pieces.json", "--texts", str(text))["texts"]
    assert whole["positions"] == pieces["positions"] > 20
    assert pieces["mean_kl"] == pytest.approx(whole["mean_kl"], rel=0.1)  # bfloat16
    monkeypatch.setattr(quality, "CONTEXT", 10)
    anew = judged(two_bits, tmp_path / "anew.json", "--texts", str(text))["texts"]
    assert anew["positions"] < whole["positions"]


def test_answer_along_one_path(tmp_path: Path) -> None:
    """The answer that is compared is the reference's own, its end included, and options reach the processor."""
    loaded = quality.load(CHECKPOINT)
    picture = Path(sample("read.png"))
    passage = quality.answer_passage(loaded, "What does it say?", picture, 12, {})
    said = loaded[1].tokenizer.decode(passage.ids[passage.first :])
    assert said == "K7RM2<|im_end|>"
    wide = quality.answer_passage(loaded, "What does it say?", picture, 12, {"downsample_mode": "4x"})
    assert wide.first > passage.first
    short = quality.answer_passage(loaded, "What does it say?", picture, 2, {})
    assert short.positions == 2


@pytest.mark.parametrize("place", ["folder", "--against"])
def test_wrong_folder(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    def message(wrong: Path) -> str:
        folders = (wrong, CHECKPOINT) if place == "folder" else (CHECKPOINT, wrong)
        with pytest.raises(SystemExit) as raised:
            quality.main([str(folders[0]), "--against", str(folders[1])])
        assert raised.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "there is no such folder; name one that holds a checkpoint" in message(tmp_path / "missing")
    assert "holds no config.json; name the folder of a checkpoint" in message(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "config.json has model_type 'llama', expected 'minicpmv4_6'" in message(tmp_path)


def test_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    with pytest.raises(SystemExit, match="cannot be loaded"):
        quality.load(tmp_path)


def test_other_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny.make_checkpoint(tmp_path / "other", "base")
    with pytest.raises(SystemExit):
        quality.main([str(other), "--against", str(CHECKPOINT)])
    assert "other has a vocabulary of 512 tokens, " in capsys.readouterr().err


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [str(CHECKPOINT), "--against", str(CHECKPOINT)]
    for wrong, message in (
        (["--texts", str(tmp_path / "none.txt")], "no such file"),
        (["--max-tokens", "0"], "must be at least 1"),
        (["--processor-kwargs", "[1]"], "must be an object"),
    ):
        with pytest.raises(SystemExit):
            quality.main([*both, *wrong])
        assert message in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(SystemExit, match="too short"):
        quality.main([*both, "--texts", str(tmp_path / "empty.txt")])
