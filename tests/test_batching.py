"""Rows of a batch answer as they would alone: padded on either side, joining late, leaving early.

The caches are mlx-vlm's own, driven as its `BatchGenerator` drives them. Every comparison covers all real positions
of a row, and every logit that comes out, padding included, must be finite.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm import load
from mlx_vlm.generate.ar import BatchGenerator, _extend_cache, _left_pad_prompts, _make_cache, _right_pad_prompts
from support.tiny import STOP_TOKENS

from minicpmv46.model import LanguageModel, Model

# Around two of the delta rule's chunks of 32, and far apart: the shortest row is nearly all padding.
LENGTHS = (1, 5, 64, 65, 130)
STEPS = 5
TOLERANCE = 1e-5


def tokens(row: int, length: int) -> list[int]:
    """Ids of a row, other ones for each row; no special tokens."""
    return np.random.RandomState(100 + row).randint(1, 450, length).tolist()


PROMPTS = [tokens(row, length) for row, length in enumerate(LENGTHS)]
# What each row is fed after its prompt, one id a step.
CONTINUATIONS = [tokens(50 + row, 12) for row in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def lm(model: Callable[[str], Model]) -> LanguageModel:
    """Eight layers, two of them attention, so that positions and padding pass through both kinds twice."""
    return model("untied").language_model


@pytest.fixture(scope="module")
def alone(lm: LanguageModel) -> Callable[[int], np.ndarray]:
    """Logits of one row without a batch: its prompt, then its continuation token by token."""

    @cache
    def logits(row: int) -> np.ndarray:
        state = lm.make_cache()
        parts = [run(lm, [PROMPTS[row]], state)[0]]
        parts += [run(lm, [[token]], state)[0] for token in CONTINUATIONS[row]]
        return np.concatenate(parts)

    return logits


def run(lm: LanguageModel, ids: Sequence[Sequence[int]] | mx.array, state: Any = None, **options: Any) -> np.ndarray:
    """Logits [rows, length, vocabulary] of one call; fails on a value that is not finite."""
    logits = np.array(lm(mx.array(ids), cache=state, **options).logits)
    assert np.isfinite(logits).all(), "logits are not finite"
    return logits


def check(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert actual.shape == expected.shape, what
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE, f"{what}: off by {error:.1e} of the largest logit"


class Batch:
    """Rows that are decoded together, and how far each has come in its continuation."""

    def __init__(self, lm: LanguageModel, alone: Callable[[int], np.ndarray], rows: Sequence[int], state: Any) -> None:
        self.lm, self.alone, self.rows, self.state = lm, alone, list(rows), state
        self.fed = dict.fromkeys(rows, 0)

    @classmethod
    def prefill(
        cls, lm: LanguageModel, alone: Callable[[int], np.ndarray], rows: Sequence[int], step: int | None = None
    ) -> "Batch":
        """Left-padded prompts in calls of at most `step` tokens; all prompt logits are compared."""
        prompts = [PROMPTS[row] for row in rows]
        padded = _left_pad_prompts(prompts)
        length = padded.shape[1]
        state = _make_cache(lm, [length - len(prompt) for prompt in prompts])
        step = step or length
        parts = [run(lm, padded[:, i : i + step], state) for i in range(0, length, step)]
        logits = np.concatenate(parts, axis=1)
        for i, row in enumerate(rows):
            count = len(PROMPTS[row])
            check(logits[i, length - count :], alone(row)[:count], f"prompt of {count} tokens")
        return cls(lm, alone, rows, state)

    def decode(self, steps: int) -> None:
        """Feed each row its next tokens; all logits are compared."""
        for _ in range(steps):
            logits = run(self.lm, [[CONTINUATIONS[row][self.fed[row]]] for row in self.rows], self.state)
            for i, row in enumerate(self.rows):
                expected = self.alone(row)[len(PROMPTS[row]) + self.fed[row]]
                check(logits[i, 0], expected, f"row of {len(PROMPTS[row])} tokens, step {self.fed[row]}")
                self.fed[row] += 1

    def keep(self, places: Sequence[int]) -> None:
        """Leave the rows at `places`, in that order."""
        self.rows = [self.rows[i] for i in places]
        for entry in self.state:
            entry.filter(mx.array(places, mx.int32))

    def join(self, other: "Batch") -> None:
        self.state = _extend_cache(self.state, other.state)
        self.rows += other.rows
        self.fed |= other.fed


@pytest.mark.parametrize("step", [None, 7, 64])
def test_left_padding(lm: LanguageModel, alone: Any, step: int | None) -> None:
    """Very different lengths in one batch, prefilled at once or in pieces that are all padding for some rows."""
    batch = Batch.prefill(lm, alone, range(len(PROMPTS)), step)
    batch.decode(STEPS)


@pytest.mark.parametrize("variant", ["base", "value_heads"])
def test_left_padding_of_other_shapes(model: Any, variant: str) -> None:
    """The same with a tied head, and with more value heads than key heads."""
    small = model(variant).language_model
    ids = [PROMPTS[1], PROMPTS[3]]
    state = _make_cache(small, [60, 0])
    logits = run(small, _left_pad_prompts(ids), state)
    step = run(small, [[7], [9]], state)
    for i, (prompt, token) in enumerate(zip(ids, (7, 9), strict=True)):
        single = small.make_cache()
        check(logits[i, -len(prompt) :], run(small, [prompt], single)[0], f"{variant}, row {i}")
        check(step[i], run(small, [[token]], single)[0], f"{variant}, row {i}, first step")


def test_row_order_and_equal_lengths(lm: LanguageModel, alone: Any) -> None:
    """The longest row need not be last, and a batch may need no padding at all."""
    batch = Batch.prefill(lm, alone, [4, 0, 2])
    batch.decode(2)
    ids = [PROMPTS[3][:20], PROMPTS[4][:20]]
    logits = run(lm, ids, _make_cache(lm, [0, 0]))
    for i, row in enumerate((3, 4)):
        check(logits[i], alone(row)[:20], f"unpadded row {i}")


@pytest.mark.parametrize("keep", [1, 3, 500])
def test_logits_to_keep(lm: LanguageModel, keep: int) -> None:
    """The last logits of a call are the same ones, however many are asked for; more than there are gives all."""
    padded, padding = _left_pad_prompts(PROMPTS), [130 - n for n in LENGTHS]
    everything = run(lm, padded, _make_cache(lm, padding))
    state = _make_cache(lm, padding)
    kept = run(lm, padded, state, logits_to_keep=keep)
    assert kept.shape[1] == min(keep, 130)
    check(kept, everything[:, -keep:], f"last {keep}")
    check(run(lm, PROMPTS[4:], logits_to_keep=keep), run(lm, PROMPTS[4:])[:, -keep:], f"last {keep} without cache")


def test_rows_join_later(lm: LanguageModel, alone: Any) -> None:
    """A batch takes in a single row, shorter or longer than itself, and another batch, in the middle of decoding."""
    batch = Batch.prefill(lm, alone, [1, 2])
    batch.decode(3)
    for row in (4, 0):  # a single request has ordinary caches, not batched ones
        state = lm.make_cache()
        check(run(lm, [PROMPTS[row]], state)[0], alone(row)[: LENGTHS[row]], "prompt alone")
        batch.join(Batch(lm, alone, [row], state))
        batch.decode(2)
    assert batch.fed == {1: 7, 2: 7, 4: 4, 0: 2}
    late = Batch.prefill(lm, alone, [3])
    late.decode(1)
    batch.join(late)
    batch.decode(STEPS)


def test_two_single_requests_become_a_batch(lm: LanguageModel, alone: Any) -> None:
    singles = []
    for row in (3, 1):
        state = lm.make_cache()
        run(lm, [PROMPTS[row]], state)
        singles.append(Batch(lm, alone, [row], state))
    singles[0].decode(4)
    singles[0].join(singles[1])
    singles[0].decode(STEPS)


def test_caches_merged_at_once(lm: LanguageModel, alone: Any) -> None:
    """`merge` of every entry, as mlx-vlm's prefix cache does with rows that it knows."""
    rows = [2, 0, 4]
    states = []
    for row in rows:
        states.append(lm.make_cache())
        run(lm, [PROMPTS[row]], states[-1])
    merged = [type(entries[0]).merge(list(entries)) for entries in zip(*states, strict=True)]
    Batch(lm, alone, rows, merged).decode(STEPS)


