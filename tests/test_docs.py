"""README and docs: links lead somewhere, tables agree with the code, commands and Python blocks run as printed.

Where they name a checkpoint of the hub, a small one answers; files that they name are the demo's samples.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.running import environment, python

from minicpmv46 import demo
from minicpmv46.limits import Limits
from minicpmv46.option_names import OPTIONS

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")})
FRONT_PAGE = 9_000  # bytes
MODELS = {"openbmb/MiniCPM-V-4.6": "demo", "openbmb/MiniCPM-OCR-1.0": "ocr"}
FILES = {"photo.jpg": "star.png", "page.png": "small.png", "crop.png": "read.png", "clip.mp4": "right.mp4"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_cells(page: str, heading: str) -> list[str]:
    """Names in code style in the first column of the first table after a heading."""
    table = f"\n{text_of(page)}".split(f"\n{heading}\n")[1].split("\n|", 1)[1].split("\n\n")[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_front_page_is_short() -> None:
    assert len(text_of("README.md").encode()) < FRONT_PAGE


def test_tables_of_options_and_limits() -> None:
    """Each option and each limit has a row, and there are no others."""
    halves = {"images_kwargs", "videos_kwargs"}
    assert sorted(first_cells("docs/options.md", "# Options, limits, glossary")) == sorted(OPTIONS)
    assert sorted(first_cells("README.md", "## Options")) == sorted(set(OPTIONS) - halves)
    assert sorted(first_cells("docs/options.md", "## Limits")) == sorted(Limits.__dataclass_fields__)


def test_files_that_are_named() -> None:
    """Scripts and tests that the pages name exist."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"(?<![\w/])((?:scripts|tests|examples|docs)/[\w/]+\.(?:py|sh|md|ipynb))\b", text):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
    for name in re.findall(r"`((?:\w+/)?test_\w+|\w+/)`", text_of("docs/features.md")):
        found = ROOT / "tests" / (name if name.endswith("/") else f"{name}.py")
        assert found.exists(), f"docs/features.md names {name}"


def test_messages_are_those_of_the_code() -> None:
    """What troubleshooting quotes in its first columns stands in the package's source, or is another's."""
    others = {
        "vision feature token count does not match image placeholder span length",
        "feature token count does not match",
        "Model type minicpm_ocr not supported",
        "Error code: 400",
        "No module named 'mlx_vlm'",
        "No module named minicpmv46",
        "libmlx.so: cannot open shared object file",
        "libmlx.so: cannot open",
    }
    files = [ROOT / "minicpmv46-hook.pth", *(ROOT / "minicpmv46").rglob("*.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    rows = (
        text_of("docs/troubleshooting.md").splitlines()
        + text_of("README.md").split("something is wrong")[1].splitlines()
    )
    quoted = [text for row in rows if row.startswith("| ") for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(quoted) > 20
    for text in quoted:
        assert text in source or text in others, text


@pytest.fixture(scope="module")
def desk(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name, whose path has a space."""
    folder = tmp_path_factory.mktemp("a desk")
    for name, sample in FILES.items():
        shutil.copy(demo.sample(sample), folder / name)
    (folder / "scans").mkdir()
    for sample in ("read.png", "small.png", "star.png"):
        shutil.copy(demo.sample(sample), folder / "scans")
    (folder / "demo").symlink_to(demo.path())
    (folder / "ocr").symlink_to(checkpoint("ocr"))
    return folder


def with_small_models(text: str) -> str:
    for name, folder in MODELS.items():
        text = text.replace(name, folder)
    return text


@pytest.mark.parametrize("page", ["README.md", "docs/use.md"])
def test_python_blocks(page: str, desk: Path, folder: Path) -> None:
    """The blocks of a page, one after the other in one program."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL))
    assert code
    done = python("-c", with_small_models(code), folder=desk)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip()


def commands(page: str, start: str) -> list[str]:
    return [line.strip() for line in text_of(page).splitlines() if line.startswith(f"    {start}")]


GENERATE = sorted(
    {line for page in ("README.md", "docs/use.md") for line in commands(page, "python -m mlx_vlm.generate")}
)


@pytest.mark.parametrize("command", GENERATE, ids=range(len(GENERATE)))
def test_generate_commands(command: str, desk: Path, folder: Path) -> None:
    done = python(*shlex.split(with_small_models(command))[1:], folder=desk)
    assert done.returncode == 0, done.stderr.decode()


SHOWING = sorted({line for page in ("README.md", "docs/use.md") for line in commands(page, "python -m minicpmv46 ")})


@pytest.mark.parametrize("command", SHOWING, ids=range(len(SHOWING)))
def test_showing_commands(command: str, desk: Path, folder: Path) -> None:
    """In a shell, since they ask the demo for its files."""
    here = {**environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", with_small_models(command)], cwd=desk, env=here, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    for picture in re.findall(r"-o (\S+)", command):
        assert (desk / picture).stat().st_size > 1000


def test_server_command_has_flags_that_exist(desk: Path, folder: Path) -> None:
    """The server's own tests start it; here only what the page prints is looked at."""
    [command] = commands("docs/server.md", "python -m mlx_vlm.server")
    known = python("-m", "mlx_vlm.server", "--help", folder=desk).stdout.decode()
    flags = re.findall(r"(--[\w-]+) ", command)
    assert len(flags) > 3
    assert all(flag in known for flag in flags)


def test_json_in_pages_is_json() -> None:
    for page in PAGES:
        for given in re.findall(r"--processor-kwargs '([^']*)'", page.read_text(encoding="utf-8")):
            assert isinstance(json.loads(given), dict), page.name
