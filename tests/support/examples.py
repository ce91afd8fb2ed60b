"""Running the scripts of examples/ as a user does: a subprocess in some folder, the demo checkpoint, no network."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from minicpmv46.demo import path as demo
from minicpmv46.demo import sample
from support.running import environment

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = str(demo())
SECONDS = 180

# What the demo checkpoint says of its samples, asked "Read all visible text." or "What does it say?".
TEXTS = {"read.png": "K7RM2", "small.png": "T5X"}


def variables() -> dict[str, str]:
    """The environment of an example: `python` is this one, nothing is sent home, LiteLLM fetches no list of prices."""
    folder = str(Path(sys.executable).parent)
    kept = environment()
    return kept | {
        "PATH": f"{folder}:{kept.get('PATH', '')}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "no_proxy": "*",
    }


def run(name: str, *arguments: str | Path, folder: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run an example in `folder`."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=variables() | more, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def start(name: str, *arguments: str | Path, folder: Path) -> "subprocess.Popen[str]":
    """Start an example in `folder`, without waiting for it; in a group of its own, as in a terminal."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=folder, env=variables(), stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def kept_rows(output: Path) -> list[dict[str, Any]]:
    """Finished rows of an output, from the file that is kept beside it."""
    rows = output.with_name(output.name + ".rows.jsonl")
    if not rows.exists():
        return []
    return [json.loads(line) for line in rows.read_text().split("\n")[1:-1]]


def wait_for_rows(process: "subprocess.Popen[str]", output: Path, count: int) -> None:
    """Return when a run has at least so many rows."""
    deadline = time.monotonic() + SECONDS
    while len(kept_rows(output)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stop(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str, str]:
    """Exit status, output and errors of a process that gets a signal."""
    process.send_signal(number)
    output, errors = process.communicate(timeout=SECONDS)
    return process.returncode, output, errors


def scans(folder: Path, count: int = 0) -> Path:
    """A folder with a space in its name: two crops, one of them in a subfolder, and `count` copies of the first."""
    scans = folder / "my scans"
    (scans / "more").mkdir(parents=True)
    shutil.copy(sample("read.png"), scans / "read.png")
    shutil.copy(sample("small.png"), scans / "more" / "SMALL.PNG")
    for number in range(count):
        shutil.copy(sample("read.png"), scans / f"copy {number}.png")
    return scans