def test_rows_leave(lm: LanguageModel, alone: Any) -> None:
    """The rest goes on when the longest row leaves, when the order changes, and when one row is left."""
    batch = Batch.prefill(lm, alone, range(len(PROMPTS)))
    batch.decode(2)
    batch.keep([3, 0, 1])
    batch.decode(2)
    batch.keep([2, 1])
    batch.decode(2)
    state = lm.make_cache()
    run(lm, [PROMPTS[2]], state)
    batch.join(Batch(lm, alone, [2], state))  # shifted padding takes a longer row in
    batch.decode(2)
    batch.keep([1])
    batch.decode(1)


def test_row_leaves_in_the_middle_of_its_prompt(lm: LanguageModel, alone: Any) -> None:
    """Cancelling a request while its batch is prefilled in pieces leaves the others as they were."""
    rows = [1, 4, 3]
    padded = _left_pad_prompts([PROMPTS[row] for row in rows])
    state = _make_cache(lm, [125, 0, 65])
    run(lm, padded[:, :100], state)
    keep = mx.array([0, 2], mx.int32)
    for entry in state:
        entry.filter(keep)
    logits = run(lm, padded[keep, 100:], state)
    check(logits[0, -5:], alone(1)[:5], "row of 5 tokens")
    check(logits[1], alone(3)[35:65], "row of 65 tokens")
    Batch(lm, alone, [1, 3], state).decode(2)


