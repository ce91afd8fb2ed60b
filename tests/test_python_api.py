"""What users call from Python: `load`, `apply_chat_template`, `generate` and their like, on the recorded requests.

Prompt ids and greedy tokens must be the official implementation's; where mlx-vlm splits work, the answer must be the
one of the plain request.
"""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.utils import estimate_num_image_tokens
from PIL import Image
from support import golden_data
from support.asking import answer, greedy, media, prepared, rendered
from support.cases import BY_NAME
from support.pictures import MEDIA, Picture
from support.tiny import STOP_TOKENS

CASES = (
    "text_hello",
    "text_thinking",
    "text_chat_system",
    "text_chat_thinking",  # ends with one stop token
    "text_literal_tags",
    "photo_portrait_4x",
    "photo_literal_tags",
    "page_two_slices",
    "slide_no_slices_4x",  # ends with the other one
    "two_photos_no_ids",
    "two_photos_between",
    "chat_two_pictures",
    "chat_two_pictures_thinking",
    "clip_short",
    "clip_stack_2",
    "image_and_clip_ids",
    "chat_clip_then_picture",  # system prompt, a video in the first turn, an image in the second, thinking
)


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> Callable[[str], tuple[Any, Any]]:
    """Model and processor of a variant as users get them."""
    return cache(lambda variant="base": load(str(checkpoint(variant))))


@pytest.fixture(scope="module")
def base(loaded: Any) -> tuple[Any, Any]:
    return loaded("base")


@pytest.mark.parametrize("name", CASES)
def test_generate(loaded: Any, name: str) -> None:
    """Ids and tokens equal the official ones; generation ends at either stop token, or at the limit."""
    case, golden = BY_NAME[name], golden_data.load(name)
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)
    inputs = prepared(processor, prompt, **media(case))
    np.testing.assert_array_equal(np.array(inputs["input_ids"])[0], golden["input_ids"])

    result = greedy(model, processor, prompt, case.new_tokens, **media(case))
    assert result.token_ids == golden["greedy"].tolist()
    assert result.prompt_tokens == len(golden["input_ids"])
    stopped = int(golden["greedy"][-1]) in STOP_TOKENS
    assert result.finish_reason == ("stop" if stopped else "length")
    # The stop token is no part of the text; bytes that are no UTF-8 are shown differently when they are streamed.
    ids = golden["greedy"][:-1] if stopped else golden["greedy"]
    assert result.text.replace("\ufffd", "") == processor.tokenizer.decode(ids).replace("\ufffd", "")


def test_both_stop_tokens_are_tested() -> None:
    assert {int(golden_data.load(name)["greedy"][-1]) for name in CASES} >= set(STOP_TOKENS)


def test_generation_goes_on_where_nothing_stops_it(loaded: Any) -> None:
    """A stop token ends the answer although the limit is far away; without stop tokens it goes past."""
    case = BY_NAME["two_photos_no_ids"]
    golden = golden_data.load(case.name)["greedy"].tolist()
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)
    assert greedy(model, processor, prompt, 50, **media(case)).token_ids == golden
    criteria = processor.tokenizer.stopping_criteria
    try:
        past = greedy(model, processor, prompt, 9, stopping_criteria=lambda token: False, **media(case)).token_ids
    finally:
        processor.tokenizer.stopping_criteria = criteria  # `generate` leaves the caller's there
    assert len(past) == 9 and past[: len(golden)] == golden


def test_options_of_one_call_do_not_reach_the_next(loaded: Any) -> None:
    """4x, no ids and few slices, then the same image with the checkpoint's own options."""
    first = answer(loaded, "photo_sliced", downsample_mode="4x", max_slice_nums=1, use_image_id=False)
    assert first.prompt_tokens != len(golden_data.load("photo_sliced")["input_ids"])
    assert answer(loaded, "photo_sliced").token_ids == golden_data.load("photo_sliced")["greedy"].tolist()


