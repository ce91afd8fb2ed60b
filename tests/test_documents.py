"""Reading documents with MiniCPM-OCR: forty crops in one `batch_generate`, and what mlx-vlm's caches keep of crops.

Every answer is compared with the one of the same request alone, and what the processor makes with numbers that are
written down in `documents`.
"""

import json
import sys
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm import batch_generate, load
from mlx_vlm.apc import APCManager
from mlx_vlm.generate import dispatch
from mlx_vlm.generate.common import PromptCacheState
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.server.generation import ResponseGenerator
from mlx_vlm.utils import estimate_num_image_tokens
from mlx_vlm.vision_cache import VisionFeatureCache
from PIL import Image
from support.asking import greedy, prepared
from support.documents import CROPS, SMALL, UPSIZES, Crop, options

from minicpmv46.plugin.batches import MAX_ROWS
from minicpmv46.plugin.requests import RequestArguments

NEW_TOKENS = 4
QUESTION = "Read all text of this crop, line by line, as it stands there."
LINE, HEADLINE, ICON, DOT = CROPS[12], CROPS[17], CROPS[30], CROPS[34]
MIXED = CROPS[39]  # one of its two slices is cut from the crop itself

Loaded = tuple[Any, Any]


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Loaded:
    return load(str(checkpoint("ocr")))


def ask(loaded: Loaded, text: str, image: Image.Image, **keywords: Any) -> Any:
    """`generate`'s result for one picture and a question; `keywords` are its."""
    prompt = apply_chat_template(loaded[1], loaded[0].config, text, num_images=1)
    return greedy(*loaded, prompt, NEW_TOKENS, image=[image], **keywords)


def token_counts(inputs: Any) -> tuple[int, ...]:
    return tuple(np.asarray(inputs["image_units"])[:, 2].tolist())


# What a crop becomes


@pytest.mark.parametrize("upsize", UPSIZES)
def test_tokens(loaded: Loaded, upsize: str) -> None:
    """The processor makes the official numbers of tokens, and mlx-vlm's estimate is right, or too high without what is
    in a crop."""
    _, processor = loaded
    assert len(CROPS) == len({crop.picture.load().size for crop in CROPS}) == 40
    for crop, mode in product(CROPS, ("4x", "16x")):
        given, image = {**options(upsize), "downsample_mode": mode}, crop.picture.load()
        inputs = processor("<|image_pad|>", images=[image], **given)
        counts = token_counts(inputs)
        assert counts == crop.tokens(upsize) or mode == "16x", crop
        assert sum(counts) == np.count_nonzero(inputs["input_ids"] == processor.image_token_id)
        size = image.height, image.width
        assert estimate_num_image_tokens(processor, *size, image=image, **given) == sum(counts), crop
        bound = estimate_num_image_tokens(processor, *size, **given)
        assert bound >= sum(counts) if upsize == "adaptive" else bound == sum(counts), crop


def test_context_limit(loaded: Loaded) -> None:
    """What is in the crops decides whether they fit in the context, not how large they might become."""
    _, processor = loaded
    images = [ICON.picture.load()] * 20
    prompt = "<|image_pad|>" * len(images)
    length = processor(prompt, images=images, **options("adaptive"))["input_ids"].shape[1]
    assert length < sum(estimate_num_image_tokens(processor, 70, 60, **options("adaptive")) for _ in images)
    assert (
        token_counts(processor.with_limits(context=length)(prompt, images=images, **options("adaptive"))) == (9,) * 20
    )
    for upsize, limit in (("adaptive", length - 1), ("always", length)):
        with pytest.raises(ValueError, match=f"more than the limit context = {limit}"):
            processor.with_limits(context=limit)(prompt, images=images, **options(upsize))


# Forty at once


