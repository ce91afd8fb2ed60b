"""What users call from Python: `load`, `apply_chat_template`, `generate` and their like, on the recorded requests.

Prompt ids and greedy tokens must be the official implementation's; where mlx-vlm reuses, splits or batches work,
the answer must be the one of the plain request.
"""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import golden_data
import mlx.core as mx
import numpy as np
import pytest
from cases import BY_NAME, MEDIA, Case, Clip, Picture
from mlx_vlm import batch_generate, generate, load, stream_generate
from mlx_vlm.generate.common import PromptCacheState
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.server.generation import ResponseGenerator
from mlx_vlm.utils import estimate_num_image_tokens, prepare_inputs
from mlx_vlm.vision_cache import VisionFeatureCache, processed_image_key
from PIL import Image
from tiny import IM_END, IM_START, STOP_TOKENS

from minicpmv46.plugin.request_options import RequestArguments

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


def rendered(model: Any, processor: Any, case: Case) -> str:
    """The prompt of a case, with counts of its media as mlx-vlm's callers give them."""
    return apply_chat_template(
        processor,
        model.config,
        case.messages,
        num_images=len(case.pictures),
        **({"video": [f"clip {i}" for i, _ in enumerate(case.clips)]} if case.clips else {}),
        **({"enable_thinking": True} if case.enable_thinking else {}),
    )


def media(case: Case) -> dict[str, Any]:
    """Images, videos and options of a case as keywords of `generate`."""
    keywords: dict[str, Any] = case.options.kwargs()
    if case.pictures:
        keywords["image"] = [picture.load() for picture in case.pictures]
    if case.clips:
        keywords["video"] = [clip.load() for clip in case.clips]
        keywords["video_metadata"] = [clip.metadata for clip in case.clips]
    return keywords


def prepared(processor: Any, prompt: Any, **keywords: Any) -> dict[str, Any]:
    """What mlx-vlm's `prepare_inputs` makes of `generate`'s keywords."""
    names = {"image": "images", "video": "videos"}
    return prepare_inputs(processor, prompts=prompt, **{names.get(k, k): v for k, v in keywords.items()})


def greedy(model: Any, processor: Any, prompt: str, max_tokens: int, **keywords: Any) -> Any:
    return generate(model, processor, prompt, max_tokens=max_tokens, temperature=0.0, **keywords)


def answer(loaded: Any, name: str, **keywords: Any) -> Any:
    """Greedy result of a recorded case; `keywords` win over the case's own."""
    case = BY_NAME[name]
    model, processor = loaded(case.variant)
    prompt = rendered(model, processor, case)
    return greedy(model, processor, prompt, case.new_tokens, **{**media(case), **keywords})


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


# Work that mlx-vlm splits, keeps or batches


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


class Conversation:
    """Two turns as id lists, so that the second one really continues the first one's tokens."""

    def __init__(self, loaded: Any, name: str, state: PromptCacheState | None) -> None:
        self.case = BY_NAME[name]
        self.model, self.processor = loaded(self.case.variant)
        self.state = state

    def ask(self, ids: list[int], **media_inputs: Any) -> Any:
        extra = {"prompt_cache_state": self.state} if self.state is not None else {}
        return greedy(self.model, self.processor, "", 6, input_ids=mx.array([ids]), **media_inputs, **extra)

    def inputs(self, prompt: str, images: list[Any]) -> tuple[list[int], dict[str, Any]]:
        inputs = prepared(self.processor, prompt, image=images) if images else prepared(self.processor, prompt)
        kept = {key: inputs[key] for key in ("pixel_values", "image_units") if key in inputs}
        return inputs["input_ids"][0].tolist(), kept


