"""How things stand with mlx-vlm: versions, whether our `.pth` line runs, and what a fresh Python says.

Imports nothing of mlx-vlm, of mlx or of the rest of this package, so that it can be asked whatever is missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import site
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import minicpmv46

# The oldest versions that are supported, those of pyproject.toml, and those of mlx-vlm that all tests were run with.
NEEDED = {"mlx": "0.32.4", "mlx-vlm": "0.7.9", "transformers": "5.23.0"}
TESTED = ("0.7.9", "0.7.10")
# Builds of OpenCV, which is imported by one name.
_NAMES = {"opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv")}

HOOK = "minicpmv46-hook.pth"
SECONDS = 300  # of the fresh Python; imports of mlx-vlm alone took half a minute on a busy machine

# Why our `.pth` line does not run, or that it does.
Reason = Literal[
    "active",
    "disabled",  # by MINICPMV46_DISABLE
    "unknown_value",  # of MINICPMV46_DISABLE, which disables too
    "no_site",  # python -S
    "clone",  # run from its source, which is not installed
    "other_environment",  # by PYTHONPATH
    "not_site_packages",  # pip install --target, PYTHONPATH, a zip
    "no_pth",  # in site-packages, without the file
    "hidden_pth",  # which Python passes over on macOS
    "not_run",
]


@dataclass(frozen=True)
class Hook:
    """Whether Python starts with our `.pth` line here, and what tells why not.

    Attributes:
        reason: see there.
        folder: where this package lies.
        value: of MINICPMV46_DISABLE.
        environment: the other environment that the package belongs to.
    """

    reason: Reason
    folder: Path
    value: str = ""
    environment: Path | None = None

    @property
    def active(self) -> bool:
        return self.reason == "active"


@dataclass(frozen=True)
class Answers:
    """What a fresh Python said: facts by topic (those of `probe.main`), and how it ended where not well."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    crash: str = ""


def version(name: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    for known in _NAMES.get(name, (name,)):
        try:
            return importlib.metadata.version(known)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def is_older(version: str, than: str) -> bool:
    """Whether a version's release numbers are below another's; one without numbers is not."""
    first, second = (tuple(map(int, re.findall(r"\d+", text)[:3])) for text in (version, than))
    return bool(first) and first < second


def hook() -> Hook:
    """Whether the `.pth` line runs in an interpreter that is started as this one was."""
    folder = Path(minicpmv46.__file__ or ".").resolve().parent.parent
    value = os.environ.get("MINICPMV46_DISABLE", "")
    if value.strip().lower() not in minicpmv46._ENABLE:
        known = value.strip().lower() in minicpmv46._DISABLE
        return Hook("disabled" if known else "unknown_value", folder, value)
    if getattr(minicpmv46, "read_by_site", False):
        return Hook("active", folder)
    if sys.flags.no_site:
        return Hook("no_site", folder)
    if (folder / "pyproject.toml").is_file():
        return Hook("clone", folder)
    file = folder / HOOK
    if folder in _site_folders():
        if not file.is_file():
            return Hook("no_pth", folder)
        hidden = getattr(file.lstat(), "st_flags", 0) & stat.UF_HIDDEN
        return Hook("hidden_pth" if hidden else "not_run", folder)
    environment = next((parent for parent in folder.parents if (parent / "pyvenv.cfg").is_file()), None)
    if environment is not None and environment != Path(sys.prefix).resolve():
        return Hook("other_environment", folder, environment=environment)
    return Hook("not_site_packages", folder)


def _site_folders() -> set[Path]:
    """Folders whose `.pth` files Python reads."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return {Path(folder).resolve() for folder in (*site.getsitepackages(), *user)}


def damage() -> list[str]:
    """What is wrong with this package's own files: no Python, or cut off since they were installed."""
    if found := list(_unreadable()):
        return found
    from minicpmv46.plugin.whole import cut_off

    return [text for text in [cut_off()] if text]


def _unreadable() -> Iterator[str]:
    folder = Path(minicpmv46.__file__ or "").parent
    for file in sorted(folder.rglob("*.py")):
        try:
            compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        except (SyntaxError, ValueError, OSError) as error:
            yield f"{file.relative_to(folder.parent)}: {type(error).__name__}: {error}"


def ask(types: Sequence[str], demo: Sequence[str] = ()) -> Answers:
    """Ask a Python that is started as this one was.

    Args:
        types: model types, whose ports are named.
        demo: a checkpoint's folder, a picture and a question that are to be answered; empty for none.
    """
    from minicpmv46.plugin.probe import MARK

    spec = find_spec("minicpmv46.plugin.probe")
    loader: Any = spec.loader if spec is not None else None
    source = loader.get_source("minicpmv46.plugin.probe")
    asked = json.dumps({"types": list(types), "demo": list(demo)})
    try:
        done = subprocess.run(
            [sys.executable, *_flags(), "-c", source, asked],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"},
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answers(crash=f"{sys.executable} could not be asked: {error.__class__.__name__}: {error}"[:400])
    lines = [line.removeprefix(MARK) for line in done.stdout.splitlines() if line.startswith(MARK)]
    facts = dict(json.loads(line) for line in lines)
    if done.returncode == 0:
        return Answers(facts)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return Answers(facts, f"Python ended with status {done.returncode} while it was asked: {last}"[:400])


def _flags() -> list[str]:
    """The flags of this interpreter that change where it finds packages."""
    flags = {"-S": sys.flags.no_site, "-I": sys.flags.isolated, "-E": sys.flags.ignore_environment}
    flags |= {"-s": sys.flags.no_user_site, "-P": getattr(sys.flags, "safe_path", False)}
    return [flag for flag, is_set in flags.items() if is_set]
