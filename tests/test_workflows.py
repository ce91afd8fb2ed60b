"""The files by which GitHub runs the checks: what they name exists, and they check what `.ci/run` checks."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
# What a command line can name of this repository.
PATHS = re.compile(r"(?<![\w/.])(?:scripts|tests)/[\w./-]+")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(path)["jobs"]
    return found


def commands(path: Path) -> list[str]:
    return [step["run"] for job in jobs(path).values() for step in job["steps"] if "run" in step]


def versions(path: Path) -> list[tuple[int, int]]:
    """Every Python that a workflow asks for."""
    text = path.read_text(encoding="utf-8")
    listed = re.findall(r"python(?:-version)?: (?:\[(.*)\]|\"(.*)\")", text)
    return [(int(a), int(b)) for found in listed for a, b in re.findall(r"(\d+)\.(\d+)", " ".join(found))]


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["macos", "tests", "weekly"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_names_exists(path: Path) -> None:
    named = PATHS.findall(path.read_text(encoding="utf-8"))
    assert named and [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_ends_may_only_read_and_pins_its_actions(path: Path) -> None:
    content = read(path)
    assert content["permissions"] == {"contents": "read"}
    assert content["concurrency"]["cancel-in-progress"] is True
    for name, job in jobs(path).items():
        assert 0 < job["timeout-minutes"] <= 120, name
        assert "latest" not in job["runs-on"], name
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert uses and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in uses), uses


def test_all_of_ci_runs_on_github_too() -> None:
    local = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    here = "\n".join(commands(GITHUB / "workflows" / "tests.yml"))
    for script in re.findall(r"^bash (scripts/\w+\.sh)", local, re.MULTILINE):
        assert f"bash {script}" in here
    hooks = [hook["entry"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert "pre-commit run --all-files" in here
    for tool in re.findall(r"python -m (ruff check|mypy|ruff format)", local):
        assert any(entry.startswith(f"python -m {tool}") for entry in hooks), tool


def test_pythons_are_those_that_the_project_takes() -> None:
    major, minor = map(int, re.search(r'requires-python = ">=(\d+)\.(\d+)"', PROJECT).groups())
    assert (major, minor) >= (3, 11), "transformers 5.21 and later, which are asked for, need Python 3.11"
    matrix = jobs(GITHUB / "workflows" / "tests.yml")["tests"]["strategy"]["matrix"]["python"]
    assert matrix == [f"3.{number}" for number in range(minor, 15)]
    for path in WORKFLOWS:
        assert min(versions(path)) >= (major, minor)


def test_the_oldest_mlx_vlm_stands_in_one_place() -> None:
    oldest = re.search(r'"mlx-vlm>=([\d.]+)"', PROJECT)[1]
    for path in (*WORKFLOWS, *(ROOT / "scripts").glob("*.sh")):
        assert oldest not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", ["bug", "parity"])
def test_forms_ask_for_what_a_report_needs(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    text = (GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8")
    assert {"bug": "python -m minicpmv46 doctor --json", "parity": "python scripts/parity.py"}[name] in text
