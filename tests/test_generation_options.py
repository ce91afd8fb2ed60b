"""Options of generation, each as mlx-vlm documents it: thinking budgets, stop tokens, penalties, sampling, quantized
caches, size limits, drafters, processes.

What an option does to the probabilities is computed here from the model's own logits, which other tests compare
with the official implementation; everything else is compared with the plain request.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from cases import MEDIA, Picture
from mlx_vlm import batch_generate, generate, load, stream_generate
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.models.cache import RotatingKVCache
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.speculative.drafters import validate_drafter_compatibility
from mlx_vlm.utils import ThinkingBudgetCriteria, prepare_inputs, sharded_load
from test_commands import folder, python  # noqa: F401  `folder` is a fixture
from tiny import STOP_TOKENS

NEW_TOKENS = 12
SMALL = {"scale_resolution": 112}  # a unit costs a sixteenth
WAVES = Picture("waves", (300, 270))  # slices
REFUSAL = "MiniCPM-V 4.6 has no drafter and takes none"

Loaded = tuple[Any, Any]


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Loaded:
    """Eight layers, two of them attention."""
    return load(str(checkpoint("untied")))


def rendered(loaded: Loaded, text: str, image: Any = None, thinking: bool = False) -> str:
    model, processor = loaded
    variables = {"enable_thinking": True} if thinking else {}
    return apply_chat_template(processor, model.config, text, num_images=int(image is not None), **variables)


def ask(loaded: Loaded, text: str, image: Picture | None = None, thinking: bool = False, **keywords: Any) -> Any:
    """`generate`'s result for a question, greedy unless told otherwise."""
    media = {"image": [image.load()], **SMALL} if image is not None else {}
    template = {"enable_thinking": True} if thinking else {}
    options = {"max_tokens": NEW_TOKENS, "temperature": 0.0, **media, **template, **keywords}
    return generate(*loaded, rendered(loaded, text, image, thinking), **options)


def prepared(loaded: Loaded, text: str, image: Picture | None = None, thinking: bool = False) -> dict[str, Any]:
    """Arrays of the same question."""
    media = {"images": [image.load()], **SMALL} if image is not None else {}
    inputs = prepare_inputs(loaded[1], prompts=rendered(loaded, text, image, thinking), **media)
    return {name: inputs[name] for name in ("input_ids", "pixel_values", "image_units") if name in inputs}


def continued(loaded: Loaded, inputs: dict[str, Any], tokens: Sequence[int], count: int) -> list[int]:
    """Greedy tokens after a prompt and what is taken as answered already."""
    ids = mx.concatenate([inputs["input_ids"], mx.array([list(tokens)], dtype=mx.int32)], axis=1)
    return generate(*loaded, "", max_tokens=count, temperature=0.0, **{**inputs, "input_ids": ids}).token_ids


def token_id(loaded: Loaded, token: str) -> int:
    (found,) = loaded[1].tokenizer.encode(token, add_special_tokens=False)
    return int(found)


# Thinking budgets


@pytest.mark.parametrize(
    ("image", "budget", "tokens"),
    [
        (None, 0, {}),
        (WAVES, 4, {}),
        (None, 3, {"thinking_start_token": "<|im_start|>", "thinking_end_token": "</tool_call>"}),
    ],
)
def test_thinking_budget(loaded: Loaded, image: Any, budget: int, tokens: dict[str, str]) -> None:
    """mlx-vlm closes the block once there is a token more than the budget; the answer goes on from there."""
    free = ask(loaded, "Hi", image, thinking=True).token_ids
    end = token_id(loaded, tokens.get("thinking_end_token", "</think>"))
    thoughts = [*free[: budget + 1], token_id(loaded, "\n"), end]
    assert end not in free
    result = ask(loaded, "Hi", image, thinking=True, thinking_budget=budget, **tokens).token_ids
    rest = continued(loaded, prepared(loaded, "Hi", image, thinking=True), thoughts, NEW_TOKENS - len(thoughts))
    assert result == thoughts + rest and rest
    # The next call has no budget.
    assert ask(loaded, "Hi", image, thinking=True).token_ids == free


