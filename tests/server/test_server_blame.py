"""What is the client's fault: status 400 and one sentence on every endpoint, plain and streamed, never 500.

Each mistake is made on all endpoints that can have it; the server answers good requests afterwards.
"""

import base64
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support.endpoints import (
    CLIP,
    COUNT_ANTHROPIC,
    COUNT_RESPONSES,
    ENDPOINTS,
    ROOF,
    answer_text,
    called,
    conversation,
    question,
    user,
)
from support.pictures import MEDIA
from support.serving import ANTHROPIC, CHAT, RESPONSES, Server, data_uri, running_server, skip_without_server

skip_without_server()

STREAMED = (CHAT, RESPONSES, ANTHROPIC)
GOOD = MEDIA / "roof.png"


def encoded(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


class Pictures(BaseHTTPRequestHandler):
    """A picture at /good.png, pages that are none, and who asked for what."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body = {
            "/good.png": (200, GOOD.read_bytes()),
            "/page.png": (200, b"<html>no picture</html>"),
            "/half.png": (200, GOOD.read_bytes()[:3000]),
        }.get(self.path.partition("?")[0], (404, b"nothing here"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """Address of a server of pictures."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refused_everywhere(
    server: Server,
    make: Callable[[str], dict[str, Any]],
    *words: str,
    endpoints: tuple[str, ...] = ENDPOINTS,
    **fields: Any,
) -> None:
    """Fail unless every endpoint refuses what `make` makes for it with 400 and a sentence that holds `words`."""
    for endpoint in endpoints:
        for stream in (False, True) if endpoint in STREAMED else (False,):
            where = f"{endpoint}, streamed: {stream}"
            status, detail = server.refuse(endpoint, **make(endpoint), stream=stream, **fields)
            assert status == 400, f"{where}: {status} {detail}"
            assert not [word for word in words if word not in detail], f"{where}: {detail}"
            assert "\n" not in detail and len(detail) <= 400, f"{where}: {detail}"
            for foreign in ("unexpected error", "Generation failed", "400"):
                assert foreign not in detail, f"{where}: {detail}"
    for endpoint in endpoints:
        body = server.ask(endpoint, **question(endpoint, "Why?"))
        assert body["input_tokens"] if endpoint not in STREAMED else answer_text(endpoint, body)
    assert server.get("/metrics")["summary"]["in_flight"] == 0


