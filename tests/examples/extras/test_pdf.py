"""PDFs in examples/folder_to_table.py: pages in their order beside pictures, and PDFs that cannot be read."""

from pathlib import Path

import pytest
from PIL import Image
from support.examples import DEMO, run

from minicpmv46.demo import sample

pytest.importorskip("pypdfium2")


def test_pdf(tmp_path: Path) -> None:
    """Pages at 72 dots an inch have the pixels that were put in, so their texts are those of the pictures."""
    folder = tmp_path / "my scans"
    folder.mkdir()
    first, second = (Image.open(sample(name)).convert("RGB") for name in ("read.png", "small.png"))
    first.save(folder / "two pages.pdf", save_all=True, append_images=[second], resolution=72, quality=98)
    (folder / "broken.PDF").write_bytes((folder / "two pages.pdf").read_bytes()[:400])
    answer = run("folder_to_table.py", folder, "-o", "report.md", "--model", DEMO, "--dpi", "72", folder=tmp_path)
    assert answer.returncode == 1, answer.stderr
    assert "report.md: 3 rows, 1 with an error" in answer.stdout
    broken, rest = (tmp_path / "report.md").read_text().split("## two pages.pdf, page 1", 1)
    assert broken.startswith("## broken.PDF, page 1\n\n> Failed to load document")
    assert rest == "\n\nK7RM2\n\n## two pages.pdf, page 2\n\nT5X\n"
