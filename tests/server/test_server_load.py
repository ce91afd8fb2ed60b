"""mlx-vlm's server with many clients at once, some of whom misbehave: every request gets what it gets alone."""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlx_vlm import load
from support.pictures import MEDIA, Picture
from support.serving import (
    ANSWER_SECONDS,
    Answer,
    Request,
    Server,
    asked,
    data_uri,
    events,
    gathered,
    running_server,
    skip_without_server,
)

skip_without_server()

CLIENTS, REQUESTS = 8, 200
ROOF, FLOWER, PAGE = Picture("roof.png"), Picture("flower.png"), Picture("page.png")
STRIP, WAVES = Picture("waves", (60, 200)), Picture("waves", (90, 90), 3)
CLIP = MEDIA / "pan_short.mp4"
LONG = " ".join(f"Line {i} of the page is about river {i * 7 % 13}." for i in range(20))

# Different lengths of prompts and answers; images small, since a picture of any size costs a whole unit.
POOL = {
    "short": asked("Hello!", max_tokens=4),
    "stops by itself": asked("List ten rivers.", max_tokens=50),
    "long": asked(LONG, max_tokens=9),
    "system": Request((("system", ("Be brief.",)), ("user", ("Why?",))), 20),
    "chat": Request((("user", ("One",)), ("assistant", ("Two",)), ("user", ("Three",))), 11),
    "thinks": asked("Write a poem about rivers and hills.", max_tokens=50, thinking=True),
    "thinks of an image": asked(STRIP, "Why?", max_tokens=8, thinking=True, scale_resolution=112),
    "no thoughts": asked("Is it?", max_tokens=3, thinking=False),
    "image": asked(ROOF, "What is this?", max_tokens=7),
    "the image in 4x": asked(ROOF, "What is this?", max_tokens=7, downsample_mode="4x"),
    "the image again": asked(ROOF, "Where?", max_tokens=13),
    "small unit": asked(WAVES, "?", max_tokens=5, scale_resolution=112),
    "small unit in 4x": asked(WAVES, "?", max_tokens=5, scale_resolution=112, downsample_mode="4x"),
    "slices": asked(PAGE, "Read.", max_tokens=5, scale_resolution=168),
    "slices in 4x": asked(PAGE, "Read.", max_tokens=6, scale_resolution=168, downsample_mode="4x"),
    "many slices": asked(PAGE, "Read.", max_tokens=5, scale_resolution=112, max_slice_nums=16),
    "two slices": asked(PAGE, "Read.", max_tokens=4, scale_resolution=112, max_slice_nums=2, use_image_id=False),
    "two images": asked("First", FLOWER, "then", STRIP, "which?", max_tokens=6, scale_resolution=112),
    "second turn adds an image": Request(
        (("user", (FLOWER, "First?")), ("assistant", ("A flower.",)), ("user", (WAVES, "And this?"))),
        9,
        {"scale_resolution": 112},
    ),
    "video": asked(CLIP, "What moves?", max_tokens=6, scale_resolution=112),
    "faster video in 4x": asked(CLIP, "?", max_tokens=5, scale_resolution=112, fps=2, downsample_mode="4x"),
    "image and video": asked(STRIP, CLIP, "?", max_tokens=4, scale_resolution=112, slice_mode=False),
}
RUNNING = asked("Why?", max_tokens=400)


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), checkpoint("base")) as server:
        yield server


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """The same model and processor in this process."""
    return load(str(checkpoint("base")))


@pytest.fixture(scope="module")
def answers(loaded: tuple[Any, Any]) -> dict[str, Answer]:
    """What each request of the pool gets alone."""
    return {name: request.answer(loaded) for name, request in POOL.items()}


