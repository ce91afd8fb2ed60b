"""Whether the `.pth` line runs here, and what to do about each reason why it does not."""

from __future__ import annotations

import shlex
import sys

from minicpmv46.doctor.findings import Report, pip_install
from minicpmv46.plugin.status import Hook, version


def tell_hook(report: Report, found: Hook) -> None:
    """Tell whether Python starts with the `.pth` line, after what is said of damage."""
    damaged = found.active and bool(report.facts.get("damaged"))
    report.facts["hook"] = {
        "active": found.active and not damaged,
        "reason": "damaged" if damaged else found.reason,
        "folder": str(found.folder),
        "MINICPMV46_DISABLE": found.value or None,
    }
    value, folder = found.value[:20], found.folder
    again = pip_install("--force-reinstall", "--no-deps", ".")
    ready = folder / ".venv" / "bin" / "activate"  # what the scripts of a clone make
    by_hand = "install it here, or import minicpmv46 in the program that loads the model"
    texts: dict[str, tuple[str, ...]] = {
        "disabled": (
            f"MINICPMV46_DISABLE={value!r} switches this package off: mlx-vlm is as without it",
            "unset the variable",
            "unset MINICPMV46_DISABLE",
        ),
        "unknown_value": (
            f"MINICPMV46_DISABLE={value!r} is neither 1 nor 0, so this package is not used",
            "unset the variable",
            "unset MINICPMV46_DISABLE",
        ),
        "no_site": (
            "not active: Python was started with -S, which reads no .pth file",
            "start it without -S, or import minicpmv46 in the program that loads the model",
        ),
        "clone": (
            f"not active: {folder} is a clone that is not installed in this environment ({sys.prefix})",
            *(
                ("activate the environment that its scripts made", f"source {shlex.quote(str(ready))}")
                if ready.is_file()
                else (
                    "install it",
                    pip_install("-e", f"{folder}{'' if version('mlx') or sys.platform == 'darwin' else '[cpu]'}"),
                )
            ),
        ),
        "other_environment": (
            f"not active: this package is installed in another environment, {found.environment}, not in {sys.prefix}",
            f"use {found.environment}'s Python, or {by_hand}; from a clone",
            pip_install("."),
        ),
        "not_site_packages": (
            f"not active: {folder} (PYTHONPATH, pip install --target, a zip) is no site-packages folder of this "
            "Python, which reads .pth files there only",
            f"{by_hand}; from a clone",
            pip_install("."),
        ),
        "no_pth": (
            f"not active: minicpmv46-hook.pth is missing in {folder}",
            "reinstall minicpmv46, from a clone",
            again,
        ),
        "hidden_pth": (
            f"not active: {folder}/minicpmv46-hook.pth is hidden, and Python passes over hidden .pth files",
            "show it",
            f"chflags nohidden '{folder}/minicpmv46-hook.pth'",
        ),
        "not_run": (
            f"not active: this Python did not run {folder}/minicpmv46-hook.pth, or its line failed",
            "reinstall minicpmv46, from a clone",
            again,
        ),
    }
    if damaged:
        report.problem("hook", "refuses these models, since this package is damaged", "reinstall minicpmv46, see above")
    elif found.active:
        report.ok("hook", "active: Python starts with minicpmv46-hook.pth, so mlx-vlm finds this package by itself")
    else:
        report.problem("hook", *texts[found.reason])
