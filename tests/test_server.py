"""mlx-vlm's server as users start it: every request gets the answer it gets alone.

Tokens and log-probabilities are compared with `generate` in this process.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import golden_data
import pytest
from cases import BY_NAME, MEDIA, Picture
from mlx_vlm import load
from serving import ANSWER_SECONDS, Server, data_uri, direct, image, serve, streamed_tokens, text, user


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(checkpoint("base"), tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """The same model and processor in this process."""
    return load(str(checkpoint("base")))


ROOF, FLOWER, WAVES = Picture("roof.png"), Picture("flower.png"), Picture("waves", (60, 200))


@pytest.mark.parametrize("name", ["text_hello", "photo_no_text", "two_photos"])
def test_one_request(server: Server, loaded: tuple[Any, Any], name: str) -> None:
    """Text, and images as data URIs: the tokens are the official implementation's."""
    case, golden = BY_NAME[name], golden_data.load(name)
    content = case.turns[0].content
    parts = (
        [content] if isinstance(content, str) else [image(p) if isinstance(p, Picture) else text(p) for p in content]
    )
    body = server.ask(messages=[user(*parts)], max_tokens=case.new_tokens)
    expected = direct(loaded, case.messages, case.new_tokens, **media_of(name))
    expected.check(body, name)
    _, processor = loaded
    assert expected.tokens == [processor.tokenizer.decode([token]) for token in golden["greedy"]]
    assert body["usage"]["prompt_tokens"] == len(golden["input_ids"])


def media_of(name: str) -> dict[str, Any]:
    pictures = [picture.load() for picture in BY_NAME[name].pictures]
    return {"image": pictures} if pictures else {}


@dataclass(frozen=True)
class Request:
    """A request to the server and the same one for `direct`."""

    messages: list[dict[str, Any]]
    max_tokens: int
    options: dict[str, Any]
    media: dict[str, Any]
    stops: bool = False


def requests() -> dict[str, Request]:
    roof, flower, waves = (picture.load() for picture in (ROOF, FLOWER, WAVES))
    clip = str(MEDIA / "pan_short.mp4")
    long = " ".join(f"Line {i} of the page is about river {i * 7 % 13}." for i in range(20))
    two_turns = [
        {"role": "system", "content": "Be brief."},
        user(text("First"), image(ROOF), text("what is it?")),
        {"role": "assistant", "content": "A roof."},
        user(image(WAVES), text("And this?")),
    ]
    return {
        "short text": Request([user("Hello!")], 4, {}, {}),
        "stopping text": Request([user("List ten rivers.")], 50, {}, {}, stops=True),
        "stopping text that thinks": Request(
            [user("Write a poem about rivers and hills.")], 50, {"enable_thinking": True}, {}, stops=True
        ),
        "long text": Request([user(long)], 9, {}, {}),
        "image": Request([user(image(ROOF), text("What is this?"))], 12, {}, {"image": [roof]}),
        "the image again": Request([user(image(ROOF), text("Where?"))], 7, {}, {"image": [roof]}),
        "resized image": Request(
            [user(image(FLOWER), text("What is this?"))],
            8,
            {"resize_shape": [150, 90]},
            {"image": [flower.resize((67, 90))]},
        ),
        "chat with two images": Request(two_turns, 10, {}, {"image": [roof, waves]}),
        "chat about a video and an image": Request(
            [
                user(image(ROOF), {"type": "video_url", "video_url": {"url": clip}}, text("What moves?")),
                {"role": "assistant", "content": "Nothing."},
                user("Look again."),
            ],
            6,
            {},
            {"image": [roof], "video": [clip]},
        ),
        "video": Request(
            [user({"type": "video_url", "video_url": {"url": clip}}, text("What moves?"))], 6, {}, {"video": [clip]}
        ),
    }


def test_requests_queued_behind_a_running_one(server: Server, loaded: tuple[Any, Any]) -> None:
    """Texts, images, a chat and a video of all lengths join a long answer; each gets what it gets alone."""
    long_messages = [user("Why?")]
    asked = requests()
    with ThreadPoolExecutor(len(asked)) as pool:
        stream = server.stream(messages=long_messages, max_tokens=300)
        with stream:
            first = next(stream)  # it runs
            answers = {
                name: pool.submit(
                    server.ask, messages=request.messages, max_tokens=request.max_tokens, **request.options
                )
                for name, request in asked.items()
            }
            answers["short text"].result(ANSWER_SECONDS)
            done_before = time.monotonic()
            lines = [first, *stream]
            long_done = time.monotonic()
        bodies = {name: answer.result(ANSWER_SECONDS) for name, answer in answers.items()}
    assert long_done - done_before > 0.05, "the requests did not overlap: nothing was tested"

    for name, request in asked.items():
        thinking = request.options.get("enable_thinking", False)
        expected = direct(loaded, request.messages, request.max_tokens, thinking, **request.media)
        assert expected.finish_reason == ("stop" if request.stops else "length"), name
        expected.check(bodies[name], name)

    expected = direct(loaded, long_messages, 300)
    assert len(expected.tokens) == 300
    assert streamed_tokens(lines) == expected.tokens


def test_bad_requests_hurt_nobody_else(server: Server, loaded: tuple[Any, Any]) -> None:
    """Requests that cannot be answered say why in a sentence; one that runs beside them goes on."""
    running = server.stream(messages=[user("Why?")], max_tokens=120)
    with running:
        first = next(running)
        head, data = data_uri(FLOWER).split(",")
        truncated = {"type": "image_url", "image_url": {"url": f"{head},{data[:60_000]}"}}
        status, detail = server.refuse(messages=[user(truncated, text("?"))])
        assert status >= 400 and "image 0" in detail and "truncated" in detail
        status, detail = server.refuse(messages=[user(text("<|image_pad|> or not?"))])
        assert status >= 400 and "1 <|image_pad|> placeholder, but 0 images" in detail
        status, detail = server.refuse(
            messages=[user({"type": "video_url", "video_url": {"url": str(MEDIA / "none.mp4")}}, text("?"))]
        )
        assert status >= 400 and "video 0: there is no file" in detail
        lines = [first, *running]
    assert streamed_tokens(lines) == direct(loaded, [user("Why?")], 120).tokens
    after = server.ask(messages=[user("Hello!")], max_tokens=4)
    direct(loaded, [user("Hello!")], 4).check(after, "after the bad requests")
