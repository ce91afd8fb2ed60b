"""An mlx-vlm that is missing, too old or changed: nothing breaks at start, and loading a model says what is wrong."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny
from support.environments import Environment, rewrite

from minicpmv46 import __version__


def test_without_mlx_vlm(wheel: Path, make_environment: Callable[..., Environment]) -> None:
    environment = make_environment(wheel, without="minicpmv46|mlx_vlm")
    done = environment.start("import minicpmv46")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = environment.start("import mlx_vlm")
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'mlx_vlm'"
    assert "minicpmv46" not in done.stderr
    done = environment.start("import minicpmv46.plugin.arch")
    assert f"RuntimeError: minicpmv46 {__version__} does not fit mlx-vlm: it is not installed (" in done.stderr


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
    assert sentence.startswith(f"minicpmv46 {__version__} does not fit mlx-vlm 0.7.") and sentence.endswith(".")
    assert clause in sentence
    assert sentence.count(" is missing") == ("is missing" in clause)


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "entry"])
def test_mlx_vlm_with_a_port_of_minicpm_ocr(installed: Environment, tmp_path: Path, as_module: bool) -> None:
    """Ours is used, one sentence says so, and theirs stays where it is: it is used where this package is disabled."""
    [folder] = (installed.paths().split(os.pathsep))[1:]
    # An mlx-vlm to come, with a module for the model, or that reads it by its port of 4.6.
    entry = "" if as_module else ' "minicpm_ocr": "minicpmv4_6",'
    rewrite(Path(folder) / "mlx_vlm", tmp_path / "mlx_vlm", "MODEL_REMAPPING = {", f"MODEL_REMAPPING = {{{entry}")
    if as_module:
        models = tmp_path / "mlx_vlm" / "models"
        whole = models.resolve()
        models.unlink()
        models.mkdir()
        for module in whole.iterdir():
            (models / module.name).symlink_to(module)
        (models / "minicpm_ocr.py").write_text("from mlx_vlm.models.minicpmv4_6 import *\n")
    checkpoint = tiny.make_checkpoint(tmp_path / "checkpoint", "ocr")
    code = f"""
        import warnings

        import mlx_vlm.utils

        config = {{"model_type": "minicpm_ocr"}}
        module = mlx_vlm.utils.get_model_and_args(config)[0]
        print(module.Model.__module__)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if module.Model.__module__ == "minicpmv46.model":
                mlx_vlm.load({str(checkpoint)!r})
        print(*[str(entry.message) for entry in told if "minicpm_ocr" in str(entry.message)], sep="\\n")
        if {as_module}:
            import mlx_vlm.models.minicpm_ocr as theirs

            assert theirs.Model.__module__ == "mlx_vlm.models.minicpmv4_6.minicpmv4_6"
    """
    [port, *sentences] = installed.run(code, pythonpath=tmp_path).splitlines()
    assert port == "minicpmv46.model"
    assert sentences == [
        "mlx-vlm has a port of minicpm_ocr too; minicpmv46's is used (MINICPMV46_DISABLE=1 uses mlx-vlm's)"
    ]
    assert installed.run(code, pythonpath=tmp_path, disable="1").split() == ["mlx_vlm.models.minicpmv4_6.minicpmv4_6"]
