"""Reading documents with MiniCPM-OCR on mlx-vlm's server: forty crops at once, each with options of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.documents import CROPS, SMALL, UPSIZES, options
from support.endpoints import (
    ANTHROPIC,
    CHAT,
    CLIP,
    COUNT_ANTHROPIC,
    COUNT_RESPONSES,
    ENDPOINTS,
    RESPONSES,
    answer_text,
    question,
)
from support.serving import (
    ANSWER_SECONDS,
    Answer,
    Server,
    asked,
    data_uri,
    events,
    gathered,
    readable,
    skip_without_server,
)

skip_without_server()

LINE, HEADLINE, ICON = CROPS[12], CROPS[17], CROPS[30]
MODES = ("4x", "16x")
SLICES: tuple[dict[str, Any], ...] = ({}, {"slice_mode": False}, {"max_slice_nums": 2}, {"use_image_id": False}, {})
# Each value, mode and slice setting meets each of the others among crops of every kind.
REQUESTS = [
    asked(
        crop.picture,
        f"Read crop {i}.",
        max_tokens=3 + i % 3,
        downsample_mode=MODES[i % 2],
        **options(UPSIZES[i % 3]),
        **SLICES[i % 5],
    )
    for i, crop in enumerate(CROPS)
]
BESIDE = [
    asked("Hello!", max_tokens=4),
    asked("List ten rivers.", max_tokens=12),
    asked(HEADLINE.picture, LINE.picture, ICON.picture, "Which is text?", **options("adaptive")),
    asked(ICON.picture, CLIP, "Is it in the video?", max_num_frames=2, **options("adaptive")),
    asked(CLIP, "What moves?", max_num_frames=2, downsample_mode="16x", **options("never")),
]
RUNNING = asked("Why?", max_tokens=150)


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path]) -> Path:
    """The checkpoint of this module's server."""
    return checkpoint("ocr")


@pytest.fixture(scope="module")
def answers(loaded: tuple[Any, Any]) -> list[Answer]:
    """What each request gets alone."""
    return [request.answer(loaded) for request in (*REQUESTS, *BESIDE)]


def test_forty_crops_at_once(server: Server, loaded: tuple[Any, Any], answers: list[Answer]) -> None:
    """Forty clients, and some who ask other things, while an answer runs: each gets what it gets alone, whole or as a
    stream."""
    assert len({tuple(answer.tokens) for answer in answers}) > 30

    def ask(i: int) -> dict[str, Any]:
        body = requests[i].body
        if i // 2 % 2:
            return gathered(server.stream(**body, stream_options={"include_usage": True}))
        return server.ask(**body)

    requests = [*REQUESTS, *BESIDE]
    running = server.post(**RUNNING.body, stream=True, stream_options={"include_usage": True})
    with ThreadPoolExecutor(len(requests) + 1) as pool, running as stream:
        chunks = events(stream)
        first = next(chunks)  # it runs
        rest = pool.submit(list, chunks)
        waiting = [pool.submit(ask, i) for i in range(len(requests))]
        waiting[0].result(ANSWER_SECONDS)
        assert not rest.done(), "no request joined the running one: nothing was tested"
        bodies = [future.result(ANSWER_SECONDS) for future in waiting]
        chunks = iter([first, *rest.result(ANSWER_SECONDS)])
    for request, answer, body in zip(requests, answers, bodies, strict=True):
        answer.check(body, str(request))
    RUNNING.answer(loaded).check(gathered(chunks), "the running one")


def test_token_counts(server: Server) -> None:
    """The prompt grows by as many tokens as the crop, wherever the option stands and whoever counts."""
    for crop in (LINE, HEADLINE, ICON):
        sent = data_uri(crop.picture)

        def count(endpoint: str, fields: dict[str, Any], sent: str = sent) -> int:
            answer: int = server.ask(endpoint, **question(endpoint, "Read.", sent), **fields)["input_tokens"]
            return answer

        text = count(COUNT_RESPONSES, options("never")) - sum(crop.never)
        for upsize in UPSIZES:
            expected = text + sum(crop.tokens(upsize))
            own: dict[str, Any] = {"small_image_upsize": upsize}
            for endpoint in (COUNT_RESPONSES, COUNT_ANTHROPIC):
                assert count(endpoint, SMALL | own) == expected
                for place in ("processor_kwargs", "mm_processor_kwargs", "images_kwargs"):
                    assert count(endpoint, SMALL | {place: own}) == expected, place
        assert count(COUNT_RESPONSES, SMALL | {"small_image_upsize": None}) == text + sum(crop.always)


