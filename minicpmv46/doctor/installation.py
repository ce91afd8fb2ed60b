"""Versions, the `.pth` line, the ports that mlx-vlm loads, and whether the demo answers right."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import minicpmv46
from minicpmv46.doctor.findings import Report, pip_install
from minicpmv46.doctor.hook import tell_hook
from minicpmv46.guard import MODEL_TYPES
from minicpmv46.plugin.status import NEEDED, TESTED, Answers, Hook, ask, damage, hook, is_older, version

# The demo's picture, what is asked about it and the right answer.
DEMO = ("read.png", "What does it say?", "K7RM2")

_OURS = "minicpmv46.model"


def examine(report: Report, other_type: str | None, with_demo: bool) -> Answers:
    """Look at everything but a checkpoint.

    Args:
        other_type: model type of a checkpoint that is not ours, whose port is asked for too.
        with_demo: whether to load the demo checkpoint and ask it.
    """
    folder = Path(minicpmv46.__file__ or ".").resolve().parent
    demo = [str(folder / "demo" / "checkpoint"), str(folder / "demo" / "samples" / DEMO[0]), DEMO[1]]
    types = [*MODEL_TYPES, *([other_type] if other_type else [])]
    try:
        answers = ask(types, demo if with_demo else ())
    except (ImportError, SyntaxError, ValueError) as error:  # a damaged `probe.py`
        answers = Answers(crash=f"mlx-vlm could not be asked: {type(error).__name__}: {error}")
    _python(report)
    report.attempt("minicpmv46", _package, folder)
    found = hook()
    report.attempt("mlx", _mlx, answers, found)
    report.attempt("mlx-vlm", _mlx_vlm, answers, found)
    report.attempt("with", _others, found)
    tell_hook(report, found)
    _ports(report, answers, found)
    _server(report, answers)
    _demo(report, answers, with_demo)
    if answers.crash:
        report.problem(
            "start",
            answers.crash,
            "see the lines above, or what this says",
            f"{shlex.quote(sys.executable or 'python')} -c 'import mlx_vlm'",
        )
    return answers


def _python(report: Report) -> None:
    found = platform.python_version()
    report.facts["python"] = {"version": found, "executable": sys.executable, "prefix": sys.prefix}
    report.ok("Python", f"{found}: {sys.executable}")


def _package(report: Report, folder: Path) -> None:
    report.facts["minicpmv46"] = {"version": minicpmv46.__version__, "folder": str(folder)}
    found = damage()
    report.facts["damaged"] = found
    if not found:
        report.ok("minicpmv46", f"{minicpmv46.__version__}: {folder}")
    for text in found:
        report.problem(
            "minicpmv46",
            f"is damaged: {text}",
            "reinstall it (in a clone: `git status` shows changed files), for instance from a clone",
            pip_install("--force-reinstall", "--no-deps", "."),
        )


def _mlx(report: Report, answers: Answers, where: Hook) -> None:
    found, device = version("mlx"), answers.facts.get("device", {})
    report.facts["mlx"] = {"version": found, "supported": f">={NEEDED['mlx']}"}
    report.facts["device"] = device or None
    if found is None and "error" in device:
        _absent(report, "mlx", _mlx_requirement(), where)
    elif "error" in device:
        report.problem(
            "mlx",
            f"{found} cannot be imported ({device['error']})",
            "reinstall it; outside of macOS a backend has to be named: [cpu], [cuda12] or [cuda13]",
            pip_install("--force-reinstall", _mlx_requirement()),
        )
    elif found is not None and is_older(found, NEEDED["mlx"]):
        report.problem(
            "mlx", f"{found} is older than {NEEDED['mlx']}", "update it", pip_install("-U", _mlx_requirement())
        )
    elif not device:
        report.note("mlx", f"{found}, not looked at")
    else:
        name = f", {device['name']}" if device.get("name") else ""
        report.ok(
            "mlx",
            f"{found} ({NEEDED['mlx']} or newer): {device['backend']}{name}, {_gigabytes(device['memory_bytes'])}",
        )


def _absent(report: Report, name: str, requirement: str, found: Hook) -> None:
    if found.reason == "clone":
        report.problem(name, "is not installed here", "see hook: this clone brings what it needs")
    else:
        report.problem(name, "is not installed here", "install it", pip_install(requirement))


def _mlx_requirement() -> str:
    return f"mlx{'' if sys.platform == 'darwin' else '[cpu]'}>={NEEDED['mlx']}"


def _mlx_vlm(report: Report, answers: Answers, where: Hook) -> None:
    told = answers.facts.get("mlx-vlm", {})
    found = told.get("version") or version("mlx-vlm")
    fit = answers.facts.get("fit", {})
    missing = fit.get("missing", [])
    report.facts["mlx_vlm"] = {
        "version": found,
        "file": told.get("file"),
        "supported": f">={NEEDED['mlx-vlm']}",
        "tested": list(TESTED),
        "missing": missing,
    }
    supported = f"{NEEDED['mlx-vlm']} or newer, tested with {' and '.join(TESTED)}"
    requirement = f"mlx-vlm>={NEEDED['mlx-vlm']}"
    if found is None:
        _absent(report, "mlx-vlm", requirement, where)
    elif is_older(found, NEEDED["mlx-vlm"]):
        report.problem(
            "mlx-vlm", f"{found} is older than {NEEDED['mlx-vlm']}", "update it", pip_install("-U", requirement)
        )
    elif "error" in told:
        report.problem(
            "mlx-vlm",
            f"{found} cannot be imported ({told['error']})",
            "reinstall it",
            pip_install("--force-reinstall", requirement),
        )
    elif missing:
        report.problem(
            "mlx-vlm",
            f"{found} does not fit: {', '.join(missing)}",
            "install a version that was tested",
            pip_install(f"mlx-vlm=={TESTED[-1]}"),
        )
    elif "error" in fit:
        report.problem("mlx-vlm", f"{found} could not be compared: {fit['error']}", "see the other lines")
    elif not told:
        report.note("mlx-vlm", f"{found}, not looked at")
    elif is_older(TESTED[-1], found):
        report.note("mlx-vlm", f"{found} is newer than those tested ({supported}); all that is used of it is there")
    else:
        report.ok("mlx-vlm", f"{found} ({supported})")


def _others(report: Report, where: Hook) -> None:
    found = {name: version(name) for name in ("transformers", "pillow", "opencv")}
    report.facts["versions"] = found
    needed, transformers = NEEDED["transformers"], found["transformers"]
    if transformers is not None and is_older(transformers, needed):
        report.problem(
            "transformers",
            f"{transformers} is older than {needed}",
            "update it",
            pip_install("-U", f"transformers>={needed}"),
        )
    absent = {"transformers": f"transformers>={needed}", "pillow": "pillow", "opencv": "opencv-python"}
    for name, requirement in absent.items():
        if found[name] is None:
            _absent(report, name, requirement, where)
    there = [f"{name} {number}" for name, number in found.items() if number is not None]
    if there:
        report.ok("with", ", ".join(there))


def _ports(report: Report, answers: Answers, found: Hook) -> None:
    ports: dict[str, dict[str, Any]] = {}
    for topic, facts in answers.facts.items():
        if topic.startswith("port "):
            module = facts.get("module")
            whose = "minicpmv46" if module == _OURS else "mlx-vlm" if module else None
            ports[topic.removeprefix("port ")] = {"port": whose, "file": facts.get("file"), "error": facts.get("error")}
    report.facts["ports"] = ports
    advice = (
        "see the lines above; then start Python anew"
        if not found.active or report.problems
        else "another package changes mlx-vlm's table MODEL_REMAPPING: uninstall it"
    )
    for model_type in MODEL_TYPES:
        port = ports.get(model_type)
        if port is None:  # no mlx-vlm to ask
            continue
        if port["port"] == "minicpmv46":
            report.ok(model_type, f"minicpmv46's port: {port['file']}")
        elif port["error"]:
            report.problem(model_type, f"no port: {port['error']}", advice)
        elif port["port"]:
            report.problem(model_type, f"mlx-vlm's own port: {port['file']}", advice)
        else:
            report.problem(model_type, "no port: mlx-vlm has none of its own", advice)


def _server(report: Report, answers: Answers) -> None:
    facts = answers.facts.get("server")
    if facts is None or "error" in answers.facts.get("fit", {}):
        return
    report.facts["server"] = facts
    if "error" in facts:
        report.problem(
            "server",
            f"cannot be imported ({facts['error']})",
            "reinstall mlx-vlm with all it needs",
            pip_install("--force-reinstall", f"mlx-vlm=={TESTED[-1]}"),
        )
    elif facts["missing"]:
        report.problem(
            "server",
            f"takes no options of a request: {', '.join(facts['missing'])}",
            "install a version of mlx-vlm that was tested",
            pip_install(f"mlx-vlm=={TESTED[-1]}"),
        )
    else:
        report.ok("server", "takes this package's options with every request")


def _demo(report: Report, answers: Answers, with_demo: bool) -> None:
    name, _, right = DEMO
    facts = answers.facts.get("demo", {})
    report.facts["demo"] = {
        "answer": facts.get("answer"),
        "expected": right,
        "error": facts.get("error"),
        "run": "demo" in answers.facts,
    }
    if not with_demo:
        report.note("demo", "not asked (--no-demo)")
    elif facts.get("answer") == right:
        report.ok("demo", f"{name} -> {right}, which is right")
    elif "error" in facts:
        report.problem("demo", f"failed: {facts['error']}", "see the lines above; if all are well, report this output")
    elif "answer" in facts:
        report.problem(
            "demo",
            f"{name} -> {facts['answer'][:40]!r}, but {right} is right",
            "see the lines above; if all are well, report this output",
        )
    else:
        report.note("demo", "not asked: mlx-vlm does not run here")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
