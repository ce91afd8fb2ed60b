"""Running Python as a user does, outside this repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 120


def environment() -> dict[str, str]:
    """This process's variables without those that change imports, this package, mlx-vlm or its server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MINICPMV46", "MLX_VLM", "APC_"))}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}


def python(
    *arguments: str | Path, folder: Path, typed: str = "", builtin: bool = False
) -> "subprocess.CompletedProcess[bytes]":
    """Start Python in `folder` with a user who types `typed`.

    With `builtin` this package stays away, and mlx-vlm uses its own port.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        cwd=folder,
        env=environment() | ({"MINICPMV46_DISABLE": "1"} if builtin else {}),
        input=typed.encode(),
        timeout=SECONDS,
    )


def skip_without_hook(folder: Path) -> None:
    """Skip where Python does not start with this package."""
    if python("-c", "import sys; sys.exit('minicpmv46' not in sys.modules)", folder=folder).returncode:
        pytest.skip("this environment has minicpmv46's .pth file not installed (pip install -e .)")
