"""mlx-vlm's automatic prefix cache: what it gives back is what would have been computed, or it gives nothing back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm import generate, load
from mlx_vlm.apc import APCManager, from_env, semantic_extra_hash
from mlx_vlm.generate.ar import BatchGenerator
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import prepare_inputs
from pictures import MEDIA, Clip, Picture
from PIL import Image

NEW_TOKENS = 6
SMALL = {"scale_resolution": 112}
ONE_UNIT = {**SMALL, "max_slice_nums": 1}
ROOF, WAVES = Picture("roof.png").load(), Picture("waves", (150, 60)).load()
CLIP = str(MEDIA / "pan_short.mp4")
QUESTION = "Describe the picture, its parts and its colours, in one sentence or two."


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    return load(str(checkpoint("base")))


def manager(**settings: Any) -> APCManager:
    """A cache in memory, large enough for a test."""
    return APCManager(overrides={"checkpoint_entries": 64, **settings})


def ask(loaded: tuple[Any, Any], messages: Any, cache: APCManager | None = None, **keywords: Any) -> Any:
    """Greedy result; `keywords` are `generate`'s."""
    model, processor = loaded
    video = {"video": keywords["video"]} if "video" in keywords else {}
    prompt = apply_chat_template(processor, model.config, messages, num_images=len(keywords.get("image", ())), **video)
    kept = {} if cache is None else {"apc_manager": cache}
    return generate(model, processor, prompt, max_tokens=NEW_TOKENS, temperature=0.0, **keywords, **kept)


REQUESTS: dict[str, dict[str, Any]] = {
    "text": {},
    "slices": {"image": [ROOF], **SMALL},
    "4x": {"image": [ROOF], "downsample_mode": "4x", "max_slice_nums": 1, **SMALL},
    "two images": {"image": [ROOF, WAVES], **SMALL},
    "clip and image": {"image": [WAVES], "video": [CLIP], "max_num_frames": 2, **SMALL},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_repeat_and_second_turn(loaded: tuple[Any, Any], name: str) -> None:
    """A repeated prompt and a second turn read what is new, and are answered as if they had read everything."""
    keywords = REQUESTS[name]
    cache = manager()
    first = [{"role": "user", "content": QUESTION}]
    plain = ask(loaded, first, **keywords)
    filling, repeat = (ask(loaded, first, cache, **keywords) for _ in range(2))
    assert filling.cached_tokens == 0 and repeat.cached_tokens == repeat.prompt_tokens - 1
    assert filling.token_ids == repeat.token_ids == plain.token_ids

    # Media stay on the first turn. The template drops the empty thoughts of earlier turns, so the prompt differs from
    # the first one's where the answer begins; a checkpoint before that place is what can be used.
    kinds = [{"type": "image"}] * len(keywords.get("image", ())) + [{"type": "video"}] * len(keywords.get("video", ()))
    second = [
        {"role": "user", "content": [*kinds, {"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": "A roof under a sky."},
        {"role": "user", "content": "And what else is there?"},
    ]
    cache = manager(checkpoint_interval_tokens=16)
    ask(loaded, second[:1], cache, **keywords)
    follow_up = ask(loaded, second, cache, **keywords)
    third = [*second, {"role": "assistant", "content": "A tree."}, {"role": "user", "content": "Where?"}]
    again = ask(loaded, third, cache, **keywords)
    assert 0 < follow_up.cached_tokens < follow_up.prompt_tokens
    assert follow_up.cached_tokens <= again.cached_tokens < again.prompt_tokens
    assert follow_up.token_ids == ask(loaded, second, **keywords).token_ids
    assert again.token_ids == ask(loaded, third, **keywords).token_ids


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
        cache = manager()
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
    cache = manager()

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
    for cached in (0, plain.prompt_tokens - 1):
        cache = from_env("a model", overrides=settings)
        result = ask(loaded, QUESTION, cache, **keywords)
        assert (result.cached_tokens, result.token_ids) == (cached, plain.token_ids)
        cache.disk.flush()
    other = ask(loaded, QUESTION, from_env("a model", overrides=settings), **keywords | {"downsample_mode": "4x"})
    assert other.cached_tokens == 0
