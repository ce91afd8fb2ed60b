"""examples/resumable.py: at any moment, the rows that a run knows are those on the disk."""

import os
from pathlib import Path

import pytest
from support.examples import kept_rows


def test_stopped_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after a row is written and before `add` returns: the row is finished, here and in the next run."""
    from resumable import Rows

    output, settings = tmp_path / "table.jsonl", {"model": "some"}
    rows = Rows(output, settings)
    rows.add([{"number": 0}])

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rows.add([{"number": 1}, {"number": 2}])
    assert rows.rows == kept_rows(output) == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert Rows(output, settings).rows == rows.rows


def test_error_of_this_run(tmp_path: Path) -> None:
    """A row with an error counts in the run that made it, and the next run makes it anew."""
    from resumable import Rows

    output = tmp_path / "table.jsonl"
    rows = Rows(output, {})
    rows.add([{"number": 0, "error": "unreadable"}, {"number": 1, "error": ""}])
    assert [row["number"] for row in rows.rows] == [0, 1]
    assert [row["number"] for row in Rows(output, {}).rows] == [1]