def test_many_clients(server: Server, loaded: tuple[Any, Any], answers: dict[str, Answer]) -> None:
    """Requests of all kinds, streamed or not, in a running batch of up to nine that never empties."""
    assert {answer.finish_reason for answer in answers.values()} == {"stop", "length"}
    chance = random.Random(46)
    # Each of the pool once as a whole, the others streamed: mlx-vlm collects garbage after every whole answer.
    order = [(name, True) for name in chance.choices(list(POOL), k=REQUESTS - len(POOL))]
    order += [(name, False) for name in POOL]
    chance.shuffle(order)
    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        with server.post(**RUNNING.body, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = events(stream)
            first = next(chunks)  # it runs
            rest = pool.submit(list, chunks)
            running = [pool.submit(answered, server, *entry) for entry in order]
            running[0].result(ANSWER_SECONDS)
            assert not rest.done(), "no request joined the running one: nothing was tested"
            chunks = [first, *rest.result(ANSWER_SECONDS)]
        bodies = [future.result(ANSWER_SECONDS) for future in running]
    for (name, streamed), body in zip(order, bodies, strict=True):
        answers[name].check(body, f"{name}, streamed: {streamed}")
    RUNNING.answer(loaded).check(gathered(chunks), "the running one")


def answered(server: Server, name: str, streamed: bool) -> dict[str, Any]:
    """A chat completion; events of a stream put together."""
    body = POOL[name].body
    if not streamed:
        return server.ask(**body)
    return gathered(server.stream(**body, stream_options={"include_usage": True}))


def test_clients_that_leave(server: Server, answers: dict[str, Answer]) -> None:
    """Streams that nobody reads to the end are given up, whatever they are about; the others go on."""
    endless = [
        asked("Why?", max_tokens=50_000),
        asked(ROOF, "What is this?", max_tokens=50_000, downsample_mode="4x"),
        asked(CLIP, "What moves?", max_tokens=50_000, scale_resolution=112),
    ]
    staying = ["long", "small unit in 4x", "video"]
    with ThreadPoolExecutor(len(staying)) as pool:
        streams = [server.post(**request.body, stream=True) for request in endless]
        for stream in streams:
            assert next(events(stream))
        running = {name: pool.submit(answered, server, name, True) for name in staying}
        for stream in streams:
            stream.close()
        for name, future in running.items():
            answers[name].check(future.result(ANSWER_SECONDS), name)
    deadline = time.monotonic() + ANSWER_SECONDS
    while server.get("/metrics")["summary"]["in_flight"]:
        assert time.monotonic() < deadline, "the server still works for clients that left"
    answers["image"].check(server.ask(**POOL["image"].body), "after those that left")


def test_bad_requests_hurt_nobody_else(server: Server, loaded: tuple[Any, Any], answers: dict[str, Answer]) -> None:
    """Requests that cannot be answered say why in a sentence; one that runs beside them goes on."""
    head, data = data_uri(FLOWER).split(",")
    truncated = {"type": "image_url", "image_url": {"url": f"{head},{data[:60_000]}"}}
    question = {"type": "text", "text": "?"}
    no_video = {"type": "video_url", "video_url": {"url": str(MEDIA / "none.mp4")}}
    bad: list[tuple[dict[str, Any], int, str]] = [
        ({"messages": [{"role": "user", "content": [truncated, question]}]}, 400, "image 0"),
        (asked("<|image_pad|> or not?").body, 400, "1 <|image_pad|> placeholder, but 0 images"),
        (asked("<|video_pad|>", ROOF).body, 400, "1 <|video_pad|> placeholder, but 0 videos"),
        ({"messages": [{"role": "user", "content": [no_video, question]}]}, 400, "video 0: there is no file"),
        (asked(CLIP, "?", fps=[1, 2]).body, 400, "fps has 2 entries for 1 video"),
        (asked(CLIP, "?", nframes=31).body, 400, "nframes = 31 is more than the 30 frames"),
        (asked(ROOF, "?", downsample_modes="4x").body, 400, "did you mean 'downsample_mode'?"),
    ]
    running = asked("Why?", max_tokens=150)
    with server.post(**running.body, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = events(stream)
        first = next(chunks)
        for body, status, words in bad:
            code, detail = server.refuse(**body)
            assert code == status and words in detail, detail
        rest = list(chunks)
    running.answer(loaded).check(gathered([first, *rest]), "the running one")
    answers["short"].check(server.ask(**POOL["short"].body), "after the bad requests")


def test_one_model_after_the_other(
    server: Server, answers: dict[str, Answer], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Requests name their model: another one of ours, folders that hold none, and the first one again."""
    untied = checkpoint("untied")
    request = POOL["small unit in 4x"]
    expected = request.answer(load(str(untied)))
    expected.check(server.ask(**request.body, model=str(untied)), "another model")

    bad = tmp_path / "bad"
    shutil.copytree(untied, bad)
    config = json.loads((bad / "config.json").read_text())
    config["text_config"]["hidden_size"] = 96
    (bad / "config.json").write_text(json.dumps(config))
    (tmp_path / "empty").mkdir()
    for name, words in (("bad", "config.json asks for (96"), ("empty", "Config not found"), ("none", "Failed to load")):
        status, detail = server.refuse(**request.body, model=str(tmp_path / name))
        assert status == 400 and words in detail, detail
    answers["small unit in 4x"].check(server.ask(**request.body), "the first model again")
