"""Quantized, limited and rotating caches: how far the probabilities move, and that nothing is forgotten."""

from typing import Any

import numpy as np
import pytest
from mlx_vlm import stream_generate
from mlx_vlm.models.cache import RotatingKVCache
from support.plain_requests import SMALL, WAVES, Loaded, ask, prepared, rendered


def stream(loaded: Loaded, **keywords: Any) -> tuple[list[np.ndarray], list[str]]:
    """Probabilities of every token of an answer about an image, and the names of the caches afterwards."""
    state = loaded[0].language_model.make_cache()
    chunks = stream_generate(
        *loaded,
        rendered(loaded, "Describe it.", WAVES),
        image=[WAVES.load()],
        max_tokens=8,
        prompt_cache=state,
        **{"temperature": 0.0, **SMALL, **keywords},
    )
    return [np.array(chunk.logprobs) for chunk in chunks][:8], [type(entry).__name__ for entry in state]


@pytest.mark.parametrize(
    ("options", "names", "allowed"),
    [
        ({"kv_bits": 8, "kv_group_size": 32}, ("QuantizedKVCache", "QuantizedKVCache"), 0.02),
        ({"kv_bits": 8, "kv_quant_scheme": "turboquant"}, ("TurboQuantKVCache", "KVCache"), 0.04),
        (
            {"kv_bits": 8, "kv_quant_scheme": "turboquant", "kv_key_bits": 8, "kv_value_bits": 6},
            ("TurboQuantKVCache", "KVCache"),
            0.1,
        ),
        (
            {"kv_bits": 8, "kv_group_size": 32, "kv_key_scheme": "uniform", "kv_value_scheme": "turboquant"},
            ("HybridQuantKVCache", "KVCache"),
            0.04,
        ),
    ],
)
def test_quantized_caches(loaded: Loaded, options: dict[str, Any], names: tuple[str, str], allowed: float) -> None:
    """Keys and values only, as far as mlx-vlm goes (turboquant leaves the last layer), and close to full precision."""
    plain, _ = stream(loaded, prefill_step_size=20)
    found, kinds = stream(loaded, prefill_step_size=20, quantized_kv_start=0, **options)
    assert kinds == [*["ArraysCache"] * 3, names[0], *["ArraysCache"] * 3, names[1]]
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, plain, strict=True)]
    assert 1e-4 < max(errors) < allowed
    # mlx-vlm's default start is a long prompt's end.
    short, kinds = stream(loaded, prefill_step_size=20, **options)
    assert not {"QuantizedKVCache", "TurboQuantKVCache"} & set(kinds)
    if "HybridQuantKVCache" not in kinds:  # those start empty
        np.testing.assert_array_equal(short, plain)


def test_quantization_starts_on_the_way(loaded: Loaded) -> None:
    """Up to `quantized_kv_start` tokens the answer is the exact one; afterwards it is close."""
    plain, _ = stream(loaded)
    prompt = prepared(loaded, "Describe it.", WAVES)["input_ids"].size
    found, kinds = stream(loaded, kv_bits=8, kv_group_size=32, quantized_kv_start=prompt + 4)
    assert kinds.count("QuantizedKVCache") == 2
    np.testing.assert_array_equal(found[:5], plain[:5])
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found[5:], plain[5:], strict=True)]
    assert min(errors) > 1e-6 and max(errors) < 0.02


def test_quantization_that_does_not_fit(loaded: Loaded) -> None:
    """The heads of this checkpoint have 32 values, the default group 64."""
    for options, word in (({"kv_bits": 8}, "group size 64"), ({"kv_bits": 7, "kv_group_size": 32}, "bits 7")):
        with pytest.raises(ValueError, match=word):
            ask(loaded, "Hi", quantized_kv_start=0, **options)


def test_size_limit_of_the_cache(loaded: Loaded) -> None:
    """mlx-vlm limits only models that leave their caches to it: here nothing is forgotten, and the answer is whole."""
    plain, _ = stream(loaded)
    limited, kinds = stream(loaded, max_kv_size=8)
    assert kinds.count("KVCache") == 2 and "RotatingKVCache" not in kinds
    np.testing.assert_array_equal(limited, plain)
    assert ask(loaded, "Hi", WAVES, max_kv_size=8).token_ids == ask(loaded, "Hi", WAVES).token_ids


def test_rotating_caches_of_the_caller(loaded: Loaded) -> None:
    """Given in place of the attention layers' own: exact as long as they hold everything, another text afterwards."""

    def answer(size: int) -> list[int]:
        state = loaded[0].language_model.make_cache()
        state[3], state[7] = RotatingKVCache(max_size=size), RotatingKVCache(max_size=size)
        return ask(loaded, "Count.", WAVES, prompt_cache=state, prefill_step_size=16).token_ids

    free = ask(loaded, "Count.", WAVES).token_ids
    assert answer(200) == free != answer(8)
