"""What a call of the decoder leaves out: positions whose logits nobody asked for, masks where no padding is left."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.generate.ar import _left_pad_prompts, _make_cache

from minicpmv46.config import TextConfig
from minicpmv46.decoder import MLP, Decoder, make_cache
from minicpmv46.model import LanguageModel, Model
from minicpmv46.padding import take_padding

ROWS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
PADDING = [0, 5, 3]


@pytest.fixture(scope="module")
def lm(model: Callable[[str], Model]) -> LanguageModel:
    return model("untied").language_model


def assert_close(actual: Any, expected: Any) -> None:
    expected = np.array(expected)
    np.testing.assert_allclose(np.array(actual), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("keep", [1, 2, 6, 7, 9])
@pytest.mark.parametrize("caches", ["none", "plain", "padded"])
def test_last_positions_only(lm: LanguageModel, caches: str, keep: int) -> None:
    """They are those of all positions, and the cache goes on as after all positions."""
    ids = _left_pad_prompts(ROWS, max_length=7)

    def cache() -> Any:
        return {"none": None, "plain": lm.make_cache(), "padded": _make_cache(lm, PADDING)}[caches]

    mask = mx.array([[0] * pad + [1] * (7 - pad) for pad in PADDING]) if caches == "none" else None
    whole, part = cache(), cache()
    expected = lm(ids, mask=mask, cache=whole).logits
    found = lm(ids, mask=mask, cache=part, logits_to_keep=keep).logits
    assert_close(found, expected[:, -keep:])
    if caches != "none":
        step = mx.array([[20], [21], [22]])
        assert_close(lm(step, cache=part).logits, lm(step, cache=whole).logits)


def test_last_positions_of_a_piece(lm: LanguageModel) -> None:
    """The last layer's queries start behind what the cache holds, not at 0."""
    ids = mx.array([ROWS[0]])
    whole, part = lm.make_cache(), lm.make_cache()
    for cache in (whole, part):
        lm(ids[:, :3], cache=cache)
    assert_close(lm(ids[:, 3:], cache=part, logits_to_keep=2).logits, lm(ids[:, 3:], cache=whole).logits[:, -2:])


def test_last_positions_of_a_delta_net(model: Callable[[str], Model]) -> None:
    """The same where the last layer is a delta net, which this family's checkpoints do not have."""
    config: TextConfig = model("base").language_model.config
    config = replace(config, layer_types=("full_attention", "linear_attention"), num_hidden_layers=2)
    decoder = Decoder(config)
    x = mx.random.normal((2, 6, config.hidden_size))
    assert_close(decoder(x, cache=make_cache(config), keep=2), decoder(x, cache=make_cache(config))[:, -2:])


@pytest.mark.parametrize("pieces", [(7,), (2, 5), (1, 1, 1, 1, 1, 1, 1), (6, 1)])
def test_padding_is_masked_until_it_ends(lm: LanguageModel, pieces: tuple[int, ...]) -> None:
    """However a padded prompt is cut: rows answer as alone, and steps behind it make no mask for the delta nets."""
    ids = _left_pad_prompts(ROWS, max_length=7)
    state = _make_cache(lm, PADDING)
    start = 0
    for length in pieces:
        logits = lm(ids[:, start : start + length], cache=state).logits
        start += length
        left = state[0].left_padding
        assert (left is None) == (start >= max(PADDING)), start
    delta = [entry for entry, kind in zip(state, lm.config.layer_types, strict=True) if kind == "linear_attention"]
    assert len(delta) == 6 and all(entry.left_padding is None for entry in delta)
    assert take_padding(delta, 1).mask is None
    step = lm(mx.array([[20], [21], [22]]), cache=state).logits
    for row, prompt in enumerate(ROWS):
        alone = lm.make_cache()
        assert_close(logits[row, -1], lm(mx.array([prompt]), cache=alone).logits[0, -1])
        assert_close(step[row], lm(mx.array([[20 + row]]), cache=alone).logits[0])


def test_no_work_on_padding(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLPs of a padded prompt see its tokens only, in every layer but the last, which sees one position a row."""
    shapes = []
    mlp = MLP.__call__

    def counted(self: MLP, x: mx.array, generating: bool) -> mx.array:
        shapes.append(x.shape[:-1])
        return mlp(self, x, generating)

    monkeypatch.setattr(MLP, "__call__", counted)
    lm(_left_pad_prompts(ROWS, max_length=7), cache=_make_cache(lm, PADDING), logits_to_keep=1)
    assert shapes == [(sum(map(len, ROWS)),)] * 7 + [(3, 1)]