@pytest.mark.parametrize("step", [None, 50])
def test_right_padding(lm: LanguageModel, alone: Any, step: int | None) -> None:
    """Right-padded prompts with announced lengths, then `finalize`, then ordinary decoding."""
    padded = _right_pad_prompts(PROMPTS)
    length = padded.shape[1]
    state = _make_cache(lm, [0] * len(PROMPTS))
    for entry in state:
        entry.prepare(right_padding=[length - n for n in LENGTHS], lengths=list(LENGTHS))
    step = step or length
    logits = np.concatenate([run(lm, padded[:, i : i + step], state) for i in range(0, length, step)], axis=1)
    for row, count in enumerate(LENGTHS):
        check(logits[row, :count], alone(row)[:count], f"right-padded prompt of {count} tokens")
    for entry in state:
        entry.finalize()
    batch = Batch(lm, alone, range(len(PROMPTS)), state)
    batch.decode(STEPS)
    batch.keep([4, 0])
    batch.decode(1)


def test_right_padding_after_known_prefixes(lm: LanguageModel, alone: Any) -> None:
    """Rows with prefixes of different lengths in their caches get right-padded rests: padding on both sides."""
    prefixes = {4: 100, 2: 3, 3: 0}
    states = []
    for row, count in prefixes.items():
        states.append(lm.make_cache())
        if count:
            run(lm, [PROMPTS[row][:count]], states[-1])
    merged = [type(entries[0]).merge(list(entries)) for entries in zip(*states, strict=True)]
    rests = [PROMPTS[row][count:] for row, count in prefixes.items()]
    lengths = [len(rest) for rest in rests]
    for entry in merged:
        entry.prepare(right_padding=[max(lengths) - n for n in lengths], lengths=lengths)
    logits = run(lm, _right_pad_prompts(rests), merged)
    for i, (row, count) in enumerate(prefixes.items()):
        check(logits[i, : lengths[i]], alone(row)[count : LENGTHS[row]], f"rest after {count} known tokens")
    for entry in merged:
        entry.finalize()
    Batch(lm, alone, list(prefixes), merged).decode(STEPS)


@pytest.mark.parametrize("side", ["left", "right"])
def test_mask_without_cache(lm: LanguageModel, alone: Any, side: str) -> None:
    """A whole padded batch in one call, as in training."""
    padded = (_left_pad_prompts if side == "left" else _right_pad_prompts)(PROMPTS)
    length = padded.shape[1]
    place = np.arange(length)
    real = [place >= length - n if side == "left" else place < n for n in LENGTHS]
    mask = mx.array(np.stack(real).astype(np.int32))
    logits = run(lm, padded, mask=mask)
    for row, count in enumerate(LENGTHS):
        check(logits[row, real[row]], alone(row)[:count], f"{side}-padded row of {count} tokens")
    kept = run(lm, padded, mask=mask, logits_to_keep=2)
    check(kept, logits[:, -2:], "last 2")
    check(run(lm, padded, mask=mask.astype(mx.bool_)), logits, "boolean mask")


def test_mask_of_ones_changes_nothing(lm: LanguageModel, alone: Any) -> None:
    prompt = PROMPTS[3]
    check(run(lm, [prompt], mask=mx.ones((1, len(prompt)), mx.int32))[0], alone(3)[: len(prompt)], "mask of ones")
    check(run(lm, [prompt])[0], alone(3)[: len(prompt)], "no mask, no cache")


