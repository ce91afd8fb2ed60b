"""Processor options of one request to the server: which are taken, which are refused, and how they travel."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlx_vlm.prompt_utils import apply_chat_template
from support.endpoints import (
    ANTHROPIC_IMAGE,
    CLIP,
    COUNT_ANTHROPIC,
    COUNT_RESPONSES,
    ENDPOINTS,
    FLOWER,
    HELLO,
    JUMP,
    PAGE,
    RESPONSE_IMAGE,
    ROOF,
    WAVES,
    question,
)
from support.pictures import Picture
from support.serving import ANTHROPIC, RESPONSES, Request, Server, asked, skip_without_server

from minicpmv46.plugin.messages import REQUEST

skip_without_server()


OPTIONS = {
    "resized": asked(FLOWER, "What is this?", resize_shape=[150, 90]),
    "4x": asked(ROOF, "What is this?", downsample_mode="4x"),
    "4x with more slices": asked(PAGE, "Read.", downsample_mode="4x", max_slice_nums=36, scale_resolution=224),
    "no slices, no ids": asked(PAGE, "Read.", slice_mode=False, use_image_id=False),
    "video in 4x, faster": asked(CLIP, "?", downsample_mode="4x", fps=2, max_num_frames=3, scale_resolution=168),
    "stacked frames": asked(JUMP, "What moves?", stack_frames=3, max_slice_nums=1, scale_resolution=168),
    "number of frames": asked(JUMP, "What moves?", nframes=4, scale_resolution=168),
    "fewer frames": asked(CLIP, "What moves?", fps=2, max_frames=4, scale_resolution=168),
    "more frames": asked(CLIP, "What moves?", min_frames=5, scale_resolution=168),
    "all frames": asked(CLIP, "What moves?", do_sample_frames=False, scale_resolution=112),
    "images and videos apart": asked(
        *(WAVES, CLIP, "?"),
        images_kwargs={"downsample_mode": "4x", "scale_resolution": 168},
        videos_kwargs={"max_num_frames": 2, "scale_resolution": 168},
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(server: Server, loaded: tuple[Any, Any], name: str) -> None:
    """A request is answered with its own options; each of them changes the inputs, so none is ignored unseen."""
    request = OPTIONS[name]
    request.answer(loaded).check(server.ask(**request.body), name)
    for option in request.options.keys() - {"resize_shape"}:
        without = {key: value for key, value in request.options.items() if key != option}
        plain = dataclasses.replace(request, options=without)
        assert inputs_of(request, loaded) != inputs_of(plain, loaded), f"{name}: {option}"


def inputs_of(request: Request, loaded: tuple[Any, Any]) -> tuple[bytes, ...]:
    model, processor = loaded
    parts = [part for _, said in request.turns for part in said]
    inputs = processor(
        apply_chat_template(processor, model.config, request.messages),
        images=[part.load() for part in parts if isinstance(part, Picture)],
        videos=[str(part) for part in parts if isinstance(part, Path)] or None,
        **request.options,
    )
    return tuple(np.asarray(inputs[name]).tobytes() for name in ("input_ids", "image_units", "pixel_values"))


def test_options_in_an_object(server: Server, loaded: tuple[Any, Any]) -> None:
    """`processor_kwargs`, called as the commands' flag, and vLLM's name for it are the same; null is no option."""
    request = OPTIONS["4x with more slices"]
    expected = request.answer(loaded)
    some, others = dict(list(request.options.items())[:1]), dict(list(request.options.items())[1:])
    for objects in (
        {"processor_kwargs": request.options},
        {"mm_processor_kwargs": request.options},
        {"processor_kwargs": some, "mm_processor_kwargs": others},
        {**some, "mm_processor_kwargs": others, "processor_kwargs": None},
    ):
        body = server.ask(**asked(PAGE, "Read.", **objects).body, slice_mode=None, fps=None)
        expected.check(body, str(objects))


def test_options_reach_the_token_counts(server: Server, loaded: tuple[Any, Any]) -> None:
    """Every endpoint counts, and refuses for its length, the prompt that the options make."""
    count = OPTIONS["4x"].answer(loaded).prompt_tokens
    options = OPTIONS["4x"].options
    of_openai = {"input": [{"role": "user", "content": RESPONSE_IMAGE}]}
    of_anthropic = {"messages": [{"role": "user", "content": ANTHROPIC_IMAGE}], "max_tokens": 6}
    assert server.ask(COUNT_RESPONSES, **of_openai, **options) == {"input_tokens": count}
    assert server.ask(COUNT_ANTHROPIC, **of_anthropic, **options) == {"input_tokens": count}
    assert server.ask(RESPONSES, **of_openai, max_output_tokens=6, **options)["usage"]["input_tokens"] == count
    assert server.ask(ANTHROPIC, **of_anthropic, **options)["usage"]["input_tokens"] == count


BAD_OPTIONS = {
    "misspelt": ({"downsample_modes": "4x"}, "'downsample_modes'; did you mean 'downsample_mode'?"),
    "almost": ({"max_slice_num": 36}, "'max_slice_num'; did you mean 'max_slice_nums'?"),
    "mode": ({"downsample_mode": "8x"}, "downsample_mode must be one of '4x', '16x', not '8x'"),
    "zero": ({"max_slice_nums": 0}, "max_slice_nums must be an integer of at least 1, not 0"),
    "word": ({"max_slice_nums": "many"}, "max_slice_nums must be an integer of at least 1, not 'many'"),
    "switch": ({"use_image_id": "no"}, "use_image_id must be True or False (in JSON true or false), not 'no'"),
    "rate": ({"fps": 0}, "fps must be a positive number, not 0"),
    "one of two rates": ({"fps": [1, -1]}, "fps must be a positive number, not -1"),
    "frames": ({"max_frames": 0}, "max_frames must be an integer of at least 1, not 0"),
    "nested": ({"images_kwargs": {"stack_frames": 3}}, "images_kwargs has unknown options 'stack_frames'"),
    "in the object": (
        {"processor_kwargs": {"slices": 2}},
        "processor_kwargs has unknown options 'slices'; 'slices' is probably 'max_slice_nums'; known: downsample_mode",
    ),
    "in vLLM's object": (
        {"mm_processor_kwargs": {"num_frames": 2, "size": 4}},
        "mm_processor_kwargs has unknown options 'num_frames', 'size'; 'num_frames' is probably 'nframes'; known: ",
    ),
    "no object": ({"processor_kwargs": 3}, "processor_kwargs must be an object, not 3"),
    "twice": (
        {"processor_kwargs": {"downsample_mode": "4x"}, "downsample_mode": "4x"},
        "downsample_mode stands in the request and in processor_kwargs",
    ),
    "twice in objects": (
        {"processor_kwargs": {"fps": 1}, "mm_processor_kwargs": {"fps": 1}},
        "fps stands in processor_kwargs and in mm_processor_kwargs",
    ),
    "a long value": ({"processor_kwargs": "x" * 300_000}, "processor_kwargs must be an object, not 'xxx"),
    "half an emoji": (
        {"processor_kwargs": {"\ud83d": 1}},
        "processor_kwargs has unknown options '\\ud83d'; known: downsample_mode",
    ),
    "a long name": ({"processor_kwargs": {"x" * 300_000: 1}}, "processor_kwargs has unknown options 'xxx"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options(server: Server, name: str) -> None:
    """Every endpoint refuses them with status 400 and one sentence, before a stream begins."""
    options, sentence = BAD_OPTIONS[name]
    for endpoint in ENDPOINTS:
        prompt = {"input": "Hi"} if endpoint in (RESPONSES, COUNT_RESPONSES) else {"messages": [HELLO], "max_tokens": 3}
        for stream in (False, True):
            status, detail = server.refuse(endpoint, **prompt, stream=stream, **options)
            assert status == 400, endpoint
            assert sentence in detail and "\n" not in detail and "400" not in detail, endpoint
            assert len(detail) <= 400, endpoint


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("max_slices", 4, "max_slice_nums"),
        ("slices", 4, "max_slice_nums"),
        ("num_slices", 4, "max_slice_nums"),
        ("downsample", "4x", "downsample_mode"),
        ("mode", "4x", "downsample_mode"),
        ("mode", 16, "downsample_mode"),
        ("num_frames", 4, "nframes"),
        ("frames", 4, "max_num_frames"),
        ("n_frames", 4, "nframes"),
        ("num_videos", 1, "video"),
        ("processor_kwarg", {}, "processor_kwargs"),
        ("chat_template_kwarg", {}, "chat_template_kwargs"),
    ],
)
def test_likely_names(server: Server, name: str, value: Any, meant: str) -> None:
    """What other programs call an option is refused with its name here."""
    for endpoint in ENDPOINTS:
        status, detail = server.refuse(endpoint, **question(endpoint, "Hi"), **{name: value})
        assert (status, detail) == (400, f"unknown option {name!r}; did you mean {meant!r}?"), endpoint


def test_fields_of_other_clients(server: Server, loaded: tuple[Any, Any]) -> None:
    """What OpenAI's clients send beside mlx-vlm's fields passes as before."""
    fields = {
        "n": 1,
        "user": "me",
        "metadata": {"mode": "4x"},
        "max_completion_tokens": 6,
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "prompt_cache_key": "key",
        "image_detail": "high",
        "mode": "instruct",
        "size": 4,
        "extra_body": {},
        "stop": None,
        "chat_template_kwargs": None,
    }
    asked("Why?").answer(loaded).check(server.ask(**asked("Why?").body, **fields), "other fields")


def test_other_models_are_left_alone(loaded: tuple[Any, Any]) -> None:
    """For another model's processor mlx-vlm's own function answers, whatever the request's fields are called."""
    from mlx_vlm.server.generation import GenerationArguments
    from mlx_vlm.server.request_normalization import _build_gen_args
    from mlx_vlm.server.schemas import ChatRequest

    request = ChatRequest(
        model="other", messages=[HELLO], downsample_modes=1, max_slice_nums=0, resize_shape=[8, 8], max_tokens=7
    )
    _, processor = loaded
    for other in (None, SimpleNamespace(tokenizer=processor.tokenizer), processor.tokenizer):
        arguments = _build_gen_args(request, processor=other)
        assert type(arguments) is GenerationArguments
        assert arguments == _build_gen_args.__wrapped__(request, other)