IMAGES = {
    "truncated": (encoded(GOOD.read_bytes()[:2000]), "image 0", "cannot read"),
    "no image": (encoded(b"no picture at all"), "image 0", "cannot read"),
    "a document": (encoded(b"%PDF-1.7\n" + bytes(300)), "image 0", "cannot read"),
    "no bytes": (encoded(b"\n"), "image 0", "cannot read"),
    "no base64": ("data:image/png;base64,%%%", "image 0", "cannot read"),
    "no file": ("/nowhere/none.png", "image 0", "/nowhere/none.png"),
    "a folder": (str(MEDIA), "image 0", "cannot read"),
    "a long name": ("x" * 300_000, "image 0", "cannot read 'xxx"),
    "refused": ("http://127.0.0.1:9/none.png", "image 0", "http://127.0.0.1:9/none.png"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(server: Server, name: str) -> None:
    source, *words = IMAGES[name]
    refused_everywhere(server, lambda endpoint: question(endpoint, "What is it?", source), *words)


@pytest.mark.parametrize("page", ["none.png", "page.png", "half.png"])
def test_images_of_the_web(server: Server, web: str, page: str) -> None:
    """The first image is fine, the second is not."""
    sources = f"{web}/good.png", f"{web}/{page}"
    refused_everywhere(server, lambda endpoint: question(endpoint, "What is it?", *sources), "image 1", page)


PROMPTS: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "an image's placeholder": (lambda e: question(e, "<|image_pad|> or not?"), "1 <|image_pad|> placeholder, but 0"),
    "a video's placeholder": (lambda e: question(e, "<|video_pad|>", data_uri(ROOF)), "1 <|video_pad|> placeholder"),
    "one placeholder more": (lambda e: question(e, "<|image_pad|>", data_uri(ROOF)), "2 <|image_pad|>"),
    "no user message": (lambda e: conversation(e, [{"role": "assistant", "content": "Yes."}]), "no user message"),
    "half an emoji": (lambda e: question(e, "Why \ud83d?"), "half a character, '\\ud83d'"),
    "no pixel left": (lambda e: question(e, "?", data_uri(ROOF), resize_shape=[1, 1]), "resize_shape (1, 1)"),
    "a list of arguments": (lambda e: called(e, [1, 2] if "messages" in e else "[1, 2]"), "weather"),
    "a number of arguments": (lambda e: called(e, 5 if "messages" in e else "5"), "weather"),
    "a text of arguments": (lambda e: called(e, "dry" if "messages" in e else '"dry"'), "weather"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(server: Server, name: str) -> None:
    make, words = PROMPTS[name]
    refused_everywhere(server, make, words)


FIELDS = {
    "no format": ({"response_format": 5}, "response_format must be an object"),
    "another format": ({"response_format": {"type": "nope"}}, "Unsupported response_format type: 'nope'"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "must include a schema"),
    "a number for a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
        "the schema in response_format must be an object, not 5",
    ),
    "a schema of no type": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}},
        "nope",
    ),
    "a word for a token": ({"logit_bias": {"a": 1}}, "'a'"),
    "a word for a bias": ({"logit_bias": {"5": "x"}}, "logit_bias of token 5 must be a number, not 'x'"),
    "no bias": ({"logit_bias": {"5": None}}, "logit_bias of token 5 must be a number, not None"),
    "a list of biases": ({"logit_bias": [5]}, "logit_bias must be an object, not [5]"),
    "a token that there is not": ({"logit_bias": {"999999999": 5}}, "logit_bias has token 999999999"),
    "the token after the last": ({"logit_bias": {"512": 5}}, "logit_bias has token 512; there are 0 to 511"),
    "a token below zero": ({"logit_bias": {"-1": 5}}, "logit_bias has token -1"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(server: Server, name: str) -> None:
    """Fields that mlx-vlm knows: some of these values got 500, one ended the server."""
    fields, words = FIELDS[name]
    refused_everywhere(server, lambda endpoint: question(endpoint, "Why?"), words, **fields)


def test_system_only(server: Server) -> None:
    """OpenAI's clients may send such a request; Anthropic's have the system prompt beside the messages."""
    system = [{"role": "system", "content": "Be brief."}]
    for endpoints in ((CHAT,), (RESPONSES, COUNT_RESPONSES)):
        refused_everywhere(server, lambda e: conversation(e, system), "no user message", endpoints=endpoints)


@pytest.mark.parametrize("arguments", [[1, 2], 5, None, True], ids=repr)
def test_arguments_as_they_are(server: Server, arguments: Any) -> None:
    """Chats may hold a call's arguments as values instead of as JSON text."""
    refused_everywhere(server, lambda e: called(e, arguments), "weather", "must be an object", endpoints=(CHAT,))


@pytest.mark.parametrize("call", ["weather", 5, {"function": "weather"}, {"function": {}}, {"name": 5}], ids=repr)
def test_calls_that_are_none(server: Server, call: Any) -> None:
    turns = [user("Rain?"), {"role": "assistant", "content": "", "tool_calls": [call]}, user("And?")]
    refused_everywhere(server, lambda e: conversation(e, turns), "tool call", endpoints=(CHAT,))


def video(source: str, text: str = "What moves?", **fields: Any) -> dict[str, Any]:
    parts = [{"type": "video_url", "video_url": {"url": source}}, {"type": "text", "text": text}]
    return conversation(CHAT, [{"role": "user", "content": parts}], **fields)


VIDEOS = {
    "no file": (video("/nowhere/none.mp4"), "video 0: there is no file '/nowhere/none.mp4'"),
    "no clip": (video(str(Path(__file__))), "video 0"),
    "refused": (video("http://127.0.0.1:9/none.mp4"), "video 0: cannot open"),
    "two rates": (video(str(CLIP), fps=[1, 2]), "fps has 2 entries for 1 video"),
    "too many frames": (video(str(CLIP), nframes=31), "nframes = 31 is more than the 30 frames"),
    "placeholder": (video(str(CLIP), "<|video_pad|>"), "2 <|video_pad|>"),
    "no source": (
        conversation(
            CHAT, [{"role": "user", "content": [{"type": "video", "video": ""}, {"type": "text", "text": "?"}]}]
        ),
        "1 <|video_pad|> placeholder, but 0 videos",
    ),
    "sound": (
        conversation(
            CHAT,
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
                        {"type": "text", "text": "?"},
                    ],
                }
            ],
        ),
        "audio",
    ),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_videos(server: Server, name: str) -> None:
    body, words = VIDEOS[name]
    refused_everywhere(server, lambda endpoint: body, words, endpoints=(CHAT,))


def test_videos_that_would_be_lost(server: Server) -> None:
    """mlx-vlm's server takes videos in the user messages of chats and drops them elsewhere."""
    part = {"type": "video_url", "video_url": {"url": str(CLIP)}}
    content = [part, {"type": "text", "text": "What moves?"}]
    others = (RESPONSES, ANTHROPIC, COUNT_RESPONSES, COUNT_ANTHROPIC)
    messages = [{"role": "user", "content": content}]
    refused_everywhere(server, lambda e: conversation(e, messages), "takes no video", endpoints=others)
    for role in ("system", "assistant"):
        messages = [{"role": role, "content": content}, user("What moved?")]
        refused_everywhere(
            server, lambda e, m=messages: conversation(e, m), f"{role!r} takes no video", endpoints=(CHAT,)
        )


def test_too_long_for_the_server(folder: Path, tmp_path: Path) -> None:
    """mlx-vlm's own limit, which its streamed messages turn into 500."""
    with running_server(tmp_path, folder, "--max-kv-size", "64") as server:
        for endpoint in (RESPONSES, ANTHROPIC):
            for stream in (False, True):
                body = question(endpoint, "What is it?", data_uri(ROOF), max_tokens=40)
                status, detail = server.refuse(endpoint, **body, stream=stream)
                assert status == 400 and "400" not in detail, f"{endpoint}, streamed: {stream}: {status} {detail}"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_media_are_prepared_once(server: Server, web: str, stream: bool) -> None:
    """mlx-vlm asks for a request's inputs up to three times; its pictures are loaded once."""
    for endpoint in (CHAT, RESPONSES, ANTHROPIC):
        for source in (f"{web}/good.png?first", f"{web}/good.png?second"):  # two requests, each with its own
            Pictures.asked.clear()
            body = question(endpoint, "What is it?", source, stream=stream)
            with server.post(endpoint, **body) as response:
                response.read()
            assert Pictures.asked == [source.removeprefix(web)], f"{endpoint}, {source}"
