"""What the tests of bad input share: processor and model, a model that must not be run, broken files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import load
from support.pictures import MEDIA

from minicpmv46.model import LanguageModel, Model
from minicpmv46.processing import Processor


@pytest.fixture(scope="module")
def ours(processor: Callable[[str], Processor]) -> Processor:
    return processor("base")


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """Model and processor as mlx-vlm loads them."""
    return load(str(checkpoint("base")))


@pytest.fixture
def idle(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The same with a model that must not be run."""

    def called(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Model, "encode_images", called)
    monkeypatch.setattr(Model, "get_input_embeddings", called)
    monkeypatch.setattr(LanguageModel, "__call__", called)
    return loaded


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what their names say."""
    folder = tmp_path_factory.mktemp("broken")
    picture, clip = (MEDIA / "flower.png").read_bytes(), (MEDIA / "pan_short.mp4").read_bytes()
    (folder / "half.png").write_bytes(picture[: len(picture) // 2])
    (folder / "half.mp4").write_bytes(clip[: len(clip) // 2])
    (folder / "empty.png").touch()
    (folder / "empty.mp4").touch()
    (folder / "words.png").write_text("no picture")
    (folder / "words.mp4").write_text("no clip")
    (folder / "folder.png").mkdir()
    return folder
