"""The processor's options in a request to mlx-vlm's server: chosen there, for that request alone, checked first."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cases import MEDIA, Picture
from mlx_vlm import load
from mlx_vlm.server import request_normalization
from mlx_vlm.server.schemas import ChatRequest
from serving import ANSWER_SECONDS, Server, direct, image, serve, streamed_tokens, text, user

from minicpmv46.plugin.requests import RequestArguments

ROOF, WAVES = Picture("roof.png"), Picture("waves", (60, 200))
CLIP = str(MEDIA / "pan_short.mp4")


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(checkpoint("base"), tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """The same model and processor in this process."""
    return load(str(checkpoint("base")))


IMAGE = [user(image(ROOF), text("What is this?"))]
VIDEO = [user({"type": "video_url", "video_url": {"url": CLIP}}, text("What moves?"))]
BOTH = [user(image(WAVES), {"type": "video_url", "video_url": {"url": CLIP}}, text("Which one?"))]
SMALL = {"scale_resolution": 112}  # units of this size are cheap, and the picture has slices
REQUESTS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "default": (IMAGE, {"image": [ROOF]}, {}),
    "null": (IMAGE, {"image": [ROOF]}, {"downsample_mode": None, "processor_kwargs": None}),
    "4x": (IMAGE, {"image": [ROOF]}, {"downsample_mode": "4x"}),
    "slices": (IMAGE, {"image": [ROOF]}, SMALL),
    "one unit": (IMAGE, {"image": [ROOF]}, {**SMALL, "max_slice_nums": 1}),
    "4x of two slices": (IMAGE, {"image": [ROOF]}, {**SMALL, "downsample_mode": "4x", "max_slice_nums": 2}),
    "no slices, no number": (IMAGE, {"image": [ROOF]}, {**SMALL, "slice_mode": False, "use_image_id": False}),
    "nested": (IMAGE, {"image": [ROOF]}, {"processor_kwargs": {"downsample_mode": "4x", "max_slice_nums": 1}, **SMALL}),
    "frames": (VIDEO, {"video": [CLIP]}, {**SMALL, "max_num_frames": 1, "downsample_mode": "4x"}),
    "frame rate and stacks": (VIDEO, {"video": [CLIP]}, {**SMALL, "fps": 2, "stack_frames": 3, "max_slice_nums": 1}),
    "either's own": (
        BOTH,
        {"image": [WAVES], "video": [CLIP]},
        SMALL | {"images_kwargs": {"downsample_mode": "4x"}, "videos_kwargs": {"max_num_frames": 1}},
    ),
}


def expected(loaded: tuple[Any, Any], name: str, max_tokens: int) -> Any:
    messages, media, options = REQUESTS[name]
    given = {k: [m.load() if isinstance(m, Picture) else m for m in v] for k, v in media.items()}
    plain = {k: v for k, v in {**options, **(options.get("processor_kwargs") or {})}.items() if v is not None}
    plain.pop("processor_kwargs", None)
    return direct(loaded, messages, max_tokens, **given, **plain)


def test_options_mixed_in_one_batch(server: Server, loaded: tuple[Any, Any]) -> None:
    """All requests join a running one, each with options of its own."""
    alone = {name: expected(loaded, name, 6) for name in REQUESTS}
    with ThreadPoolExecutor(len(REQUESTS)) as pool, server.stream(messages=[user("Why?")], max_tokens=100) as running:
        first = next(running)
        answers = {
            name: pool.submit(server.ask, messages=messages, max_tokens=6, **options)
            for name, (messages, _, options) in REQUESTS.items()
        }
        bodies = {name: answer.result(ANSWER_SECONDS) for name, answer in answers.items()}
        lines = [first, *running]
    for name, body in bodies.items():
        alone[name].check(body, name)
    assert streamed_tokens(lines) == direct(loaded, [user("Why?")], 100).tokens
    counts = {name: answer.prompt_tokens for name, answer in alone.items()}
    assert counts.pop("null") == counts["default"]
    assert len(set(counts.values())) == len(counts), "some options make no difference here"


PATHS = {
    "chat": ("/v1/chat/completions", lambda content: {"messages": [{"role": "user", "content": content}]}),
    "responses": ("/v1/responses", lambda content: {"input": [{"role": "user", "content": content}]}),
    "messages": ("/v1/messages", lambda content: {"messages": [{"role": "user", "content": content}], "max_tokens": 4}),
    "count": (
        "/v1/messages/count_tokens",
        lambda content: {"messages": [{"role": "user", "content": content}], "max_tokens": 4},
    ),
}


def content_of(api: str) -> list[dict[str, Any]]:
    uri = image(ROOF)["image_url"]["url"]
    if api == "chat":
        return [image(ROOF), text("What is this?")]
    if api == "responses":
        return [{"type": "input_image", "image_url": uri}, {"type": "input_text", "text": "What is this?"}]
    source = {"type": "base64", "media_type": "image/png", "data": uri.split(",")[1]}
    return [{"type": "image", "source": source}, text("What is this?")]


@pytest.mark.parametrize("api", PATHS)
def test_options_at_every_endpoint(server: Server, loaded: tuple[Any, Any], api: str) -> None:
    """Each counts the prompt's tokens of both modes as they are alone."""
    path, body = PATHS[api]
    for name in ("slices", "4x of two slices"):
        options = REQUESTS[name][2]
        answer = server.ask(path=path, **body(content_of(api)), **options)
        usage = answer.get("usage", answer)
        found = usage.get("input_tokens", usage.get("prompt_tokens"))
        assert found == expected(loaded, name, 1).prompt_tokens, name


