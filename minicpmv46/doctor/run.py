"""One whole examination; what fails of it becomes a finding."""

from __future__ import annotations

import platform
import sys
import warnings
from typing import Any

from minicpmv46.doctor.findings import Report

OLDEST_PYTHON = (3, 11)

# Keys of `--json` beside `ok` and `problems`; null where something could not be looked at.
KEYS = (
    *("python", "minicpmv46", "damaged", "mlx", "device", "mlx_vlm", "versions", "hook", "ports", "server", "demo"),
    "model",
)


def examine(model: str | None, with_demo: bool) -> Report:
    """Look at the installation, and at a checkpoint where one is named."""
    report = Report(dict.fromkeys(KEYS))
    if sys.version_info < OLDEST_PYTHON:  # in which other files cannot even be imported
        oldest = ".".join(map(str, OLDEST_PYTHON))
        report.problem("Python", f"{platform.python_version()} is too old", f"use Python {oldest} or newer")
        return report
    place = report.attempt("model", _find, model) if model is not None else None
    found, report.findings = report.findings, []
    other_type = place.model_type if place is not None and not place.is_ours else None
    answers = report.attempt("installation", _installation, other_type, with_demo)
    report.findings += found
    if place is not None and answers is not None:
        report.attempt("model", _checkpoint, place, answers)
    return report


# Imported one by one, so that a damaged file leaves the others to tell what they can.


def _find(report: Report, model: str) -> Any:
    from minicpmv46.doctor.checkpoint import find

    return find(report, model)


def _installation(report: Report, other_type: str | None, with_demo: bool) -> Any:
    from minicpmv46.doctor.installation import examine

    return examine(report, other_type, with_demo)


def _checkpoint(report: Report, place: Any, answers: Any) -> None:
    from minicpmv46.doctor.checkpoint import examine

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a damaged package: it is told already
        examine(report, place, answers)
