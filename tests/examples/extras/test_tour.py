"""examples/tour.ipynb runs from top to bottom offline, and its outputs that are committed are those of today."""

import re
from pathlib import Path

import pytest
from support.examples import EXAMPLES, variables

pytest.importorskip("ipykernel")
pytest.importorskip("nbclient")

from scripts.run_notebook import executed, texts

TOUR = EXAMPLES / "tour.ipynb"


def test_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat

    for name, value in variables().items():
        monkeypatch.setenv(name, value)
    committed = nbformat.read(TOUR, as_version=4)
    notebook = executed(TOUR, tmp_path)
    *found, table = texts(notebook)
    *expected, _ = texts(committed)
    assert found == expected, "if that is meant: python scripts/run_notebook.py examples/tour.ipynb"
    pictures = [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/plain" in output.get("data", {})
    ]
    assert sum(any(kind.startswith("image/") for kind in data) for data in pictures) == 8
    # A little below what there are, for other machines' last bits.
    assert int(re.search(r"(\d+) of 20 read right", table)[1]) >= 15
    assert TOUR.stat().st_size < 300_000


def test_answers() -> None:
    """What the committed outputs say, so that nobody commits outputs of a broken model."""
    import nbformat

    said = "\n".join(texts(nbformat.read(TOUR, as_version=4)))
    for answer in ("'K7RM2'", "['a blue star', 'a red circle']", "'right'", "320 visual tokens, answer 'T5X'"):
        assert answer in said
