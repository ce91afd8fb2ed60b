"""Each row of `siblings.py` against transformers' own classes of that model. Needs torch."""

from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("torchvision")

from minicpmv46.option_names import ImageOptions, VideoOptions
from minicpmv46.options import FIXED, Options
from minicpmv46.siblings import SIBLINGS, Sibling


@pytest.fixture(params=SIBLINGS.values(), ids=SIBLINGS)
def sibling(request: pytest.FixtureRequest) -> Sibling:
    return request.param


def official(sibling: Sibling, kind: str) -> Any:
    """A class of a model by the end of its name."""
    modules = {
        "Config": "configuration",
        "ForConditionalGeneration": "modeling",
        "Processor": "processing",
        "ImageProcessor": "image_processing",
        "VideoProcessor": "video_processing",
    }
    name = f"transformers.models.{sibling.model_type}.{modules[kind]}_{sibling.model_type}"
    return getattr(import_module(name), f"{sibling.class_prefix}{kind}")


def test_configuration(sibling: Sibling) -> None:
    config = official(sibling, "Config")()
    assert config.model_type == sibling.model_type
    assert config.vision_config.model_type == sibling.vision_model_type
    assert config.downsample_mode == sibling.downsample_mode
    assert config.tie_word_embeddings == sibling.tie_word_embeddings


def test_processors(sibling: Sibling) -> None:
    """Every option of ours is one of theirs with the same default; what only one model has, only it has."""
    ours = Options.of(sibling)
    halves = ((ours.images, "ImageProcessor", ImageOptions), (ours.videos, "VideoProcessor", VideoOptions))
    for half, kind, names in halves:
        theirs = official(sibling, kind)()
        assert half.to_dict()[f"{kind.removesuffix('Processor').lower()}_processor_type"] == type(theirs).__name__
        for name, value in half.to_dict().items():
            if name in names.__annotations__ or name in FIXED:
                assert getattr(theirs, name) == value, name
        for part in (half.slicing, *([half.sampling] if kind == "VideoProcessor" else [])):
            for field in fields(part):
                if hasattr(theirs, field.name) and field.name != "fps":  # theirs is another library's default
                    assert getattr(theirs, field.name) == getattr(part, field.name), field.name
    assert hasattr(official(sibling, "ImageProcessor")(), "small_image_upsize") == sibling.has_small_image_upsize
    assert ours.sibling is sibling
    assert official(sibling, "Processor").__name__ == f"{sibling.class_prefix}Processor"


def test_image_backend(sibling: Sibling) -> None:
    """The Pillow backend where the model has one."""
    folder = f"transformers.models.{sibling.model_type}"
    try:
        import_module(f"{folder}.image_processing_pil_{sibling.model_type}")
        backend = "pil"
    except ImportError:
        backend = official(sibling, "ImageProcessor")().backend
    assert sibling.image_backend == backend