def test_thinking_budget_without_thinking(loaded: Loaded) -> None:
    """A template that closes the block itself leaves nothing to cut."""
    assert ask(loaded, "Hi", thinking_budget=2).token_ids == ask(loaded, "Hi").token_ids


def test_thinking_budget_of_one_row(loaded: Loaded) -> None:
    """In a batch one row is cut, and its neighbour is not."""
    model, processor = loaded
    budgets = {0: 2, 1: None}
    expected = [
        ask(loaded, text, thinking=True, **({"thinking_budget": budget} if budget else {})).token_ids
        for text, budget in zip(("Count.", "Why?"), budgets.values(), strict=True)
    ]
    ids = [prepared(loaded, text, thinking=True)["input_ids"] for text in ("Count.", "Why?")]
    criteria = [
        budget
        and ThinkingBudgetCriteria(
            processor.tokenizer,
            budget,
            thinking_start_token="<think>",
            enable_thinking=True,
            prompt_preopens_thinking=True,
        )
        for budget in budgets.values()
    ]
    generator = BatchGenerator(model.language_model, processor, prefill_batch_size=2)
    generator.insert(
        [row[0].tolist() for row in ids],
        NEW_TOKENS,
        prompt_kwargs=[{"inputs_embeds": model.language_model.model.embed_tokens(row)} for row in ids],
        thinking_budget_criteria=criteria,
    )
    found: dict[int, list[int]] = {0: [], 1: []}
    while generator.has_work:
        for response in generator.next()[1]:
            found[response.uid].append(response.token)
    generator.close()
    assert list(found.values()) == expected


# Stop tokens and text


def test_more_stop_tokens(loaded: Loaded) -> None:
    """As ids and as words, until a call without them; a word stands for its last token after a space."""
    encode = loaded[1].tokenizer.encode
    free = ask(loaded, "Why?").token_ids
    words = [[free[0]], [free[4]], ["<|im_start|>"], ["i"], ["i", free[3]]]
    for stops, position in zip(words, (0, 4, 0, free.index(encode(" i")[-1]), 3), strict=True):
        result = ask(loaded, "Why?", eos_tokens=stops)
        assert (result.token_ids, result.finish_reason) == (free[: position + 1], "stop"), stops
        again = ask(loaded, "Why?")  # mlx-vlm keeps them until then
        assert (again.token_ids, again.finish_reason) == (free, "length")


def test_limits_of_length(loaded: Loaded) -> None:
    free = ask(loaded, "Why?")
    for limit in (0, 1, 5):
        result = ask(loaded, "Why?", max_tokens=limit)
        assert result.token_ids == free.token_ids[:limit] and result.finish_reason == "length"


def test_skip_special_tokens(loaded: Loaded) -> None:
    plain, skipped = ask(loaded, "Hi", WAVES), ask(loaded, "Hi", WAVES, skip_special_tokens=True)
    assert skipped.token_ids == plain.token_ids
    for result, skip in ((plain, False), (skipped, True)):
        text = loaded[1].tokenizer.decode(plain.token_ids, skip_special_tokens=skip)
        # Bytes that are no UTF-8 are shown differently when they are streamed.
        assert result.text.replace("\ufffd", "") == text.replace("\ufffd", "")
    assert plain.text != skipped.text


