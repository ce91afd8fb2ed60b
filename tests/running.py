"""Running Python as a user does, outside this repository."""

import os
import subprocess
import sys
from pathlib import Path

SECONDS = 120


def python(*arguments: str, folder: Path, typed: str = "") -> "subprocess.CompletedProcess[bytes]":
    """Start Python as a user does, who types `typed`: outside this repository, without this test's import paths."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MINICPMV46", "MLX_VLM"))
    }
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        cwd=folder,
        env=environment,
        input=typed.encode(),
        timeout=SECONDS,
    )
