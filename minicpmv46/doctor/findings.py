"""What the doctor has found: a line each, and the same facts for machines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

# "note": nothing to do about it. "problem": the finding says what to do.
State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """A line.

    Attributes:
        part: what it is about.
        state: how it is.
        text: what is there, or what is wrong.
        advice: what to do, a sentence; commands stand in `commands`.
        commands: to be typed as they are.
    """

    part: str
    state: State
    text: str
    advice: str = ""
    commands: tuple[str, ...] = ()


@dataclass
class Report:
    """All findings, and facts under names that stay."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def ok(self, part: str, text: str) -> None:
        self.findings.append(Finding(part, "ok", text))

    def note(self, part: str, text: str) -> None:
        self.findings.append(Finding(part, "note", text))

    def problem(self, part: str, text: str, advice: str, *commands: str) -> None:
        self.findings.append(Finding(part, "problem", text, advice, commands))

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.state == "problem"]

    def attempt(self, part: str, look: Callable[..., Any], *arguments: Any) -> Any:
        """`look(self, *arguments)`; where it fails, which is a fault of this package, a problem and None."""
        try:
            return look(self, *arguments)
        except ModuleNotFoundError as error:
            name = str(error.name).partition(".")[0]
            advice = "reinstall minicpmv46" if name == "minicpmv46" else "install it, with what is missing above"
            self.problem(part, f"not looked at: {error.name} is not installed here", advice)
            return None
        except Exception as error:  # a damaged file may fail in any way, and the rest is still to be told
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.problem(part, f"could not be looked at ({text})", "if no other line says why, reinstall minicpmv46")
            return None

    def to_dict(self) -> dict[str, Any]:
        """The facts, and the problems with what to do."""
        problems = [
            {"part": f.part, "text": f.text, "advice": f.advice, "commands": list(f.commands)} for f in self.problems
        ]
        return {"ok": not problems, "problems": problems, **self.facts}


def pip_install(*what: str) -> str:
    """The command that installs into this environment."""
    python = shlex.quote(sys.executable or "python")
    installer = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    return " ".join((installer, *map(shlex.quote, what)))
