"""examples/folder_to_table.py: what is in the table, what a stopped run keeps, and what it says to wrong arguments."""

import csv
import json
import signal
from pathlib import Path

import pytest
from support.examples import DEMO, kept_rows, run, scans, start, stop, wait_for_rows

NAME = "folder_to_table.py"


def test_table(tmp_path: Path) -> None:
    """One row a picture, those of subfolders too; a file that is none gets its error, other files nothing.

    Started again, finished rows stay and the row with the error is made anew.
    """
    folder = scans(tmp_path)
    bad = folder / "bad.png"
    bad.write_text("no picture")
    (folder / "notes.txt").write_text("not read")
    (folder / "._read.png").write_text("hidden")
    command = (NAME, folder.name, "-o", "a table.csv", "--model", DEMO)
    first = run(*command, folder=tmp_path)
    assert first.returncode == 1, first.stderr
    assert "a table.csv: 3 rows, 1 with an error" in first.stdout
    table = tmp_path / "a table.csv"
    with table.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert {name: row["text"] for name, row in rows.items()} == {
        "bad.png": "",
        "more/SMALL.PNG": "T5X",
        "read.png": "K7RM2",
    }
    assert "cannot identify its format" in rows["bad.png"]["error"]
    assert rows["read.png"]["error"] == rows["more/SMALL.PNG"]["error"] == ""

    # A finished row that can be told from a new one, and a line that a killed run left half written.
    kept = tmp_path / "a table.csv.rows.jsonl"
    kept.write_text(kept.read_text().replace("K7RM2", "as it was") + '{"file": "read.pn')
    bad.write_bytes((folder / "read.png").read_bytes())
    second = run(*command, folder=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "2 of them read before" in second.stdout
    assert table.read_text().splitlines()[1:] == ["bad.png,0,K7RM2,", "more/SMALL.PNG,0,T5X,", "read.png,0,as it was,"]


def test_stopped(tmp_path: Path) -> None:
    """Ctrl-C ends with a hint, a kill without; both lose nothing but the batch that runs, and no row comes twice."""
    folder = scans(tmp_path, 6)
    output = tmp_path / "table.jsonl"
    command = (NAME, folder, "-o", output, "--model", DEMO, "--batch", "1", "--max-tokens", "8")
    process = start(*command, folder=tmp_path)
    wait_for_rows(process, output, 2)
    status, printed, errors = stop(process, signal.SIGINT)
    assert status == 130
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    interrupted = kept_rows(output)
    assert f"table.jsonl: {len(interrupted)} rows" in printed
    assert [json.loads(line) for line in output.read_text().splitlines()] == sorted(
        interrupted, key=lambda row: row["file"]
    )

    process = start(*command, folder=tmp_path)
    wait_for_rows(process, output, len(interrupted) + 2)
    assert stop(process, signal.SIGKILL)[0] == -signal.SIGKILL
    killed = kept_rows(output)
    assert killed[: len(interrupted)] == interrupted
    assert len(killed) < 8

    last = run(*command, folder=tmp_path)
    assert last.returncode == 0, last.stderr
    assert kept_rows(output)[: len(killed)] == killed
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    texts = {f"copy {number}.png": "K7RM2" for number in range(6)} | {"more/SMALL.PNG": "T5X", "read.png": "K7RM2"}
    assert [(row["file"], row["text"]) for row in rows] == sorted(texts.items())


def test_cut(tmp_path: Path) -> None:
    """An answer that --max-tokens cuts is said to be cut; a larger number makes that row anew, and no other."""
    folder = scans(tmp_path)
    (folder / "more" / "SMALL.PNG").unlink()
    command = (NAME, folder / "read.png", "-o", "page.md", "--model", DEMO, "--mode", "4x")
    assert run(*command, "--max-tokens", "3", folder=tmp_path).returncode == 1
    page = tmp_path / "page.md"
    assert page.read_text() == "## read.png\n\n> cut at 3 tokens: raise --max-tokens\n\nK7R\n"
    assert run(*command, folder=tmp_path).returncode == 0
    assert page.read_text() == "## read.png\n\nK7RM2\n"


def test_wrong_model(tmp_path: Path) -> None:
    """A model that is not there, and an option that it cannot have, end in one sentence and hinder no later run."""
    command = (NAME, scans(tmp_path), "-o", "t.csv")
    for model, option, words in (
        ("nowhere/model", (), "nowhere/model cannot be"),
        (DEMO, ("--max-slice-nums", "0"), "max_slice_nums"),
    ):
        answer = run(*command, "--model", model, *option, folder=tmp_path)
        assert answer.returncode == 1
        assert words in answer.stderr
        assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere", "-o", "t.csv"), 2, "nowhere does not exist"),
        (("my scans", "-o", "t.xlsx"), 2, "the name must end in .csv, .jsonl, .md"),
        (("my scans", "-o", "no folder/t.csv"), 2, "there is no folder"),
        (("my scans", "-o", "t.csv", "--batch", "17"), 2, "--batch is 1 to 16"),
        (("empty", "-o", "t.csv"), 1, "empty has no pictures"),
        (("my scans", "-o", "mine.csv"), 1, "mine.csv exists and is of no earlier run"),
        (("my scans", "-o", "earlier.csv", "--prompt", "Other?"), 1, "rows of an earlier run with other settings"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    """Each ends before anything is loaded, and what is there stays."""
    scans(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "earlier.csv.rows.jsonl").write_text('{"prompt": "Read"}\n{"file": "a", "page": 0}\n')
    answer = run(NAME, *arguments, folder=tmp_path)
    assert (answer.returncode, answer.stdout) == (status, "")
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert len(kept_rows(tmp_path / "earlier.csv")) == 1
