"""Penalties, biases and sampling, computed here from the model's own logits, which other tests tie to the oracle."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support.plain_requests import NEW_TOKENS, WAVES, Loaded, ask, prepared
from support.tiny import STOP_TOKENS


def reference(
    loaded: Loaded, inputs: dict[str, Any], process: Callable[[list[int], np.ndarray], np.ndarray]
) -> list[int]:
    """Greedy tokens with logits that `process` has changed, knowing the prompt's last token and the answer."""
    model = loaded[0]
    state = model.language_model.make_cache()
    embeds = model.get_input_embeddings(**inputs).inputs_embeds
    logits = model.language_model(inputs["input_ids"], embeds, cache=state).logits
    known = inputs["input_ids"][0, -1:].tolist()
    while len(known) <= NEW_TOKENS:
        known.append(int(process(known, np.array(logits[0, -1])).argmax()))
        if known[-1] in STOP_TOKENS:
            break
        logits = model.language_model(mx.array([known[-1:]]), cache=state).logits
    return known[1:]


def penalized(known: list[int], logits: np.ndarray, **penalties: float) -> np.ndarray:
    """Penalties by their definitions; below one, or below zero, they are rewards, which show more."""
    logits = logits.copy()
    if (factor := penalties.get("repetition_penalty")) is not None:
        seen = sorted(set(known[-int(penalties.get("repetition_context_size", 20)) :]))
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * np.float32(factor), logits[seen] / np.float32(factor))
    if (amount := penalties.get("presence_penalty")) is not None:
        seen = sorted(set(known[-int(penalties.get("presence_context_size", 20)) :]))
        logits[seen] -= np.float32(amount)
    if (amount := penalties.get("frequency_penalty")) is not None:
        for token in known[-int(penalties.get("frequency_context_size", 20)) :]:
            logits[token] -= np.float32(amount)
    return logits


@pytest.mark.parametrize(
    "penalties",
    [
        {"repetition_penalty": 0.3, "repetition_context_size": 2},
        {"presence_penalty": -6.0, "presence_context_size": 3},
        {"frequency_penalty": -1.5},
        {"repetition_penalty": 0.5, "presence_penalty": 2.0, "frequency_penalty": -2.0},
    ],
    ids=str,
)
def test_penalties(loaded: Loaded, penalties: dict[str, float]) -> None:
    inputs = prepared(loaded, "Count.", WAVES)
    result = ask(loaded, "Count.", WAVES, **penalties).token_ids
    assert result == reference(loaded, inputs, lambda known, logits: penalized(known, logits, **penalties))
    assert result != ask(loaded, "Count.", WAVES).token_ids


def test_logit_bias_and_processors(loaded: Loaded) -> None:
    free = ask(loaded, "Why?").token_ids
    inputs = prepared(loaded, "Why?")
    bias = {free[0]: -50.0, 17: 2.0}

    def biased(known: list[int], logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        for token, value in bias.items():
            logits[token] += value
        return logits

    expected = reference(loaded, inputs, biased)
    assert ask(loaded, "Why?", logit_bias=bias).token_ids == expected != free

    def processor(tokens: mx.array, logits: mx.array) -> mx.array:
        return mx.array(biased(tokens.tolist(), np.array(logits[0])))[None]

    assert ask(loaded, "Why?", logits_processors=[processor]).token_ids == expected


def test_sampling(loaded: Loaded) -> None:
    """A seed makes samples repeatable; limits that leave one token are greedy; unset, the checkpoint's apply."""
    greedy = ask(loaded, "Why?").token_ids

    def sampled(**keywords: Any) -> list[int]:
        return ask(loaded, "Why?", **{"temperature": 1.5, "seed": 7, **keywords}).token_ids

    assert sampled() == sampled() != sampled(seed=8)
    for only_one in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"sampler": lambda x: mx.argmax(x, axis=-1)}):
        assert sampled(**only_one) == greedy != sampled()
    assert loaded[0].config.temperature == 0.7
    assert sampled(temperature=None) == sampled(temperature=0.7) != sampled(temperature=1.5)