@pytest.mark.parametrize("given", [options("adaptive"), SMALL], ids=["adaptive", "defaults"])
def test_forty_crops(loaded: Loaded, encodings: list[int], given: dict[str, Any]) -> None:
    """Crops of forty sizes run in three batches, and each is read as it is alone."""
    model, processor = loaded
    images = [crop.picture.load() for crop in CROPS]
    questions = [f"Read crop {i}." for i in range(len(CROPS))]
    batch = batch_generate(
        model, processor.with_defaults(**given), images=images, prompts=questions, max_tokens=NEW_TOKENS
    )
    assert len(encodings) == -(-len(CROPS) // MAX_ROWS) == 3
    expected = [ask(loaded, text, image, **given).text for text, image in zip(questions, images, strict=True)]
    assert batch.texts == expected
    assert len(set(expected)) > 30, "neighbours that changed places would not be seen"


def test_usual_units(loaded: Loaded, encodings: list[int]) -> None:
    """With nothing else set, small letters fill a unit of 448x448 pixels and all else keeps its size."""
    model, processor = loaded
    crops = [LINE, HEADLINE, ICON, DOT, *CROPS[18:20]]
    images, questions = [crop.picture.load() for crop in crops], [f"Read crop {i}." for i in range(len(crops))]
    adaptive = processor.with_defaults(small_image_upsize="adaptive")
    counts = [token_counts(adaptive("<|image_pad|>", images=[image])) for image in images]
    assert counts == [(245,), *(crop.adaptive for crop in crops[1:])]
    texts = batch_generate(model, adaptive, images=images, prompts=questions, max_tokens=NEW_TOKENS).texts
    assert len(encodings) == 1
    own = {"small_image_upsize": "adaptive"}
    assert texts == [ask(loaded, text, image, **own).text for text, image in zip(questions, images, strict=True)]


# Caches


def same(crop: Crop, one: str, other: str) -> bool:
    """Whether two values make the same of a crop; no two that differ have as many tokens in each unit."""
    return crop.tokens(one) == crop.tokens(other)


@pytest.mark.parametrize("crop", [LINE, HEADLINE, ICON, MIXED], ids=["line", "headline", "icon", "mixed"])
def test_values_in_the_prefix_cache(loaded: Loaded, crop: Crop) -> None:
    """One picture with two values: what the one left is found where the other makes the same pixels, and only there."""
    image = crop.picture.load()
    plain = {upsize: ask(loaded, QUESTION, image, **options(upsize)).token_ids for upsize in UPSIZES}
    pairs = combinations(UPSIZES, 2) if crop is not MIXED else [("adaptive", "always")]
    for one, other in pairs:
        cache = APCManager()
        for upsize, found in ((one, False), (other, same(crop, one, other)), (one, True)):
            result = ask(loaded, QUESTION, image, apc_manager=cache, **options(upsize))
            assert (result.cached_tokens > 0, result.token_ids) == (found, plain[upsize]), (one, other, upsize)


SHAPES = {
    "kept": ("never", (56, 84), (6,)),
    "icons": ("adaptive", (40, 60), (8,)),
    "slices of their own": ("adaptive", (240, 260), (36, *(20,) * 4)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_blank_pictures_in_the_prefix_cache(loaded: Loaded, name: str) -> None:
    """Blank pictures that lie and stand have one prompt and the same pixels; they are told apart."""
    upsize, size, counts = SHAPES[name]
    images = [Image.new("RGB", sides, (250, 250, 250)) for sides in (size, size[::-1])]
    lying, standing = (loaded[1]("<|image_pad|>", images=[image], **options(upsize)) for image in images)
    assert token_counts(lying) == token_counts(standing) == counts
    for array in ("input_ids", "pixel_values"):
        np.testing.assert_array_equal(lying[array], standing[array])
    plain = [ask(loaded, QUESTION, image, **options(upsize)).token_ids for image in images]
    cache = APCManager()
    for i, found in ((0, False), (1, False), (0, True), (1, True)):
        result = ask(loaded, QUESTION, images[i], apc_manager=cache, **options(upsize))
        assert (result.cached_tokens > 0, result.token_ids) == (found, plain[i])


def test_vision_cache(loaded: Loaded, encodings: list[int]) -> None:
    """A crop is encoded once for each thing that the values make of it, and read as if it had no cache."""
    crops = (LINE, HEADLINE, ICON)
    plain = {
        (i, upsize): ask(loaded, QUESTION, crop.picture.load(), **options(upsize)).token_ids
        for (i, crop), upsize in product(enumerate(crops), UPSIZES)
    }
    encodings.clear()
    features = VisionFeatureCache()
    for _, i, upsize in product(range(2), range(len(crops)), UPSIZES):
        image = crops[i].picture.load()
        kept = ask(loaded, QUESTION, image, vision_cache=features, **options(upsize))
        assert kept.token_ids == plain[i, upsize], (crops[i], upsize)
    assert len(encodings) == len(features) == len({(crop, crop.tokens(upsize)) for crop in crops for upsize in UPSIZES})


def test_vision_cache_of_the_servers_engine(
    loaded: Loaded, checkpoint: Callable[[str], Path], encodings: list[int]
) -> None:
    model, processor = loaded
    image = ICON.picture.load()
    prompt = apply_chat_template(processor, model.config, QUESTION, num_images=1)
    plain = {upsize: ask(loaded, QUESTION, image, **options(upsize)).token_ids for upsize in UPSIZES}
    assert len(set(map(tuple, plain.values()))) == len(UPSIZES)
    encodings.clear()
    engine = ResponseGenerator(str(checkpoint("ocr")), vision_cache=VisionFeatureCache())
    try:
        engine.wait_until_ready()
        for upsize in UPSIZES * 2:
            arguments = RequestArguments(max_tokens=NEW_TOKENS, temperature=0, processor_options=options(upsize))
            _, tokens = engine.generate(prompt, [image], args=arguments)
            assert [token.token for token in tokens] == plain[upsize], upsize
        assert len(encodings) == len(engine.vision_cache) == len(UPSIZES)
    finally:
        engine.stop_and_join()


# Chats


def test_chat_command(
    loaded: Loaded,
    checkpoint: Callable[[str], Path],
    encodings: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`--chat` reads a crop once; every turn sees it as in the whole chat, read from its start."""
    processor, given = loaded[1], options("adaptive")
    path = tmp_path / "crop.png"
    MIXED.picture.load().save(path)
    questions = ("What is this?", "And the last line?")
    history: list[dict[str, Any]] = []
    expected: list[str] = []
    for question in questions:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template(
            [*history, {"role": "user", "content": content}], add_generation_prompt=True, enable_thinking=False
        )
        expected.append(greedy(*loaded, prompt, NEW_TOKENS, image=[str(path)], **given).text)
        history += [{"role": "user", "content": question}, {"role": "assistant", "content": expected[-1]}]
    encodings.clear()
    typed = iter([*questions, ""])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    flags = ("--processor-kwargs", json.dumps(given), "--max-tokens", str(NEW_TOKENS), "--temperature", "0.0")
    monkeypatch.setattr(
        sys, "argv", ["generate", "--model", str(checkpoint("ocr")), "--chat", "--image", str(path), *flags]
    )
    dispatch.main()
    assert capsys.readouterr().out == "".join(f"Assistant:{text}\n" for text in expected)
    assert len(encodings) == 1


TURN = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def test_later_turns(loaded: Loaded) -> None:
    """With `PromptCacheState` the second turn reads only its own words and the third a further crop; both see the first
    one."""
    model, processor = loaded
    first, second = MIXED.picture.load(), ICON.picture.load()
    given = options("adaptive")
    state = PromptCacheState()

    def reply(ids: list[int], images: list[Image.Image], **kept: Any) -> Any:
        """The answer to ids that hold the placeholders of these images."""
        inputs = prepared(processor, "<|image_pad|>" * len(images), image=images, **given)
        media = {name: inputs[name] for name in ("pixel_values", "image_units")}
        return greedy(model, processor, "", NEW_TOKENS, input_ids=mx.array([ids]), **media, **kept)

    def ids_of(text: str, *images: Image.Image) -> list[int]:
        found: list[int] = prepared(processor, text, image=list(images), **given)["input_ids"][0].tolist()
        return found

    prompt = apply_chat_template(processor, model.config, QUESTION, num_images=1)
    ids = ids_of(prompt, first)
    answer = reply(ids, [first], prompt_cache_state=state)
    assert answer.token_ids == ask(loaded, QUESTION, first, **given).token_ids
    known = len(ids) + len(answer.token_ids)
    ids += answer.token_ids + processor.tokenizer.encode(TURN.format("And the last line?"))
    warm = reply(ids, [first], prompt_cache_state=state)
    assert warm.cached_tokens == known
    assert warm.token_ids == reply(ids, [first]).token_ids
    # Turned upside down it has as many tokens and other letters.
    turned = MIXED.picture.load().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    assert warm.token_ids != reply(ids, [turned]).token_ids, "the crop of the first turn has no influence"

    both = ids_of(prompt + TURN.format("<|image_pad|>And this?"), first, second)
    ids += warm.token_ids + both[len(ids_of(prompt, first)) :]
    warm = reply(ids, [first, second], prompt_cache_state=state)
    assert warm.token_ids == reply(ids, [first, second]).token_ids
    other = second.transpose(Image.Transpose.ROTATE_180)
    assert warm.token_ids != reply(ids, [first, other]).token_ids, "the crop of the third turn has no influence"