@pytest.mark.parametrize(
    ("options", "kind", "allowed"),
    [
        ({"kv_bits": 8, "kv_group_size": 32}, "BatchQuantizedKVCache", 0.02),
        ({"kv_bits": 8, "kv_quant_scheme": "turboquant"}, "BatchTurboQuantKVCache", 0.04),
    ],
)
def test_quantized_keys_and_values(
    lm: LanguageModel, alone: Any, options: dict[str, Any], kind: str, allowed: float
) -> None:
    """8-bit caches of a padded batch: close to full precision, and really quantized, in the layers mlx-vlm means."""
    rows = [1, 4, 2]
    prompts = [PROMPTS[row] for row in rows]
    state = _make_cache(lm, [130 - len(p) for p in prompts], **options)
    names = [*["ArraysCache"] * 3, kind, *["ArraysCache"] * 3, "BatchKVCache"]
    assert [type(entry).__name__ for entry in state] == names
    logits = [run(lm, _left_pad_prompts(prompts), state)[:, -1]]
    logits += [run(lm, [[CONTINUATIONS[row][i]] for row in rows], state)[:, -1] for i in range(2)]
    for i, row in enumerate(rows):
        expected = alone(row)[LENGTHS[row] - 1 : LENGTHS[row] + 2]
        error = np.abs(np.stack(logits)[:, i] - expected).max() / np.abs(expected).max()
        assert TOLERANCE < error < allowed, f"row of {LENGTHS[row]} tokens is off by {error:.1e}"


# mlx-vlm's generator


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """Model and processor as mlx-vlm loads them."""
    return load(str(checkpoint("base")))


def greedy(lm: LanguageModel, prompt: Sequence[int], count: int) -> list[tuple[int, float]]:
    """Tokens with their log-probabilities, up to and with a stop token."""
    state = lm.make_cache()
    ids, found = list(prompt), []
    while len(found) < count and not (found and found[-1][0] in STOP_TOKENS):
        logits = run(lm, [ids], state)[0, -1].astype(np.float64)
        token = int(logits.argmax())
        found.append((token, float(logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max())))
        ids = [token]
    return found


@pytest.mark.parametrize("prefill_step_size", [16, 2048])
def test_batch_generator(loaded: tuple[Any, Any], prefill_step_size: int) -> None:
    """Requests of all lengths and limits, some queued behind running ones, one cancelled, get their own answers."""
    model, processor = loaded
    lm = model.language_model
    processor.tokenizer.stopping_criteria.reset(model.config.eos_token_id)
    counts = [3, 9, 12, 6, 8]
    generator = BatchGenerator(
        lm,
        processor,
        completion_batch_size=8,
        prefill_batch_size=2,
        prefill_step_size=prefill_step_size,
    )

    def insert(rows: Sequence[int]) -> list[int]:
        embeds = [{"inputs_embeds": lm.model.embed_tokens(mx.array([PROMPTS[row]]))} for row in rows]
        return generator.insert([PROMPTS[row] for row in rows], [counts[row] for row in rows], prompt_kwargs=embeds)

    row_of = dict(zip(insert([2, 4, 1]), [2, 4, 1], strict=True))
    cancelled = insert([3])[0]
    answers: dict[int, list[tuple[int, float]]] = {}
    reasons = {}
    for step in range(200):
        if step == 3:
            row_of |= dict(zip(insert([0, 3]), [0, 3], strict=True))
            assert generator.remove(cancelled)
        _, responses = generator.next()
        for response in responses:
            if response.uid != cancelled:
                answers.setdefault(row_of[response.uid], []).append((response.token, response.token_logprob))
                reasons[row_of[response.uid]] = response.finish_reason
        if step > 3 and not generator.has_work:
            break
    generator.close()

    assert sorted(answers) == [0, 1, 2, 3, 4]
    for row, answer in answers.items():
        expected = greedy(lm, PROMPTS[row], counts[row])
        assert [token for token, _ in answer] == [token for token, _ in expected], f"row of {LENGTHS[row]} tokens"
        np.testing.assert_allclose([p for _, p in answer], [p for _, p in expected], atol=1e-4)
        assert reasons[row] == ("stop" if expected[-1][0] in STOP_TOKENS else "length")
