"""A report as text: a line for each finding, in 100 columns, readable with and without colours."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from minicpmv46.doctor.findings import Report, State

WIDTH = 100
_PART = 14  # columns of a part's name
_MARKS: dict[State, str] = {"ok": "ok  ", "note": "--  ", "problem": "FAIL"}
_COLOURS: dict[State, str] = {"ok": "32", "note": "33", "problem": "31"}


def has_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours; https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def lines(report: Report, colours: bool) -> Iterator[str]:
    """The screen, line by line."""
    indent = " " * (6 + _PART)
    for finding in report.findings:
        mark = _MARKS[finding.state]
        if colours:
            mark = f"\x1b[{_COLOURS[finding.state]}m{mark}\x1b[0m"
        first, *rest = _wrapped(_short(finding.text))
        yield f" {mark} {finding.part:<{_PART}}{first}"
        yield from (indent + line for line in rest)
        if finding.advice:
            label = "-> "
            first, *rest = _wrapped(_short(finding.advice) + (":" if finding.commands else ""))
            yield indent + label + first
            yield from (indent + " " * len(label) + line for line in rest)
        # Not wrapped, so that they can be copied.
        yield from (f"{indent}   {command}" for command in finding.commands)
    count = len(report.problems)
    yield ""
    yield "all is well" if not count else f"{count} problem{'s' * (count != 1)}; lines with -> say what to do"


def _wrapped(text: str) -> list[str]:
    width = WIDTH - 9 - _PART
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _short(text: str) -> str:
    """A text with ~ for the home folder."""
    home = str(Path.home())
    return text.replace(home + os.sep, "~" + os.sep) if len(home) > 1 else text
