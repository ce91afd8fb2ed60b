"""The table of lines to break: each line is there once, and CONTRIBUTING.md shows the table. `--run` is for people."""

from pathlib import Path

import pytest

from scripts.breaks import BREAKS, Break, table

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("row", BREAKS, ids=lambda row: row.what)
def test_the_line_is_there(row: Break) -> None:
    source = (ROOT / "minicpmv46" / row.file).read_text(encoding="utf-8")
    assert source.count(row.right) == 1
    compile(source.replace(row.right, row.wrong), row.file, "exec")


def test_contributing_has_the_table() -> None:
    assert table(BREAKS) in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