BAD = {
    "mode": ({"downsample_mode": "8x"}, "8x"),
    "count": ({"max_slice_nums": 0}, "max_slice_nums must be an integer of at least 1, not 0"),
    "type": ({"max_slice_nums": "many"}, "max_slice_nums must be an integer of at least 1, not 'many'"),
    "rate": ({"fps": [1, -2]}, "fps must be a positive number, not -2"),
    "frames": ({"max_num_frames": 2.5}, "max_num_frames must be an integer of at least 1, not 2.5"),
    "switch": ({"use_image_id": "no"}, "use_image_id must be True or False, not 'no'"),
    "misspelt": ({"downsample_modes": "4x"}, "unknown option 'downsample_modes'; did you mean 'downsample_mode'?"),
    "misspelt, nested": ({"processor_kwargs": {"max_slice_num": 3}}, "unknown options max_slice_num; known:"),
    "misspelt object": ({"processor_kwarg": {}}, "unknown option 'processor_kwarg'; did you mean 'processor_kwargs'?"),
    "no object": ({"processor_kwargs": "4x"}, "processor_kwargs must be an object with options, not '4x'"),
    "of images": ({"images_kwargs": {"fps": 1}}, "images_kwargs has unknown options fps"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(server: Server, name: str) -> None:
    """A bad option is refused in a sentence, also where the request has no image."""
    options, sentence = BAD[name]
    for api in ("chat", "responses", "messages", "count"):
        path, body = PATHS[api]
        status, detail = server.refuse(path=path, **body("Hello!"), **options)
        assert status == 400 and sentence in detail, (api, status, detail)


def test_fields_of_others_pass(server: Server, loaded: tuple[Any, Any]) -> None:
    """What other servers' clients send goes by, as mlx-vlm lets it."""
    body = server.ask(messages=[user("Hello!")], max_tokens=4, user="me", store=False, n=1, service_tier="auto")
    direct(loaded, [user("Hello!")], 4).check(body, "unknown fields")


def test_other_models_get_mlx_vlms_own(loaded: tuple[Any, Any]) -> None:
    """Options reach the arguments for our processor only, and stay with a copy of them."""
    _, processor = loaded
    request = ChatRequest(model="m", messages=[], downsample_mode="4x", resize_shape=[20, 30], max_tokens=7)
    other = request_normalization._build_gen_args(request, SimpleNamespace(tokenizer=processor.tokenizer))
    assert type(other) is not RequestArguments and other.preprocessing_kwargs() == {"resize_shape": (20, 30)}
    ours = replace(request_normalization._build_gen_args(request, processor), max_tokens=9)
    assert ours.preprocessing_kwargs() == {"resize_shape": (20, 30), "downsample_mode": "4x"}
    assert {**vars(ours), "processor_options": None} == {**vars(other), "processor_options": None, "max_tokens": 9}
    plain = request_normalization._build_gen_args(ChatRequest(model="m", messages=[]), processor)
    assert type(plain) is type(other)
