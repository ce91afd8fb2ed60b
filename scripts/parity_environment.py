"""The virtual environment of the official side: torch and transformers beside the numpy and Pillow that ours has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# As scripts/live.sh has them; a test compares the two.
REQUIREMENTS = ("torch==2.14.1", "torchvision==0.29.1", "transformers==5.23.0")
BESIDE = ("numpy", "pillow", "opencv-python", "opencv-python-headless")
MARK = "parity-environment"  # in an environment that was made here; its text says of what
INCOMPLETE = "incomplete"
GB = 1_000_000_000
SIZE = 2 * GB if sys.platform == "darwin" else 7 * GB  # on Linux torch brings CUDA's libraries

_ASK = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def installed(names: Sequence[str]) -> dict[str, str]:
    """Versions of those packages that this interpreter has."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def requirements() -> list[str]:
    """What is installed: the official side's versions, and of what both sides use this interpreter's."""
    return [*REQUIREMENTS, *(f"{name}=={found}" for name, found in installed(BESIDE).items())]


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def prepare(folder: Path) -> dict[str, str]:
    """Make the environment where it is not there or half-made; its versions by package.

    An environment that was not made here is used as it is, and nothing is installed into it.

    Raises:
        ValueError: such an environment lacks a package or has another version; or the disk is full.
        subprocess.CalledProcessError: it cannot be made.
    """
    wanted = requirements()
    mark = folder / MARK
    if mark.exists() or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        state = "\n".join([sys.version, *wanted])
        if not mark.exists() or mark.read_text(encoding="utf-8") != state or not python_of(folder).exists():
            make(folder, wanted)
            mark.write_text(state, encoding="utf-8")
    elif not python_of(folder).exists():
        raise ValueError(f"--environment {folder}: no virtual environment is there (no bin/python); name a new folder")
    return check(folder)


def make(folder: Path, wanted: Sequence[str]) -> None:
    """A new environment in place of what lies there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).write_text(INCOMPLETE, encoding="utf-8")
    free = shutil.disk_usage(folder).free
    told = f"an environment for torch in {folder.name}, up to {SIZE / GB:.0f} GB"
    if free < SIZE:
        raise ValueError(f"{told}: the disk has {free / GB:.1f} GB left; name a folder on another by --environment")
    print(f"making {told}: {' '.join(wanted)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python_of(folder)), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, *wanted], check=True)


def check(folder: Path) -> dict[str, str]:
    """Versions of an environment; raises `ValueError` where they are not those that the comparison is made with."""
    required = dict(entry.split("==") for entry in REQUIREMENTS)
    command = [str(python_of(folder)), "-c", _ASK, *required, *BESIDE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{python_of(folder)} does not start: {done.stderr.strip()[-300:]}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    # A local part such as +cpu names the build, not another version.
    if wrong := [name for name in required if found.get(name, "").partition("+")[0] != required[name]]:
        told = ", ".join(f"{name} {found.get(name, 'missing')}" for name in wrong)
        needed = " ".join(f"{name}=={required[name]}" for name in wrong)
        raise ValueError(f"the environment {folder} has {told}; it needs {needed}. Leave --environment out to make one")
    return found