QUESTION = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("name", ["photo_upscaled", "text_chat_untied"])
def test_second_turn_continues_the_first(loaded: Any, name: str) -> None:
    """A follow-up question reads only its own tokens, and is answered as if everything had been read."""
    warm, cold = Conversation(loaded, name, PromptCacheState()), Conversation(loaded, name, None)
    images = [picture.load() for picture in warm.case.pictures]
    first, media_inputs = warm.inputs(rendered(warm.model, warm.processor, warm.case), images)
    reply = warm.ask(first, **media_inputs)
    assert reply.token_ids == golden_data.load(name)["greedy"][:6].tolist()

    more = warm.processor.tokenizer.encode(QUESTION.format("And why?"))
    assert more.count(IM_START) == 2 and more[0] == IM_END
    second = first + reply.token_ids + more
    warm_reply = warm.ask(second, **media_inputs)
    assert warm_reply.cached_tokens == len(first) + len(reply.token_ids)
    assert warm_reply.token_ids == cold.ask(second, **media_inputs).token_ids
    # Other words from the first token on: a recurrent state cannot be rolled back, so all is read again.
    other = warm.processor.tokenizer.encode("x") + second[1:]
    again = warm.ask(other, **media_inputs)
    assert again.cached_tokens == 0
    assert again.token_ids == cold.ask(other, **media_inputs).token_ids


def test_second_turn_adds_an_image(loaded: Any) -> None:
    """The new image is seen although a cache of the first turn is there."""
    name = "photo_upscaled"
    warm, cold = Conversation(loaded, name, PromptCacheState()), Conversation(loaded, name, None)
    roof, flower = Picture("roof.png").load(), Picture("flower.png").load()
    prompt = rendered(warm.model, warm.processor, warm.case)
    first, media_inputs = warm.inputs(prompt, [roof])
    reply = warm.ask(first, **media_inputs)
    ids, both = warm.inputs(prompt + QUESTION.format("<|image_pad|>\nAnd this?"), [roof, flower])
    second = first + reply.token_ids + ids[len(first) :]
    assert ids[: len(first)] == first
    warm_reply = warm.ask(second, **both)
    assert warm_reply.token_ids == cold.ask(second, **both).token_ids
    _, other = warm.inputs(prompt + QUESTION.format("<|image_pad|>\nAnd this?"), [roof, flower.rotate(180)])
    assert warm_reply.token_ids != cold.ask(second, **other).token_ids, "the second image has no influence"


def test_second_turn_through_the_template(loaded: Any) -> None:
    """A chat with a cache between its turns is answered like the same chat without one."""
    case = BY_NAME["chat_two_pictures"]
    model, processor = loaded(case.variant)
    images = [picture.load() for picture in case.pictures]
    state = PromptCacheState()
    for count, shown in ((1, 1), (3, 2), (5, 2)):
        messages = case.messages[:count]
        prompt = apply_chat_template(processor, model.config, messages, num_images=shown)
        plain = greedy(model, processor, prompt, 6, image=images[:shown])
        kept = greedy(model, processor, prompt, 6, image=images[:shown], prompt_cache_state=state)
        assert kept.token_ids == plain.token_ids
    assert plain.token_ids == golden_data.load(case.name)["greedy"][:6].tolist()


def test_vision_cache(loaded: Any, encodings: list[int]) -> None:
    """The same image is encoded once, whatever is asked about it; another image is encoded anew."""
    features = VisionFeatureCache()
    golden = golden_data.load("odd_448x448")["greedy"].tolist()
    for _ in range(2):
        assert answer(loaded, "odd_448x448", vision_cache=features).token_ids == golden
        assert len(encodings) == 1
    model, processor = loaded("untied")
    image = BY_NAME["odd_448x448"].pictures[0].load()
    other_question = apply_chat_template(processor, model.config, "What?", num_images=1)
    cached = greedy(model, processor, other_question, 4, image=[image], vision_cache=features)
    assert len(encodings) == 1
    assert cached.token_ids == greedy(model, processor, other_question, 4, image=[image]).token_ids
    assert len(encodings) == 2 and len(features) == 1
    flipped = image.rotate(180)
    greedy(model, processor, other_question, 4, image=[flipped], vision_cache=features)
    assert len(encodings) == 3 and len(features) == 2


