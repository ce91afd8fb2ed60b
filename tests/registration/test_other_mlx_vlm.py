"""An mlx-vlm that is missing, too old or changed: nothing breaks at start, and loading a model says what is wrong."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from environments import Environment


def test_without_mlx_vlm(wheel: Path, make_environment: Callable[..., Environment]) -> None:
    environment = make_environment(wheel, without="minicpmv46|mlx_vlm")
    done = environment.start("import minicpmv46")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = environment.start("import mlx_vlm")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'mlx_vlm'"
    assert "minicpmv46" not in done.stderr
    done = environment.start("import minicpmv46.plugin.arch")
    assert "RuntimeError: minicpmv46 0.1.0 does not fit mlx-vlm: it is not installed (" in done.stderr


def rewrite(folder: Path, target: Path, pattern: str, replacement: str) -> None:
    """Make `target` a copy of the package in `folder` with every `pattern` replaced; links where it can."""
    target.mkdir()
    for entry in folder.iterdir():
        copy = target / entry.name
        if entry.is_dir() and any(re.search(pattern, file.read_text()) for file in entry.rglob("*.py")):
            rewrite(entry, copy, pattern, replacement)
        elif entry.suffix == ".py" and re.search(pattern, text := entry.read_text()):
            copy.write_text(re.sub(pattern, replacement, text))
        elif entry.name != "__pycache__":
            copy.symlink_to(entry)


@pytest.mark.parametrize(
    ("pattern", "replacement", "clause"),
    [
        ('__version__ = "[^"]*"', '__version__ = "0.7.8"', "mlx-vlm 0.7.8: it is older than 0.7.9"),
        (r"\bMODEL_REMAPPING\b", "REMAPPING", "mlx_vlm.utils.MODEL_REMAPPING is missing"),
        (r"\b_?prepare_inputs\b", "make_inputs", "mlx_vlm.utils.prepare_inputs is missing"),
        (r"\bload_model\b", "read_model", "mlx_vlm.utils.load_model is missing"),
        (r"\bapply_chat_template\b", "to_chat", "mlx_vlm.prompt_utils.apply_chat_template is missing"),
        (
            r"\bchunked_attention\b",
            "attention_in_pieces",
            "mlx_vlm.models.base.chunked_attention is missing",
        ),
        (
            r"MODEL_CONFIG = (\{[^}]*\})",
            r"MODEL_CONFIG = __import__('types').MappingProxyType(\1)",
            "is not a dict",
        ),
    ],
)
def test_older_or_changed_mlx_vlm(
    installed: Environment, checkpoint: Path, tmp_path: Path, pattern: str, replacement: str, clause: str
) -> None:
    [folder] = (installed.paths().split(os.pathsep))[1:]
    rewrite(Path(folder) / "mlx_vlm", tmp_path / "mlx_vlm", pattern, replacement)
    done = installed.start("pass", pythonpath=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    code = f"""
        import mlx_vlm
        from mlx_vlm.utils import get_model_and_args

        assert mlx_vlm.__file__.startswith({str(tmp_path)!r})
        get_model_and_args({{"model_type": "qwen3_5"}})
        try:
            mlx_vlm.load({str(checkpoint)!r})
        except RuntimeError as error:
            print(error)
    """
    [sentence] = installed.run(code, flags=["-W", "error::RuntimeWarning"], pythonpath=tmp_path).splitlines()
    assert sentence.startswith("minicpmv46 0.1.0 does not fit mlx-vlm 0.7.") and sentence.endswith(".")
    assert clause in sentence
    assert sentence.count(" is missing") == ("is missing" in clause)