def test_requests_prepared_at_once(base: tuple[Any, Any]) -> None:
    """One processor serves threads with different options; nothing crosses over."""
    model, processor = base
    names = ["photo_crop_odd", "mode_l", "receipt_l_4x", "large_no_ids", "clip_stack_3_square", "odd_449x447"] * 2

    def ids(name: str) -> np.ndarray:
        case = BY_NAME[name]
        return np.array(prepared(processor, rendered(model, processor, case), **media(case))["input_ids"])[0]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(ids, names))
    for name, result in zip(names, results, strict=True):
        np.testing.assert_array_equal(result, golden_data.load(name)["input_ids"], err_msg=name)


def test_one_image_given_in_every_form(base: tuple[Any, Any]) -> None:
    """Path, `file://` URL, data URI, open file, PIL image and array have the same pixels."""
    _, processor = base
    path = MEDIA / "roof.png"
    data = path.read_bytes()
    forms = {
        "path": str(path),
        "Path": path,
        "file URL": path.as_uri(),
        "data URI": f"data:image/png;base64,{base64.b64encode(data).decode()}",
        "BytesIO": io.BytesIO(data),
        "PIL": Image.open(path),
        "array": np.asarray(Image.open(path).convert("RGB")),
        "channels first": np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1),
    }
    expected = prepared(processor, "<|image_pad|>", image=[Picture("roof.png").load()])
    assert len(np.unique(np.array(expected["pixel_values"]))) > 50
    for form, image in forms.items():
        inputs = prepared(processor, "<|image_pad|>", image=[image])
        np.testing.assert_array_equal(inputs["pixel_values"], expected["pixel_values"], err_msg=form)


def test_stream_generate(loaded: Any) -> None:
    """Tokens one by one, whose texts join to `generate`'s."""
    case = BY_NAME["chat_two_pictures"]
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)
    chunks = list(stream_generate(model, processor, prompt, max_tokens=case.new_tokens, temperature=0.0, **media(case)))
    golden = golden_data.load(case.name)["greedy"].tolist()
    *steps, last = chunks
    assert [chunk.token for chunk in steps] == golden == last.token_ids
    assert [chunk.generation_tokens for chunk in steps] == list(range(1, len(golden) + 1))
    assert [int(chunk.logprobs.argmax()) for chunk in steps] == golden
    assert "".join(chunk.text for chunk in chunks) == answer(loaded, case.name).text


# Messages


def test_media_stand_where_messages_have_them(base: tuple[Any, Any]) -> None:
    """All spellings of parts give one prompt; what only a count names goes before the last question."""
    model, processor = base
    canonical = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "First"}, {"type": "image"}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": "A roof."},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "And here?"}]},
    ]
    spelt = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "First"},
                {"type": "image_url", "image_url": {"url": "roof.png"}},
                "?",
            ],
        },
        SimpleNamespace(role="assistant", content=[{"type": "output_text", "text": "A roof."}]),
        {
            "role": "user",
            "content": [{"type": "video_url", "video_url": {"url": "x.mp4"}}, {"type": "text", "text": "And here?"}],
        },
    ]
    prompt = apply_chat_template(processor, model.config, canonical, num_images=1, video=["x.mp4"])
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert prompt == (
        f"{start}system\nBe brief.{end}{start}user\nFirst\n<|image_pad|>\n?{end}{start}assistant\nA roof.{end}"
        f"{start}user\n<|video_pad|>\nAnd here?{end}{start}assistant\n<think>\n\n</think>\n\n"
    )
    assert apply_chat_template(processor, model.config, spelt, num_images=1, video="x.mp4") == prompt
    more = apply_chat_template(processor, model.config, spelt, num_images=3, video=["x.mp4", "y.mp4"])
    added = "<|image_pad|>\n<|image_pad|>\n<|video_pad|>\n"
    assert more == prompt.replace("<|video_pad|>\nAnd", f"{added}<|video_pad|>\nAnd")
    assert "image" not in canonical[3]["content"][0], "the caller's messages were changed"


