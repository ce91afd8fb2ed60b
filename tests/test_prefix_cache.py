"""mlx-vlm's automatic prefix cache: what it gives back is what would have been computed, or it gives nothing back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlx_vlm import load, stream_generate
from mlx_vlm.apc import APCManager, from_env, semantic_extra_hash
from mlx_vlm.apc_coordinator import APCCoordinator
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.models.cache import ArraysCache
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs
from PIL import Image
from support.pictures import MEDIA, Clip, Picture

from minicpmv46.plugin.prefix_cache import up_to_turn_end

NEW_TOKENS = 6
SMALL = {"scale_resolution": 112}
ONE_UNIT = {**SMALL, "max_slice_nums": 1}
ROOF, WAVES = Picture("roof.png").load(), Picture("waves", (150, 60)).load()
CLIP = str(MEDIA / "pan_short.mp4")
QUESTION = "Describe the picture, its parts and its colours, in one sentence or two."


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    return load(str(checkpoint("base")))


@dataclass(frozen=True)
class Result:
    """A greedy answer, [tokens] each, and how many tokens of its prompt were not read."""

    token_ids: list[int]
    logprobs: np.ndarray
    prompt_tokens: int
    cached_tokens: int


def ask(loaded: tuple[Any, Any], messages: Any, cache: APCManager | None = None, **keywords: Any) -> Result:
    """The answer; `keywords` are `generate`'s."""
    model, processor = loaded
    video = {"video": keywords["video"]} if "video" in keywords else {}
    thinking = {"enable_thinking": keywords.get("enable_thinking", False)}
    count = len(keywords.get("image", ()))
    prompt = apply_chat_template(processor, model.config, messages, num_images=count, **video, **thinking)
    kept = {} if cache is None else {"apc_manager": cache}
    *steps, last = stream_generate(model, processor, prompt, max_tokens=NEW_TOKENS, temperature=0.0, **keywords, **kept)
    logprobs = np.array([float(step.logprobs[step.token]) for step in steps])
    assert len(steps) > 2
    return Result(last.token_ids, logprobs, last.prompt_tokens, last.cached_tokens)


REQUESTS: dict[str, dict[str, Any]] = {
    "text": {},
    "slices": {"image": [ROOF], **SMALL},
    "4x": {"image": [ROOF], "downsample_mode": "4x", "max_slice_nums": 1, **SMALL},
    "two images": {"image": [ROOF, WAVES], **SMALL},
    "clip and image": {"image": [WAVES], "video": [CLIP], "max_num_frames": 2, **SMALL},
}


# What follows the turn that is answered, with and without thinking.
OPENINGS = {False: "\n<|im_start|>assistant\n<think>\n\n</think>\n\n", True: "\n<|im_start|>assistant\n<think>\n"}


@pytest.mark.parametrize("thinking", OPENINGS)
@pytest.mark.parametrize("name", REQUESTS)
def test_repeat_and_later_turns(loaded: tuple[Any, Any], name: str, thinking: bool) -> None:
    """With mlx-vlm's own settings a repeated prompt and each turn of a short chat continue where the last user turn
    ended, and are answered as if they had been read whole."""
    keywords = {**REQUESTS[name], "enable_thinking": thinking}
    # Media stay on the first turn. The template drops the empty thoughts of earlier turns.
    kinds = [{"type": "image"}] * len(keywords.get("image", ())) + [{"type": "video"}] * len(keywords.get("video", ()))
    first = [{"role": "user", "content": [*kinds, {"type": "text", "text": QUESTION}]}]
    second = [*first, *said("A roof under a sky.", "And what else is there?")]
    third = [*second, *said("A tree.", "Where?")]
    edited = [*first, *said("A roof under a sky.", "Is there a tree?")]
    opening = len(loaded[1].tokenizer.encode(OPENINGS[thinking], add_special_tokens=False))

    cache = APCManager()
    plain = {id(turns): ask(loaded, turns, **keywords) for turns in (first, second, third, edited)}
    ends = {key: result.prompt_tokens - opening for key, result in plain.items()}
    for turns, begun in ((first, None), (first, first), (second, first), (edited, first), (third, second)):
        if turns is third:  # in memory two copies are kept, now of other turns
            ask(loaded, second, cache, **keywords)
        result = ask(loaded, turns, cache, **keywords)
        assert result.cached_tokens == (0 if begun is None else ends[id(begun)])
        assert result.prompt_tokens == plain[id(turns)].prompt_tokens
        assert result.token_ids == plain[id(turns)].token_ids
        np.testing.assert_allclose(result.logprobs, plain[id(turns)].logprobs, atol=1e-4)


