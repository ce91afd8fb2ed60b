"""Programs that use mlx-vlm and transformers side by side, and what they ask of a model of mlx-vlm."""

import json
from pathlib import Path

import pytest
from support.environments import Environment

UNTOUCHED = """
    import transformers

    assert not hasattr(transformers.AutoProcessor.from_pretrained, "__wrapped__") or (
        "minicpmv46" not in str(vars(transformers.AutoProcessor.from_pretrained))
    )
    assert not hasattr(transformers.AutoProcessor.from_pretrained, "__minicpmv46_row__")
"""


@pytest.mark.parametrize(
    "before",
    [
        "import mlx_vlm",
        "import mlx_vlm; mlx_vlm.load(PATH)",
        "import mlx_vlm, mlx_vlm.models.minicpmv4_6",
        "import mlx_vlm, mlx_vlm.models.minicpmv4_7",
    ],
    ids=["imported", "loaded", "built-in", "4.7"],
)
def test_auto_processor_gives_ours(installed: Environment, checkpoint: Path, before: str) -> None:
    installed.run(f"""
        PATH = {str(checkpoint)!r}
        from transformers import AutoProcessor
        {before}
        import pathlib
        from minicpmv46 import Processor

        for path in (PATH, pathlib.Path(PATH)):
            processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
            assert type(processor) is Processor
            assert type(AutoProcessor.from_pretrained(pretrained_model_name_or_path=path)) is Processor
    """)


def test_auto_processor_gives_ours_after_the_built_in_port(installed: Environment, checkpoint: Path) -> None:
    """The package comes last, and says that what is loaded is not its."""
    done = installed.start(
        f"""
        import mlx_vlm
        from transformers import AutoProcessor

        mlx_vlm.load({str(checkpoint)!r})
        import minicpmv46

        assert AutoProcessor.from_pretrained({str(checkpoint)!r}).__module__ == "minicpmv46.processing"
        assert type(mlx_vlm.load({str(checkpoint)!r})[0]).__module__ == "minicpmv46.model"
        """,
        flags=["-S"],
        pythonpath=installed.paths(),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning: mlx-vlm's own minicpmv4_6 was imported before minicpmv46") == 1


def test_auto_processor_is_left_alone_without_mlx_vlm(installed: Environment) -> None:
    installed.run(UNTOUCHED)


def test_auto_processor_of_other_models_is_as_it_was(installed: Environment, tmp_path: Path) -> None:
    """What transformers makes or raises, asked for folders, repositories and nonsense."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{")
    code = f"""
        from transformers import AutoProcessor
        import mlx_vlm

        folders = {str(tmp_path)!r}, {str(tmp_path / "bad")!r}
        for path in (*folders, "owner/name", "", "x" * 5000, "a\\0b", 5, None, b"x"):
            try:
                print(AutoProcessor.from_pretrained(path))
            except Exception as error:
                print(type(error).__name__, str(error)[:200])
    """
    assert installed.run(code) == installed.run(code, disable="1")


def test_what_tools_ask_of_a_model(installed: Environment, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    installed.run(f"""
        import mlx_vlm

        model, _ = mlx_vlm.load({str(checkpoint)!r})
        assert model.model_type == model.config.model_type == "minicpmv4_6"
        assert model.config.text_config.model_type == model.language_model.model_type == "qwen3_5_text"
        assert model.config.vision_config.model_type == model.vision_tower.model_type == "minicpmv4_6_vision"
        assert [type(c) for c in model.make_cache()] == [type(c) for c in model.language_model.make_cache()]
        assert len(model.make_cache()) == len(model.layers) == {config["text_config"]["num_hidden_layers"]}
    """)


def test_namespace_paths_are_searched(installed: Environment, tmp_path: Path) -> None:
    """Parts of mlx-vlm without `__init__.py` have a path that is no list."""
    installed.run("""
        import mlx_vlm.utils
        from importlib.machinery import PathFinder
        from collections.abc import Iterable, Sequence
        from minicpmv46.plugin.hook import FINDER, PATCHED

        import pathlib, sys
        pathlib.Path("space/part").mkdir(parents=True, exist_ok=True)
        sys.path.insert(0, "space")
        import part

        assert isinstance(part.__path__, Iterable) and not isinstance(part.__path__, Sequence)
        for name in ("mlx_vlm.models.minicpmv46", "mlx_vlm.utils"):
            FINDER.find_spec(name, part.__path__)
    """)
