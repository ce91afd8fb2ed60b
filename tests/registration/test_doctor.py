"""`python -m minicpmv46 doctor` in environments where something is missing, off or damaged."""

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from support.environments import Environment, rewrite

from minicpmv46 import __version__
from minicpmv46.doctor.findings import Report
from minicpmv46.doctor.hook import tell_hook
from minicpmv46.doctor.run import KEYS, OLDEST_PYTHON
from minicpmv46.plugin import compat, status
from minicpmv46.plugin.status import Hook

Make = Callable[..., Environment]


def plain_variables() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MINICPMV46"))}


def start(
    environment: Environment,
    *arguments: str | Path,
    flags: Sequence[str] = (),
    folder: Path | None = None,
    **variables: str | Path,
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m minicpmv46` as a user does, in `folder` or the environment's."""
    return subprocess.run(
        [environment.python, *flags, "-m", "minicpmv46", *arguments],
        capture_output=True,
        text=True,
        env={**plain_variables(), **{name: str(value) for name, value in variables.items()}},
        cwd=folder or environment.folder,
    )


def diagnose(environment: Environment, *arguments: str | Path, status: int = 1, **where: Any) -> dict[str, Any]:
    """What `doctor --json --no-demo` says; every problem has an advice."""
    done = start(environment, "doctor", "--json", "--no-demo", *arguments, **where)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["ok"] == (status == 0) == (not found["problems"])
    assert all(problem["advice"] for problem in found["problems"])
    assert set(found) == {"ok", "problems", *KEYS}
    return found


def parts(found: dict[str, Any]) -> set[str]:
    return {problem["part"] for problem in found["problems"]}


@pytest.fixture(scope="module")
def bare(make_environment: Make) -> Environment:
    """mlx-vlm without this package."""
    return make_environment()


@pytest.fixture(scope="module")
def own(wheel: Path, make_environment: Make) -> Environment:
    """An installation that tests may damage."""
    return make_environment(wheel)


# All is well


def test_all_is_well(installed: Environment, checkpoint: Path, tmp_path: Path) -> None:
    """With a checkpoint in a folder that the terminal's encoding cannot write."""
    folder = shutil.copytree(checkpoint, tmp_path / "caf\u00e9 model")
    done = start(installed, "doctor", folder, PYTHONIOENCODING="ascii", FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1] == "all is well" and len(lines) <= 30
    assert all(len(line) <= 100 or "/" in line for line in lines)  # paths and commands are not broken
    assert "\x1b" not in done.stdout
    assert all(line.startswith((" ok ", "     ")) for line in lines[:-2])
    for said in (
        f" minicpmv46    {__version__}:",
        " mlx-vlm       0.7.",
        " hook          active",
        " minicpmv4_6   minicpmv46's port:",
        " minicpm_ocr   minicpmv46's port:",
        " demo          read.png -> K7RM2, which is right",
        " model         MiniCPM-V 4.6 (minicpmv4_6), official layout",
        "caf\\xe9 model",
        " stored        vision encoder, mergers, embedding, attention, delta nets, MLPs: float32",
    ):
        assert said in done.stdout


# Not active, and why


def test_switched_off(installed: Environment) -> None:
    """The demo is asked too, and shows whose port has answered."""
    done = start(installed, "doctor", "--json", MINICPMV46_DISABLE="1")
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert not found["ok"] and parts(found) == {"hook", "minicpmv4_6", "minicpm_ocr", "demo"}
    assert found["hook"] == {
        "active": False,
        "reason": "disabled",
        "folder": str(installed.packages.resolve()),
        "MINICPMV46_DISABLE": "1",
    }
    assert found["problems"][0]["commands"] == ["unset MINICPMV46_DISABLE"]
    assert {name: port["port"] for name, port in found["ports"].items()} == {
        "minicpmv4_6": "mlx-vlm",
        "minicpm_ocr": None,
    }
    assert found["ports"]["minicpmv4_6"]["file"].endswith("mlx_vlm/models/minicpmv4_6/minicpmv4_6.py")
    assert found["demo"]["run"] and found["demo"]["answer"] != found["demo"]["expected"] == "K7RM2"


def test_clone_that_is_not_installed(bare: Environment, source: Path) -> None:
    done = start(bare, "doctor", "--no-demo", folder=source)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith(" FAIL")] == ["hook", "minicpmv4_6", "minicpm_ocr"]
    assert [line for line in lines if "pip install" in line] == [
        f"{' ' * 23}{bare.python} -m pip install -e {source.resolve()}"
    ]
    assert " --   demo          not asked (--no-demo)" in lines
    assert done.stdout.endswith("\n3 problems; lines with -> say what to do\n")


def test_clone_with_an_environment_of_its_own(tmp_path: Path) -> None:
    """That of its scripts, which somebody has not activated."""
    report = Report()
    tell_hook(report, Hook("clone", tmp_path))
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    tell_hook(report, Hook("clone", tmp_path))
    [install], [activate] = (finding.commands for finding in report.findings)
    assert install.endswith(f" -e {tmp_path}")
    assert activate == f"source {tmp_path}/.venv/bin/activate"


def reason(environment: Environment, **where: Any) -> str:
    """Why the hook is not active, by the same way without asking mlx-vlm, which takes seconds."""
    return environment.run("from minicpmv46.plugin.status import hook; print(hook().reason)", **where).strip()


def test_why_the_hook_is_not_active(
    installed: Environment, bare: Environment, own: Environment, wheel: Path, tmp_path: Path
) -> None:
    assert reason(installed) == "active"
    assert reason(installed, disable="off") == "active"
    assert reason(installed, disable="yes") == "disabled"
    assert reason(installed, disable="maybe") == "unknown_value"
    assert reason(installed, flags=["-S"], pythonpath=installed.paths()) == "no_site"
    assert reason(bare, pythonpath=installed.packages) == "other_environment"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "target")  # as `pip install --target` does
    assert reason(bare, pythonpath=tmp_path / "target") == "not_site_packages"
    assert reason(bare, pythonpath=wheel) == "not_site_packages"
    line = own.packages / "minicpmv46-hook.pth"
    content = line.read_text()
    try:
        line.write_text("# empty\n")
        assert reason(own) == "not_run"
        line.unlink()
        assert reason(own) == "no_pth"
    finally:
        line.write_text(content)


def test_every_reason_says_what_to_do() -> None:
    for reason in get_args(status.Reason):
        report = Report()
        tell_hook(report, Hook(reason, Path("folder"), "maybe", Path("other")))
        [finding] = report.findings
        assert finding.state == ("ok" if reason == "active" else "problem"), reason
        assert finding.advice or reason == "active", reason


def test_the_fresh_python_is_started_in_the_same_way(installed: Environment) -> None:
    code = "from minicpmv46.plugin.status import _flags; print(*_flags())"
    assert installed.run(code, flags=["-S", "-s"], pythonpath=installed.paths()).split() == ["-S", "-s"]
    assert installed.run(code).split() == []


# Missing or damaged


def test_without_mlx_vlm(wheel: Path, make_environment: Make) -> None:
    environment = make_environment(wheel, without="minicpmv46|mlx_vlm")
    found = diagnose(environment)
    assert parts(found) == {"mlx-vlm"} and found["mlx_vlm"]["version"] is None
    [problem] = found["problems"]
    assert problem["text"] == "is not installed here" and "mlx-vlm>=0.7.9" in problem["commands"][0]
    assert found["ports"] == {} and found["hook"]["active"]


def test_without_mlx(wheel: Path, checkpoint: Path, make_environment: Make) -> None:
    """Nor mlx-vlm; a checkpoint is told as far as it can be."""
    environment = make_environment(wheel, without="minicpmv46|mlx")
    found = diagnose(environment, checkpoint)
    assert parts(found) == {"mlx", "mlx-vlm"}
    assert found["model"]["model_type"] == "minicpmv4_6"
    assert "No module named 'mlx'" in found["device"]["error"]


@pytest.mark.parametrize("name", ["processing.py", "plugin/hook.py", "plugin/probe.py"])
def test_damaged_package(own: Environment, checkpoint: Path, name: str) -> None:
    file = own.packages / "minicpmv46" / name
    content = file.read_text()
    try:
        file.write_text(content + "\ndef broken(:\n")
        found = diagnose(own, checkpoint)
    finally:
        file.write_text(content)
    [damaged] = found["damaged"]
    assert damaged.startswith(f"minicpmv46/{name}: SyntaxError")
    assert {"minicpmv46", "hook"} <= parts(found)
    assert found["hook"]["reason"] == "damaged" and not found["hook"]["active"]
    assert found["mlx"]["version"] and found["minicpmv46"]["version"] == __version__


def test_a_file_that_was_cut_off(own: Environment) -> None:
    """Valid Python still: told by its size."""
    file = own.packages / "minicpmv46" / "video.py"
    content = file.read_text()
    try:
        file.write_text('"""Videos."""\n')
        text = own.run("from minicpmv46.plugin.status import damage; print(*damage())")
    finally:
        file.write_text(content)
    assert text.startswith("minicpmv46/video.py has ") and text.endswith(f" of {len(content.encode()):,} bytes\n")


def test_older_mlx_vlm_with_another_server(installed: Environment, tmp_path: Path) -> None:
    folder = Path(installed.paths().split(os.pathsep)[1])
    rewrite(folder / "mlx_vlm", tmp_path / "once", r"\b_build_gen_args\b", "_make_gen_args")
    rewrite(tmp_path / "once", tmp_path / "path" / "mlx_vlm", '__version__ = "[^"]*"', '__version__ = "0.7.8"')
    found = diagnose(installed, PYTHONPATH=tmp_path / "path")
    assert parts(found) == {"mlx-vlm", "server", "minicpmv4_6", "minicpm_ocr"}
    assert "it is older than 0.7.9" in found["ports"]["minicpm_ocr"]["error"]
    assert found["mlx_vlm"]["version"] == "0.7.8" and found["mlx_vlm"]["missing"] == ["it is older than 0.7.9"]
    assert "_build_gen_args" in found["server"]["missing"][0]


def test_versions_are_those_of_the_package() -> None:
    required = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name, version in status.NEEDED.items():
        assert f'"{name}>={version}"' in required
    assert status.NEEDED["mlx-vlm"] == compat.MINIMUM == status.TESTED[0]
    oldest = ".".join(map(str, OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in required


# The command line


def test_a_damaged_command_is_told(own: Environment) -> None:
    done = start(own, "--version")
    assert (done.returncode, done.stdout) == (0, f"minicpmv46 {__version__}\n")
    file = own.packages / "minicpmv46" / "commands" / "doctor.py"
    content = file.read_text()
    try:
        file.write_text("def broken(:\n")
        done = start(own, "doctor")
    finally:
        file.write_text(content)
    assert done.returncode == 1
    assert done.stderr.startswith("doctor cannot be imported (SyntaxError: ") and done.stderr.count("\n") == 1


def test_nobody_reads_the_answer(installed: Environment, tmp_path: Path) -> None:
    """`| head` may close the pipe before anything is written."""
    read, write = os.pipe()
    os.close(read)
    command = [installed.python, "-m", "minicpmv46", "--version"]
    with open(write, "w") as closed:
        done = subprocess.run(
            command, stdout=closed, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=plain_variables()
        )
    assert (done.returncode, done.stderr) == (1, "")