def test_turn_that_adds_a_picture(loaded: tuple[Any, Any]) -> None:
    """mlx-vlm knows a prompt by all its pictures: with another one it is read whole."""
    image, text = {"type": "image"}, {"type": "text", "text": QUESTION}
    first = [{"role": "user", "content": [image, text]}]
    second = [
        *first,
        {"role": "assistant", "content": "A roof."},
        {"role": "user", "content": [image, {"type": "text", "text": "And this?"}]},
    ]
    cache = APCManager()
    ask(loaded, first, cache, image=[ROOF], **SMALL)
    result = ask(loaded, second, cache, image=[ROOF, WAVES], **SMALL)
    assert result.cached_tokens == 0
    assert result.token_ids == ask(loaded, second, image=[ROOF, WAVES], **SMALL).token_ids


def said(answer: str, question: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]


def test_places() -> None:
    """The last place is the end of the turn that is answered, where mlx-vlm can continue from it."""
    stop, image = 7, 5
    prompt = [0] * 20 + [image, stop] + [0] * 20 + [stop, 1, 2, 3]
    end = len(prompt) - 3
    settings: dict[str, Any] = {"stop_tokens": {stop}, "media_tokens": {image}, "shortest": 16}
    assert up_to_turn_end([len(prompt) - 1], prompt, **settings) == [end]
    assert up_to_turn_end([16, 32, len(prompt) - 1], prompt, **settings) == [16, 32, end]
    assert up_to_turn_end([32, end + 1, len(prompt) - 1], prompt, **settings) == [32, end]
    # Nowhere, or earlier, by the user's settings; no turn has ended; too short; media follow.
    assert up_to_turn_end([], prompt, **settings) == []
    assert up_to_turn_end([20, 30], prompt, **settings) == [20, 30]
    assert up_to_turn_end([45], prompt, **settings | {"stop_tokens": {99}}) == [45]
    assert up_to_turn_end([45], prompt, **settings | {"shortest": end + 1}) == [45]
    assert up_to_turn_end([45], [*prompt, image], **settings) == [45]


def test_other_models_are_left_alone() -> None:
    """A model that is not ours gets the places that mlx-vlm chooses, though it names its stop tokens."""
    other = SimpleNamespace(make_cache=lambda: [ArraysCache(size=2)], stop_tokens=frozenset({7}))
    prompt = [0] * 40 + [7, 1, 2, 3]
    assert APCCoordinator(APCManager(), other).checkpoint_lengths(prompt, set()) == [len(prompt) - 1]


def blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 180, 90))


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "modes": ({"image": [ROOF], **SMALL}, {"image": [ROOF], **SMALL, "downsample_mode": "4x"}),
    "slices": ({"image": [ROOF], **SMALL}, {"image": [ROOF], **SMALL, "max_slice_nums": 1}),
    "images": ({"image": [ROOF], **SMALL}, {"image": [ROOF.rotate(180)], **SMALL}),
    "order": ({"image": [WAVES, WAVES.rotate(180)], **SMALL}, {"image": [WAVES.rotate(180), WAVES], **SMALL}),
    "shapes of blank pictures": ({"image": [blank(224, 112)], **ONE_UNIT}, {"image": [blank(112, 224)], **ONE_UNIT}),
    "slices of blank pictures": ({"image": [blank(500, 250)], **SMALL}, {"image": [blank(250, 500)], **SMALL}),
    "frames": (
        {"video": [Clip("temple.png", 20, 10, (64, 112)).load()], "do_sample_frames": False, **SMALL},
        {"video": [Clip("temple.png", 20, 10, (64, 112)).load()[::-1]], "do_sample_frames": False, **SMALL},
    ),
    "tenants": ({"image": [ROOF], **SMALL, "apc_tenant": "a"}, {"image": [ROOF], **SMALL, "apc_tenant": "b"}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_is_shared(loaded: tuple[Any, Any], name: str) -> None:
    """Other modes, slices, pictures and tenants find nothing of each other's, and answer as they do alone."""
    for one, other in (PAIRS[name], PAIRS[name][::-1]):
        cache = APCManager()
        ask(loaded, QUESTION, cache, **one)
        result = ask(loaded, QUESTION, cache, **other)
        assert result.cached_tokens == 0
        assert result.token_ids == ask(loaded, QUESTION, **other).token_ids
        assert ask(loaded, QUESTION, cache, **one).cached_tokens > 0


def test_blank_pictures_differ_to_the_model(loaded: tuple[Any, Any]) -> None:
    """What would be mistaken for one another: same ids, same pixels, other features."""
    model, processor = loaded
    prompt = apply_chat_template(processor, model.config, QUESTION, num_images=1)
    pictures = [pair["image"] for pair in PAIRS["shapes of blank pictures"]]
    inputs = [prepare_inputs(processor, images=images, prompts=prompt, **ONE_UNIT) for images in pictures]
    np.testing.assert_array_equal(inputs[0]["input_ids"], inputs[1]["input_ids"])
    pixels = [np.array(x["pixel_values"]) for x in inputs]
    np.testing.assert_array_equal(pixels[0][:, :-2], pixels[1][:, :-2])
    features = [np.array(model.encode_images(x["pixel_values"], x["image_units"])[0]) for x in inputs]
    assert np.abs(features[0] - features[1]).max() > 1e-3


def test_places_of_patches(loaded: tuple[Any, Any]) -> None:
    """The two last columns are each patch's row and column in its unit, and change no feature."""
    model, processor = loaded
    inputs = prepare_inputs(processor, images=[WAVES, ROOF], prompts="<|image_pad|><|image_pad|>", **SMALL)
    plain = processor("<|image_pad|><|image_pad|>", images=[WAVES, ROOF], **SMALL)
    pixels = np.array(inputs["pixel_values"])
    np.testing.assert_array_equal(pixels[:, :-2], plain["pixel_values"])
    expected = [(r, c) for rows, cols in plain["image_units"][:, :2] for r in range(rows) for c in range(cols)]
    np.testing.assert_array_equal(pixels[:, -2:], expected)
    ours, theirs = (model.encode_images(x["pixel_values"], x["image_units"]) for x in (inputs, plain))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))