@pytest.mark.parametrize(("shape", "size"), [((200,), (200, 180)), ((90, 200), (100, 90))])
def test_resize_shape(loaded: Loaded, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    """One number is both sides of the box; `size` is height and width of the 300x270 image in it."""
    height, width = size
    result = ask(loaded, "Hi", WAVES, resize_shape=shape)
    model, processor = loaded
    resized = WAVES.load().resize((width, height))
    options = {"max_tokens": NEW_TOKENS, "temperature": 0.0, **SMALL}
    expected = generate(model, processor, rendered(loaded, "Hi", resized), image=[resized], **options)
    assert (result.token_ids, result.prompt_tokens) == (expected.token_ids, expected.prompt_tokens)


# Probabilities


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


# Caches


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


# Drafters


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


# Several processes


def test_loading_for_several_processes(loaded: Loaded, checkpoint: Any, capsys: Any) -> None:
    """The model is not split: every process loads all of it, and asking for a split is refused."""
    path, group = str(checkpoint("untied")), mx.distributed.init()
    for kind, word in (("tensor_group", "tensor parallelism"), ("pipeline_group", "pipeline parallelism")):
        with pytest.raises(ValueError, match=f"does not support {word}"):
            sharded_load(path, **{kind: group})
    own = sharded_load(path)
    assert ask(own, "Hi", WAVES).token_ids == ask(loaded, "Hi", WAVES).token_ids


# What users type


COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "thinking and stopping": (
        (
            *("--enable-thinking", "--thinking-budget", "1", "--thinking-start-token", "<think>"),
            *("--thinking-end-token", "</tool_call>", "--eos-tokens", "E", "</unit>"),
        ),
        {
            "thinking_budget": 1,
            "thinking_start_token": "<think>",
            "thinking_end_token": "</tool_call>",
            "eos_tokens": ["E", "</unit>"],
        },
    ),
    "penalties, limits and texts": (
        (
            *("--image", str(MEDIA / "roof.png"), "--resize-shape", "100", "--max-kv-size", "8"),
            *("--skip-special-tokens", "--repetition-penalty", "0.8", "--repetition-context-size", "3"),
            *("--presence-penalty", "-1", "--frequency-penalty", "-0.5", "--frequency-context-size", "4"),
        ),
        {
            "image": [str(MEDIA / "roof.png")],
            "resize_shape": (100, 100),
            "skip_special_tokens": True,
            "repetition_penalty": 0.8,
            "repetition_context_size": 3,
            "presence_penalty": -1.0,
            "frequency_penalty": -0.5,
            "frequency_context_size": 4,
        },
    ),
    "sampling and mixed caches": (
        (
            *("--temperature", "1.2", "--top-p", "0.95", "--top-k", "40", "--min-p", "0.01", "--seed", "5"),
            *("--kv-bits", "8", "--kv-group-size", "32", "--kv-key-scheme", "uniform"),
            *("--kv-value-scheme", "turboquant", "--kv-value-bits", "6", "--quantized-kv-start", "0"),
        ),
        {
            **{"temperature": 1.2, "top_p": 0.95, "top_k": 40, "min_p": 0.01},
            **{"kv_bits": 8, "kv_group_size": 32, "kv_key_scheme": "uniform"},
            **{"kv_value_scheme": "turboquant", "kv_value_bits": 6, "quantized_kv_start": 0},
        },
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command(name: str, folder: Path, checkpoint: Callable[[str], Path]) -> None:  # noqa: F811
    """Flags with the meaning of the keywords."""
    flags, keywords = COMMANDS[name]
    path = str(checkpoint("untied"))
    done = python(
        *("-m", "mlx_vlm.generate", "--model", path, "--prompt", "Why?", "--max-tokens", str(NEW_TOKENS)),
        *(("--temperature", "0.0") if "temperature" not in keywords else ()),
        *flags,
        folder=folder,
    )
    assert done.returncode == 0, done.stderr.decode()
    mx.random.seed(5)  # like the command, before the model is made: making it draws numbers
    own = load(path)
    thinking = "thinking_budget" in keywords
    template = {"enable_thinking": True} if thinking else {}
    prompt = rendered(own, "Why?", keywords.get("image"), thinking)
    result = generate(*own, prompt, **{"max_tokens": NEW_TOKENS, "temperature": 0.0, **template, **keywords})
    assert done.stdout.decode() == f"{result.text}\n" and len(result.text) > 3
    assert result.token_ids != ask(own, "Why?", thinking=thinking).token_ids


def test_command_with_a_drafter(folder: Path, checkpoint: Callable[[str], Path], loaded: Loaded) -> None:  # noqa: F811
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