@pytest.mark.parametrize("config_form", ["object", "dict"])
def test_prompts_of_the_readme(base: tuple[Any, Any], config_form: str) -> None:
    """A plain question with its images, `model.config` being the object or a dict; thinking on and off."""
    model, processor = base
    config = model.config if config_form == "object" else {"model_type": "minicpmv4_6"}
    pads = "<|image_pad|>\n" * 2
    head = f"<|im_start|>user\n{pads}What is this?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert apply_chat_template(processor, config, "What is this?", num_images=2) == f"{head}\n</think>\n\n"
    assert apply_chat_template(processor, config, "What is this?", num_images=2, enable_thinking=True) == head
    assert apply_chat_template(processor, config, {"role": "user", "content": "What is this?"}, num_images=2) == (
        f"{head}\n</think>\n\n"
    )
    closed = apply_chat_template(processor, config, ["a", "b"], add_generation_prompt=False)
    assert closed == "<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
    messages = apply_chat_template(processor, config, "a", num_images=1, return_messages=True)
    assert messages == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}]


# Work in pieces, quantized caches, estimates


@pytest.mark.parametrize("step", [1, 3, 7, 64])
def test_prefill_in_pieces(loaded: Any, step: int) -> None:
    """Pieces end inside images and slices; the probabilities stay those of a prompt in one piece."""
    case = BY_NAME["two_photos_between"]
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)

    def logprobs(prefill_step_size: int | None) -> list[np.ndarray]:
        chunks = stream_generate(
            model,
            processor,
            prompt,
            max_tokens=4,
            temperature=0.0,
            prefill_step_size=prefill_step_size,
            **media(case),
        )
        return [np.array(chunk.logprobs) for chunk in chunks][:4]

    whole, pieces = logprobs(None), logprobs(step)
    assert [int(x.argmax()) for x in pieces] == golden_data.load(case.name)["greedy"][:4].tolist()
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize(
    ("options", "name", "allowed"),
    [
        ({"kv_bits": 8, "kv_group_size": 32}, "QuantizedKVCache", 0.05),
        ({"kv_bits": 4, "kv_group_size": 32}, "QuantizedKVCache", 0.6),
        ({"kv_bits": 3.5}, "TurboQuantKVCache", 1.0),
    ],
)
def test_quantized_caches(loaded: Any, options: dict[str, Any], name: str, allowed: float) -> None:
    """Keys and values in few bits: the caches are quantized, and the first token's probabilities stay near."""
    case = BY_NAME["two_photos_between"]
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)

    def first(**more: Any) -> np.ndarray:
        chunks = stream_generate(
            model, processor, prompt, max_tokens=2, temperature=0.0, prefill_step_size=50, **more, **media(case)
        )
        return np.array([chunk.logprobs for chunk in chunks][1])

    state = model.language_model.make_cache()
    difference = np.abs(first(prompt_cache=state, quantized_kv_start=0, **options) - first()).max()
    assert name in {type(entry).__name__ for entry in state}
    assert 1e-4 < difference < allowed


@pytest.mark.parametrize(
    "name",
    [
        "photo_sliced",
        "photo_sliced_4x",
        "page_two_slices",
        "slide_36_slices",
        "slide_no_slices_4x",
        "strip_40x900",
        "tiny_1x1",
    ],
)
def test_estimated_tokens(loaded: Any, name: str) -> None:
    """The estimate from height and width is the number of placeholders in the prompt."""
    case, golden = BY_NAME[name], golden_data.load(name)
    _, processor = loaded(case.variant)
    width, height = case.pictures[0].load().size
    estimate = estimate_num_image_tokens(processor, height, width, **case.options.kwargs())
    assert estimate == golden["tokens"].sum() == (golden["input_ids"] == processor.image_token_id).sum()