def test_warm_and_cold_rows_in_one_batch(loaded: tuple[Any, Any]) -> None:
    """Rows that continue from the cache run beside rows that do not."""
    model, processor = loaded
    cache = APCManager()

    def row(name: str) -> tuple[list[int], dict[str, Any]]:
        """Ids and keywords as mlx-vlm's server makes them."""
        keywords = dict(REQUESTS[name])
        media = {"images": keywords.pop("image", None), "videos": keywords.pop("video", None)}
        video = {"video": media["videos"]} if media["videos"] else {}
        prompt = apply_chat_template(processor, model.config, QUESTION, num_images=len(media["images"] or ()), **video)
        inputs = prepare_inputs(processor, prompts=prompt, **media, **keywords)
        ids, pixels, mask = inputs.pop("input_ids"), inputs.pop("pixel_values", None), inputs.pop("attention_mask")
        features = model.get_input_embeddings(ids, pixels, mask=mask, **inputs)
        salt = semantic_extra_hash(media={"pixels": pixels})
        return ids[0].tolist(), {**inputs, "inputs_embeds": features.inputs_embeds, "_apc_semantic_hash": salt}

    def run(names: list[str]) -> dict[str, tuple[list[int], int]]:
        generator = BatchGenerator(
            model.language_model, processor, apc_manager=cache, prefill_batch_size=8, completion_batch_size=8
        )
        rows = [row(name) for name in names]
        uids = generator.insert([r[0] for r in rows], NEW_TOKENS, prompt_kwargs=[r[1] for r in rows])
        tokens: dict[int, list[int]] = {uid: [] for uid in uids}
        cached: dict[int, int] = {}
        while generator.has_work:
            prompts, responses = generator.next()
            cached.update({p.uid: p.cached_tokens for p in prompts})
            for response in responses:
                tokens[response.uid].append(response.token)
        generator.close()
        return {name: (tokens[uid], cached[uid]) for name, uid in zip(names, uids, strict=True)}

    expected = {name: ask(loaded, QUESTION, **keywords).token_ids for name, keywords in REQUESTS.items()}
    cold = run(["slices", "text"])
    mixed = run(list(REQUESTS))
    assert all(count == 0 for _, count in cold.values())
    assert {name for name, (_, count) in mixed.items() if count > 0} == {"slices", "text"}
    for name, (tokens, _) in {**mixed, **{f"{n} ": r for n, r in cold.items()}}.items():
        assert tokens == expected[name.strip()], name


def test_store_on_disk(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    """Another cache on the same folder, as in another process, continues from what the first one stored."""
    settings = {"enabled": True, "disk_path": str(tmp_path), "disk_enabled": True}
    keywords = REQUESTS["slices"]
    plain = ask(loaded, QUESTION, **keywords)
    opening = len(loaded[1].tokenizer.encode(OPENINGS[False], add_special_tokens=False))
    for cached in (0, plain.prompt_tokens - opening):
        cache = from_env("a model", overrides=settings)
        result = ask(loaded, QUESTION, cache, **keywords)
        assert (result.cached_tokens, result.token_ids) == (cached, plain.token_ids)
        cache.disk.flush()
    other = ask(loaded, QUESTION, from_env("a model", overrides=settings), **keywords | {"downsample_mode": "4x"})
    assert other.cached_tokens == 0
