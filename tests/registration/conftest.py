"""Environments beside mlx-vlm, each made without an index.

Our wheel is built and installed by the running interpreter's pip and hatchling, and everything else is linked from its
site-packages, less any installation of this package.
"""

import re
import shutil
import site
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny
from support.environments import OFFLINE, Environment, execute

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is built from, so that nothing is written into the working tree."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "LICENSE", "README.md", "minicpmv46-hook.pth"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "minicpmv46", folder / "minicpmv46", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    execute(sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", folder, source)
    return next(folder.glob("minicpmv46-*.whl"))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    def link(without: str) -> Path:
        folder = tmp_path_factory.mktemp("packages")
        for packages in map(Path, site.getsitepackages()):
            for entry in packages.iterdir() if packages.is_dir() else ():
                if not re.match(without, entry.name.lstrip("_")) and not (folder / entry.name).exists():
                    (folder / entry.name).symlink_to(entry)
        return folder

    def make(*install: str | Path, without: str = "minicpmv46") -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, symlinks=True, with_pip=False)
        environment = Environment(folder)
        (environment.packages / "linked.pth").write_text(f"{link(without)}\n")
        if install:
            environment.install(*install)
        return environment

    return make


@pytest.fixture(scope="session")
def installed(make_environment: Callable[..., Environment], wheel: Path) -> Environment:
    """The wheel beside mlx-vlm: the usual case."""
    return make_environment(wheel)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_checkpoint(tmp_path_factory.mktemp("checkpoint"))
