"""Speculative decoding: refused in one sentence, which names the drafter where one was published."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlx_vlm import batch_generate, generate, load
from mlx_vlm.speculative.drafters import validate_drafter_compatibility
from support.plain_requests import NEW_TOKENS, REFUSAL, Loaded, ask, prepared
from support.running import python

OF_OCR = (
    "the drafter of MiniCPM-OCR 1.0 (MiniCPM-OCR-1.0-DSpark) is not supported here yet, nor is another "
    "(speculative decoding): leave the draft model out"
)


@pytest.fixture(params=["dflash", "eagle3", "mtp"])
def drafter(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """What mlx-vlm asks of a drafter before it drafts anything, of a kind."""
    return SimpleNamespace(config=SimpleNamespace(target_layer_ids=[1, 2], model_type=None)), request.param


def test_drafters_are_refused(loaded: Loaded, drafter: tuple[Any, str]) -> None:
    """Before an image is opened, and also where the arrays are there already."""
    draft, kind = drafter
    model, processor = loaded
    with pytest.raises(ValueError, match=REFUSAL):
        generate(model, processor, "<|image_pad|>", image=["missing.png"], draft_model=draft, draft_kind=kind)
    inputs = prepared(loaded, "Hi")
    with pytest.raises(ValueError, match=REFUSAL):
        generate(model, processor, "", draft_model=draft, draft_kind=kind, **inputs)
    with pytest.raises(ValueError, match=REFUSAL):
        validate_drafter_compatibility(model, draft, kind)
    validate_drafter_compatibility(SimpleNamespace(config=SimpleNamespace(model_type="other")), draft, kind)


def test_drafters_are_refused_in_batches(loaded: Loaded, drafter: tuple[Any, str]) -> None:
    """There mlx-vlm compares nothing: the model refuses what a drafter needs of it."""
    draft, kind = drafter
    with pytest.raises(ValueError, match=REFUSAL):
        batch_generate(*loaded, prompts=["Hi", "Why?"], max_tokens=3, draft_model=draft, draft_kind=kind)


@pytest.mark.parametrize("name", ["capture_layer_ids", "return_hidden", "return_shared_kv", "skip_logits"])
def test_model_refuses_what_a_drafter_needs(loaded: Loaded, name: str) -> None:
    model = loaded[0].language_model
    ids = mx.array([[1, 2, 3]])
    value = [] if name == "capture_layer_ids" else True
    with pytest.raises(ValueError, match=REFUSAL):
        model(ids, **{name: value})
    assert mx.array_equal(model(ids, **{name: None}).logits, model(ids).logits)


def test_command_with_a_drafter(folder: Path, checkpoint: Callable[[str], Path], loaded: Loaded) -> None:
    """mlx-vlm says that the drafter does not fit, and answers without it."""
    path = str(checkpoint("untied"))
    done = python(
        *("-m", "mlx_vlm.generate", "--model", path, "--prompt", "Why?", "--max-tokens", str(NEW_TOKENS)),
        *("--temperature", "0.0", "--draft-model", path, "--draft-kind", "mtp", "--draft-block-size", "3"),
        folder=folder,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert f"falling back to autoregressive generation. {REFUSAL}" in output
    assert output.endswith(f"\n{ask(loaded, 'Why?').text}\n")


def test_drafter_of_ocr(checkpoint: Callable[[str], Path], drafter: tuple[Any, str]) -> None:
    """The same calls refuse it in the same places, with its name."""
    draft, kind = drafter
    model, processor = loaded = load(str(checkpoint("ocr")))
    calls: list[Callable[[], Any]] = [
        lambda: generate(model, processor, "<|image_pad|>", image=["none.png"], draft_model=draft, draft_kind=kind),
        lambda: generate(model, processor, "", draft_model=draft, draft_kind=kind, **prepared(loaded, "Hi")),
        lambda: batch_generate(*loaded, prompts=["Hi", "Why?"], max_tokens=3, draft_model=draft, draft_kind=kind),
        lambda: validate_drafter_compatibility(model, draft, kind),
        lambda: model.language_model(mx.array([[1, 2, 3]]), capture_layer_ids=[1]),
    ]
    for call in calls:
        with pytest.raises(ValueError) as raised:
            call()
        assert str(raised.value) == OF_OCR
