"""Shared fixtures: small checkpoints in the official layout, loaded the way users load them."""

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.loading import load_model
from support.running import skip_without_hook

import minicpmv46  # noqa: F401  registers, also where the wheel's .pth file is not installed
from minicpmv46.model import Model
from minicpmv46.processing import Processor

# Their assertions say what differs, as those of the tests do.
SUPPORT = ("conversions", "endpoints", "environments", "quantized", "refusals", "serving", "stages")
pytest.register_assert_rewrite(*(f"support.{name}" for name in SUPPORT))

# A shell starts background jobs with SIGINT ignored, also for what they start: the tests that send it would fail there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a variant of the small checkpoint."""

    @cache
    def make(variant: str = "base") -> Path:
        return tiny.make_checkpoint(tmp_path_factory.mktemp(variant), variant)

    return make


@pytest.fixture(scope="session")
def model(checkpoint: Callable[[str], Path]) -> Callable[[str], Model]:
    """Model of a variant, float32."""
    return cache(lambda variant="base": load_model(checkpoint(variant)))


@pytest.fixture(scope="session")
def processor(checkpoint: Callable[[str], Path]) -> Callable[[str], Processor]:
    """Processor of a variant."""
    return cache(lambda variant="base": Processor.from_pretrained(checkpoint(variant)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder to run commands in; skips where Python does not start with this package."""
    folder = tmp_path_factory.mktemp("commands")
    skip_without_hook(folder)
    return folder


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of patches of each run of the vision encoder in this test."""
    runs: list[int] = []
    encode = Model.encode_images

    def counted(self: Model, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(pixel_values.shape[0])
        return encode(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(Model, "encode_images", counted)
    return runs
