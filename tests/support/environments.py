"""Virtual environments of their own for tests of the registration, and what a fresh interpreter in one is asked."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")

TAKEN_OVER = """
    import mlx_vlm.prompt_utils, mlx_vlm.utils, transformers
    from importlib.util import find_spec

    for model_type in ("minicpmv4_6", "minicpm_ocr"):
        assert mlx_vlm.utils.MODEL_REMAPPING[model_type] == "minicpmv46"
        assert mlx_vlm.prompt_utils.MODEL_CONFIG[model_type].name == "LIST_WITH_IMAGE_FIRST"
    assert find_spec("mlx_vlm.models.minicpmv46").origin.endswith("arch.py")
    for function in (
        mlx_vlm.utils.load_model,
        mlx_vlm.utils.prepare_inputs,
        mlx_vlm.prompt_utils.apply_chat_template,
        transformers.AutoProcessor.from_pretrained.__func__,
    ):
        original = function.__wrapped__
        assert not hasattr(original, "__wrapped__") and original.__name__ == function.__name__
"""
LEFT_ALONE = """
    import sys
    import mlx_vlm.prompt_utils, mlx_vlm.utils, transformers
    from importlib.util import find_spec

    assert not {"minicpmv4_6", "minicpm_ocr"} & set(mlx_vlm.utils.MODEL_REMAPPING)
    assert "minicpm_ocr" not in mlx_vlm.prompt_utils.MODEL_CONFIG
    assert mlx_vlm.prompt_utils.MODEL_CONFIG["minicpmv4_6"].name != "LIST_WITH_IMAGE_FIRST"
    assert find_spec("mlx_vlm.models.minicpmv46") is None
    for function in (
        mlx_vlm.utils.load_model, mlx_vlm.utils.prepare_inputs, mlx_vlm.prompt_utils.apply_chat_template
    ):
        assert not hasattr(function, "__wrapped__")
    assert mlx_vlm.utils.AutoProcessor is transformers.AutoProcessor
    assert not hasattr(transformers.AutoProcessor.from_pretrained, "__minicpmv46_row__")
    assert not any("minicpmv46" in str(finder) for finder in sys.meta_path)
"""


def execute(*command: str | Path) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def rewrite(folder: Path, target: Path, pattern: str, replacement: str) -> None:
    """Make `target` a copy of the package in `folder` with every `pattern` replaced; links where it can."""
    target.mkdir(parents=True)
    for entry in folder.iterdir():
        copy = target / entry.name
        if entry.is_dir() and any(re.search(pattern, file.read_text()) for file in entry.rglob("*.py")):
            rewrite(entry, copy, pattern, replacement)
        elif entry.suffix == ".py" and re.search(pattern, text := entry.read_text()):
            copy.write_text(re.sub(pattern, replacement, text))
        elif entry.name != "__pycache__":
            copy.symlink_to(entry)


@dataclass(frozen=True)
class Environment:
    """A virtual environment and what a test does with it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def install(self, *what: str | Path) -> None:
        execute(sys.executable, "-m", "pip", "--python", self.python, "install", *OFFLINE, *what)

    def uninstall(self) -> None:
        execute(sys.executable, "-m", "pip", "--python", self.python, "uninstall", "--yes", "minicpmv46")

    def start(
        self, *code: str, flags: Sequence[str] = (), pythonpath: str | Path = "", disable: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run pieces of code, one after the other; the caller looks at the exit status."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"HF_HUB_OFFLINE": "1", "MINICPMV46_DISABLE": disable, "PYTHONPATH": str(pythonpath)}
        return subprocess.run(
            [self.python, *flags, "-c", "\n".join(map(textwrap.dedent, code))],
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.folder,
        )

    def run(self, *code: str, flags: Sequence[str] = (), pythonpath: str | Path = "", disable: str = "") -> str:
        """Run pieces of code, which must succeed, and return what they printed."""
        done = self.start(*code, flags=flags, pythonpath=pythonpath, disable=disable)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def paths(self) -> str:
        """The environment's import paths as a PYTHONPATH, for starts that read no .pth file."""
        return os.pathsep.join([str(self.packages), *(self.packages / "linked.pth").read_text().splitlines()])
