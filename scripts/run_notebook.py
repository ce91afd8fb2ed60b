"""Run a notebook from top to bottom and keep its outputs in it: `python scripts/run_notebook.py examples/tour.ipynb`.

Pictures are kept as JPEG where that is smaller, so that the file stays small; warnings are left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

SECONDS = 300  # for each cell


def executed(path: Path, folder: Path) -> Any:
    """The notebook with new outputs, run in `folder`; a cell that raises ends it with that cell's error."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                _keep_smaller(output.get("data", {}))
    return notebook


def texts(notebook: Any) -> list[str]:
    """What each code cell prints or answers in words."""
    return [
        "".join(output.get("text", "") or output.data["text/plain"] for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _keep_smaller(data: dict[str, str]) -> None:
    kinds = sorted((kind for kind in data if kind.startswith("image/")), key=lambda kind: len(data[kind]))
    for kind in kinds[1:]:
        del data[kind]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    notebook = executed(path, path.parent)
    nbformat.write(notebook, path)
    print(f"{path}: {path.stat().st_size:,} bytes")