@pytest.mark.parametrize("upsize", UPSIZES)
def test_other_endpoints(server: Server, loaded: tuple[Any, Any], upsize: str) -> None:
    """Responses and Anthropic's messages, whole and streamed, with the option in each of its places."""
    expected = asked(ICON.picture, "What is this?", max_tokens=5, **options(upsize)).answer(loaded)
    sent, own = data_uri(ICON.picture), {"small_image_upsize": upsize}
    for endpoint, place in zip(
        (RESPONSES, ANTHROPIC, CHAT), ("", "processor_kwargs", "mm_processor_kwargs"), strict=True
    ):
        fields = {**SMALL, **({place: own} if place else own)}
        body = question(endpoint, "What is this?", sent, max_tokens=5, **fields)
        assert readable(answer_text(endpoint, server.ask(endpoint, **body))) == expected.plain, endpoint
        assert readable(streamed_text(endpoint, server.stream(endpoint, **body))) == expected.plain, endpoint


def streamed_text(endpoint: str, chunks: list[dict[str, Any]]) -> str:
    """The text in the events of a stream."""
    if endpoint == CHAT:
        return str(gathered(chunks)["choices"][0]["message"]["content"])
    if endpoint == RESPONSES:
        return "".join(event["delta"] for event in chunks if event["type"] == "response.output_text.delta")
    return "".join(event["delta"].get("text", "") for event in chunks if event["type"] == "content_block_delta")


NAMES = "'always', 'never', 'adaptive'"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "value": ({"small_image_upsize": "sometimes"}, f"small_image_upsize must be one of {NAMES}, not 'sometimes'"),
    "switch": ({"small_image_upsize": True}, f"small_image_upsize must be one of {NAMES}, not True"),
    "list": ({"small_image_upsize": ["never"]}, f"small_image_upsize must be one of {NAMES}, not ['never']"),
    "value in an object": (
        {"mm_processor_kwargs": {"small_image_upsize": "Never"}},
        f"small_image_upsize must be one of {NAMES}, not 'Never'",
    ),
    "value in images_kwargs": (
        {"images_kwargs": {"small_image_upsize": 1}},
        f"small_image_upsize must be one of {NAMES}, not 1",
    ),
    "misspelt": (
        {"small_images_upsize": "never"},
        "unknown option 'small_images_upsize'; did you mean 'small_image_upsize'?",
    ),
    "misspelt in an object": (
        {"processor_kwargs": {"upsize": "never"}},
        "processor_kwargs has unknown options 'upsize'; 'upsize' is probably 'small_image_upsize'; known: ",
    ),
    "of videos": (
        {"videos_kwargs": {"small_image_upsize": "never"}},
        "videos_kwargs has unknown options 'small_image_upsize'; known: ",
    ),
    "twice": (
        {"small_image_upsize": "never", "processor_kwargs": {"small_image_upsize": "always"}},
        "small_image_upsize stands in the request and in processor_kwargs",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values(server: Server, name: str) -> None:
    """Status 400 and one sentence on every endpoint, also before a stream."""
    fields, sentence = BAD[name]
    for endpoint in ENDPOINTS:
        for stream in (False, True):
            status, detail = server.refuse(endpoint, **question(endpoint, "Hi"), stream=stream, **fields)
            assert status == 400, endpoint
            assert sentence in detail and "\n" not in detail, endpoint


def test_clients_that_leave(server: Server, answers: list[Answer]) -> None:
    """Streams about crops that nobody reads to the end do nothing to those beside them."""
    endless = [
        asked(crop.picture, "Read.", max_tokens=50_000, **options("adaptive")) for crop in (ICON, LINE, CROPS[37])
    ]
    with ThreadPoolExecutor(8) as pool:
        streams = [server.post(**request.body, stream=True) for request in endless]
        for stream in streams:
            assert next(events(stream))
        waiting = [pool.submit(server.ask, **request.body) for request in REQUESTS[14:22]]
        for stream in streams:
            stream.close()
        for answer, future in zip(answers[14:22], waiting, strict=True):
            answer.check(future.result(ANSWER_SECONDS), "beside those that left")


def test_the_other_model(server: Server, checkpoint: Callable[[str], Path]) -> None:
    """MiniCPM-V 4.6 on the same server has no such option, and says who has it."""
    given: tuple[dict[str, Any], ...] = (
        {"small_image_upsize": "adaptive"},
        {"processor_kwargs": {"small_image_upsize": "always"}},
        {"images_kwargs": {"small_image_upsize": "never"}},
    )
    model = str(checkpoint("base"))
    for fields in given:
        for endpoint in ENDPOINTS:
            status, detail = server.refuse(endpoint, **question(endpoint, "Hi"), model=model, **fields)
            assert status == 400, endpoint
            assert "small_image_upsize, which MiniCPM-V 4.6 does not have" in detail, endpoint
            assert "MiniCPM-OCR 1.0 has" in detail and "\n" not in detail, endpoint
    # No name of it is suggested either, and what is almost one passes as other unknown fields do.
    status, detail = server.refuse(**question(CHAT, "Hi", model=model, processor_kwargs={"upsize": "never"}))
    assert status == 400 and "'upsize'; known: " in detail and "small_image_upsize" not in detail
    assert answer_text(CHAT, server.ask(**question(CHAT, "Hi", model=model, small_image_upsize=None, upscale=2)))