def test_arguments_keep_their_options(loaded: tuple[Any, Any]) -> None:
    """Copies of a request's arguments keep its options, and its own arguments stay what mlx-vlm made of them."""
    from mlx_vlm.server.request_normalization import _build_gen_args
    from mlx_vlm.server.schemas import ChatRequest

    fields = {"messages": [HELLO], "resize_shape": [8, 8], "max_tokens": 7, "seed": 3, "logit_bias": {"5": 1.5}}
    _, processor = loaded
    ours = _build_gen_args(ChatRequest(model="ours", **fields, downsample_mode="4x"), processor, tenant_id="me")
    own = _build_gen_args.__wrapped__(ChatRequest(model="ours", **fields), processor, tenant_id="me")
    copy = dataclasses.replace(ours, max_tokens=5)
    assert copy.max_tokens == 5
    for arguments in (ours, dataclasses.replace(copy, max_tokens=7)):
        handed_over = {REQUEST: arguments}
        options = {"resize_shape": (8, 8), "downsample_mode": "4x"}
        assert arguments.preprocessing_kwargs() == options | handed_over
        assert arguments.to_generate_kwargs() == own.to_generate_kwargs() | {"downsample_mode": "4x"}
        assert arguments.to_template_kwargs() == own.to_template_kwargs() | handed_over
        assert {f.name: getattr(arguments, f.name) for f in dataclasses.fields(own)} == vars(own)
