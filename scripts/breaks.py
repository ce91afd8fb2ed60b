"""Break one line at a time and see which test says so: a table for newcomers, and a check of the tests.

    python scripts/breaks.py            print the table
    python scripts/breaks.py --run      break each line in a copy of the project and run its test there
    python scripts/breaks.py --run "row joiner" "slice count"

Ends with status 1 where a break is not caught, or where an unbroken copy fails. CONTRIBUTING.md has the table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GOLDEN = "tests/test_parity_golden.py"  # compares every stage with the recorded answers


@dataclass(frozen=True)
class Break:
    """A line that is wrong.

    Attributes:
        what: what the line decides.
        file: in `minicpmv46/`.
        right, wrong: the line's part that is replaced, and by what. `right` stands once in the file.
        case: test of `tests/test_parity_golden.py` (`pytest -k`) that catches the break.
        names: what the failing test's report has, so that a reader learns which stage it is.
    """

    what: str
    file: str
    right: str
    wrong: str
    case: str
    names: str


BREAKS = (
    Break("slice count", "slicing.py", "(wanted - 1, wanted, wanted + 1)", "(wanted,)", "geometry", "assert_plan"),
    Break(
        "size of a unit",
        "slicing.py",
        "max(round(length / divisor)",
        "max(int(length / divisor)",
        "geometry",
        "overview",
    ),
    Break(
        "row joiner", "prompt.py", '"\\n".join("".join(pieces', '"".join("".join(pieces', "page_sliced", '"input_ids"'
    ),
    Break("image id", "prompt.py", "seen[token] += 1", "seen[token] += 2", "chat_two_pictures", '"input_ids"'),
    Break("resize of frames", "resize.py", "levels += 0.5", "levels += 0.4", "clip_short", "units whose pixels differ"),
    Break(
        "order in a patch",
        "image.py",
        ".transpose(0, 2, 1, 3, 4)",
        ".transpose(0, 2, 3, 1, 4)",
        "photo_portrait",
        "unit_crc",
    ),
    Break("frames of a clip", "sampling.py", "int(i * fps) for i", "round(i * fps) for i", "sampling", "sample_units"),
    Break(
        "stacked pictures",
        "video.py",
        "LINE_WIDTH = 6",
        "LINE_WIDTH = 5",
        "clip_stack_3_square",
        "units whose pixels differ",
    ),
    Break(
        "position ids",
        "vision.py",
        "* table_side // n for n",
        "* (table_side - 1) // n for n",
        "photo_portrait",
        "vision features",
    ),
    Break("window merger", "merger.py", "x.mean(axis=1) + r", "x[:, 0] + r", "photo_portrait", "vision features"),
    Break(
        "merger's GELU",
        "merger.py",
        "nn.gelu(self.linear_1",
        "gelu_tanh(self.linear_1",
        "photo_portrait",
        "vision features",
    ),
    Break("rotary embedding", "decoder.py", "traditional=False", "traditional=True", "text_hello", "hidden states"),
    Break(
        "delta rule",
        "gated_delta.py",
        "causal, mx.exp(between)",
        "below, mx.exp(between)",
        "text_hello",
        "hidden states",
    ),
    Break(
        "checkpoint key",
        "weights.py",
        '"model.merger.": "merger."',
        '"model.merge.": "merger."',
        "photo_portrait",
        "parameters not in model",
    ),
)


def table(rows: Sequence[Break]) -> str:
    """The rows in Markdown."""
    lines = ["| what breaks | file | line | becomes | case | its report names |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.what} | `{row.file}` | `{row.right}` | `{row.wrong}` | `{row.case}` | `{row.names}` |" for row in rows
    ]
    return "\n".join(lines)


def report(cases: Sequence[str], folder: Path) -> tuple[int, str]:
    """Exit status and output of these cases in a copy of the project; stops at the first failure."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--no-header",
            "-p",
            "no:cacheprovider",
            GOLDEN,
            "-k",
            " or ".join(cases),
        ],
        cwd=folder,
        # The copy goes before the installed package, also for the line of the .pth file.
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def caught(row: Break, folder: Path) -> bool:
    """Whether the row's test fails, and names what is wrong, with the line broken in `folder`."""
    file = folder / "minicpmv46" / row.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(row.right, row.wrong), encoding="utf-8")
    try:
        status, output = report([row.case], folder)
    finally:
        file.write_text(whole, encoding="utf-8")
    named = row.names in output
    print(f"{row.what}: {'caught' if status == 1 and named else f'NOT caught (status {status})'}", flush=True)
    if status == 1 and not named:
        print(f"  the report does not have {row.names!r}:\n" + "\n".join(output.splitlines()[-25:]))
    return status == 1 and named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="break the lines, a test run each")
    parser.add_argument("what", nargs="*", help="only these rows", metavar="ROW")
    arguments = parser.parse_args()
    if unknown := set(arguments.what) - {row.what for row in BREAKS}:
        parser.error(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(row.what for row in BREAKS)}")
    rows = [row for row in BREAKS if not arguments.what or row.what in arguments.what]
    if not arguments.run:
        print(table(rows))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        for name in ("minicpmv46", "tests", "pyproject.toml", "scripts"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        status, output = report(sorted({row.case for row in rows}), folder)
        if status:
            print(f"{GOLDEN} fails without a break (status {status}):\n{output[-2000:]}")
            return 1
        return int(not all([caught(row, folder) for row in rows]))


if __name__ == "__main__":
    raise SystemExit(main())