def test_vision_cache_keeps_compressions_apart(loaded: Any, encodings: list[int]) -> None:
    """One image of which 4x and 16x make the very same pixels: both are encoded, both answers are right."""
    model, processor = loaded("untied")
    image = BY_NAME["odd_448x448"].pictures[0].load()
    prompt = apply_chat_template(processor, model.config, "Describe this image", num_images=1)
    inputs = {mode: prepared(processor, prompt, image=[image], downsample_mode=mode) for mode in ("16x", "4x")}
    assert mx.array_equal(inputs["16x"]["pixel_values"], inputs["4x"]["pixel_values"])
    plain = {mode: greedy(model, processor, prompt, 6, image=[image], downsample_mode=mode) for mode in inputs}
    assert plain["16x"].token_ids != plain["4x"].token_ids
    encodings.clear()
    features = VisionFeatureCache()
    for mode in ("16x", "4x", "16x", "4x"):
        kept = greedy(model, processor, prompt, 6, image=[image], downsample_mode=mode, vision_cache=features)
        assert kept.token_ids == plain[mode].token_ids
    assert len(encodings) == 2


def test_vision_cache_of_the_server(loaded: Any, encodings: list[int]) -> None:
    """`get_input_embeddings` fills and reads the cache itself when it gets one with a key."""
    model, processor = loaded("untied")
    inputs = prepared(processor, "<|image_pad|> a", image=[BY_NAME["photo_upscaled"].pictures[0].load()])
    arguments = {k: inputs[k] for k in ("pixel_values", "image_units")}
    key = processed_image_key(**arguments)
    expected = model.get_input_embeddings(inputs["input_ids"], **arguments).inputs_embeds
    features = VisionFeatureCache()
    for _ in range(2):
        embeds = model.get_input_embeddings(
            inputs["input_ids"], **arguments, vision_cache=features, _image_key=key
        ).inputs_embeds
        assert mx.array_equal(embeds, expected)
    assert len(encodings) == 2 and len(features) == 1


def test_vision_cache_in_the_servers_engine(checkpoint: Any, loaded: Any, encodings: list[int]) -> None:
    """The server's engine encodes a picture once a mode and slice setting, and the answers stay right."""
    images = [BY_NAME["odd_448x448"].pictures[0].load()]
    model, processor = loaded("untied")
    prompt = apply_chat_template(processor, model.config, "Describe this image", num_images=1)
    settings: list[dict[str, Any]] = [
        {},
        {"downsample_mode": "4x"},
        {"scale_resolution": 112, "max_slice_nums": 2},
        {"scale_resolution": 112, "max_slice_nums": 2, "downsample_mode": "4x"},
    ]
    expected = [greedy(model, processor, prompt, 4, image=images, **options).token_ids for options in settings]
    assert len(set(map(tuple, expected))) == len(settings)
    encodings.clear()
    engine = ResponseGenerator(str(checkpoint("untied")), vision_cache=VisionFeatureCache())
    try:
        engine.wait_until_ready()
        for i, options in [*enumerate(settings), *enumerate(settings)]:
            arguments = RequestArguments(max_tokens=4, temperature=0, processor_options=options)
            _, tokens = engine.generate(prompt, images, args=arguments)
            assert [token.token for token in tokens] == expected[i], options
        assert len(encodings) == len(engine.vision_cache) == len(settings)
    finally:
        engine.stop_and_join()


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


# Batches


PROMPTS = [
    "Hi",
    "Describe this image in a few words.",
    "Write the numbers from one to ten, then backwards, and then say which of them are prime.",
    "Why?",
]


def alone(base: tuple[Any, Any], prompt: str, max_tokens: int, **keywords: Any) -> str:
    model, processor = base
    text = apply_chat_template(
        processor,
        model.config,
        prompt,
        num_images=len(keywords.get("image", ())),
        **({"video": keywords["video"]} if "video" in keywords else {}),
    )
    return greedy(model, processor, text, max_tokens, **keywords).text


