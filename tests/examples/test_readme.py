"""examples/README.md: its Python blocks run as they stand, and its table and commands name what is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.examples import DEMO, EXAMPLES, SECONDS, scans, variables

from minicpmv46.demo import sample

README = (EXAMPLES / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

# What each block prints with the demo checkpoint and its samples.
PRINTED = (
    r"right",
    r"K7RM2\n\d+ tokens read, 6 written, ended by stop",
    r"my scans/read\.png K7RM2",
    r"\{'number': '[A-Z0-9]{5}', 'paid': (True|False)\}",
    r"(?s).*picture\.png.*clip\.mp4.*",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the blocks name."""
    home = tmp_path_factory.mktemp("home")
    scans(home)
    shutil.copy(sample("read.png"), home / "picture.png")
    shutil.copy(sample("right.mp4"), home / "clip.mp4")
    return home


def test_blocks(home: Path) -> None:
    """All blocks in one process, each from the top; only the model's name is another."""
    assert len(BLOCKS) == len(PRINTED)
    program = "\nprint('-----')\n".join(BLOCKS).replace("openbmb/MiniCPM-V-4.6", DEMO)
    answer = subprocess.run(
        ["python", "-c", program],
        cwd=home,
        env=variables(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    printed = answer.stdout.split("-----\n")
    for block, text, expected in zip(BLOCKS, printed, PRINTED, strict=True):
        assert re.fullmatch(expected, text.strip()), (block, text)


def test_table() -> None:
    """The table names every example, and every command a file that is there."""
    there = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md", "resumable.py"}
    assert set(re.findall(r"^\| \[([^]]+)\]", README, re.MULTILINE)) == there
    assert set(re.findall(r"(?:python|bash) examples/(\S+)", README)) == there - {"tour.ipynb"}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "resumable.py"))
def test_examples_of_use(name: str) -> None:
    """The docstring, which `--help` shows, has a command that names the file."""
    docstring = (EXAMPLES / name).read_text("utf-8").split('"""')[1]
    assert f"\n    python examples/{name} " in docstring