def test_batch_of_texts(base: tuple[Any, Any]) -> None:
    """Prompts and limits of different lengths."""
    model, processor = base
    limits = [3, 12, 7, 9]
    batch = batch_generate(model, processor, prompts=PROMPTS, max_tokens=limits)
    expected = [alone(base, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True)]
    assert len(set(expected)) == len(PROMPTS)
    assert batch.texts == expected


def test_batch_of_images_and_texts(base: tuple[Any, Any]) -> None:
    """Images of two shapes, two of one shape, and a prompt without one."""
    model, processor = base
    roof = Picture("roof.png").load()
    images = [roof, Picture("waves", (300, 200)).load(), roof.rotate(180)]
    batch = batch_generate(model, processor, images=images, prompts=PROMPTS, max_tokens=8)
    expected = [alone(base, prompt, 8, image=[image]) for prompt, image in zip(PROMPTS, images, strict=False)]
    expected.append(alone(base, PROMPTS[3], 8))
    assert batch.texts == expected
    assert batch.image_sizes == [(147, 220), (300, 200), (147, 220), None]
    together = batch_generate(model, processor, images=images, prompts=PROMPTS, max_tokens=8, group_by_shape=False)
    assert together.texts == expected


def test_batch_of_images_and_videos(base: tuple[Any, Any]) -> None:
    """Rows with an image and a video, with a video only, and with neither."""
    model, processor = base
    videos = [str(MEDIA / "pan_short.mp4"), str(MEDIA / "jump.mp4")]
    image = str(MEDIA / "roof.png")
    batch = batch_generate(model, processor, images=[image], videos=videos, prompts=PROMPTS[:3], max_tokens=6, fps=1.0)
    assert batch.texts == [
        alone(base, PROMPTS[0], 6, image=[image], video=videos[:1], fps=1.0),
        alone(base, PROMPTS[1], 6, video=videos[1:], fps=1.0),
        alone(base, PROMPTS[2], 6),
    ]


# Videos


FLAGS = ({"fps": 1.0}, {"fps": 3.0}, {"nframes": 2}, {"min_frames": 6}, {"fps": 4.0, "max_frames": 3})


@pytest.mark.parametrize("options", FLAGS, ids=str)
def test_video_flags_on_frames(base: tuple[Any, Any], options: dict[str, Any]) -> None:
    """mlx-vlm's frame options mean for decoded frames with metadata what they mean in a call of the processor."""
    _, processor = base
    clip = Clip("temple.png", 24, 10, (64, 112))
    videos, metadata = [clip.load()], [clip.metadata]
    expected = processor("<|video_pad|>", videos=videos, video_metadata=metadata, max_slice_nums=1, **options)
    inputs = prepared(processor, "<|video_pad|>", video=videos, video_metadata=metadata, max_slice_nums=1, **options)
    np.testing.assert_array_equal(inputs["image_units"], expected["image_units"])
    places = 2  # columns beside the pixels, see `plugin.inputs.with_places`
    np.testing.assert_array_equal(inputs["pixel_values"][:, :-places], expected["pixel_values"])


def test_video_flags_on_files(base: tuple[Any, Any]) -> None:
    """The same for paths, of which the container says how long the clip is: 3 seconds."""
    _, processor = base
    path = str(MEDIA / "pan_short.mp4")
    for options, frames in (
        ({}, 3),
        ({"fps": 1.0}, 3),
        ({"fps": 2.0}, 6),
        ({"fps": 2.0, "nframes": 4}, 4),
        ({"fps": 1.0, "min_frames": 5}, 5),
        ({"fps": 2.0, "max_frames": 2}, 2),
        ({"fps": 1.0, "stack_frames": 2}, 6),
    ):
        for video in (path, [path], [MEDIA / "pan_short.mp4"]):
            inputs = prepared(processor, "<|video_pad|>", video=video, max_slice_nums=1, **options)
            assert inputs["image_units"].shape[0] == frames, options
    inputs = prepared(processor, "<|video_pad|><|video_pad|>", video=[path, path], fps=[1.0, 2.0], max_slice_nums=1)
    assert inputs["image_units"].shape[0] == 9
