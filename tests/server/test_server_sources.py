"""Where a chat's pictures and clips may come from, and what is refused, before FFmpeg sees it."""

import base64
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from support.endpoints import CLIP
from support.pictures import MEDIA
from support.serving import CHAT, Server, skip_without_server

skip_without_server()

PICTURE = MEDIA / "roof.png"
OPTIONS: dict[str, Any] = {"max_tokens": 4, "max_num_frames": 2, "max_slice_nums": 1}


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The media over http."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(MEDIA)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def chat(kind: str, url: str) -> dict[str, Any]:
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}], **OPTIONS}


@pytest.mark.parametrize(("kind", "path"), [("image", PICTURE), ("video", CLIP)], ids=["image", "video"])
def test_every_form_gives_the_same_answer(server: Server, site: str, kind: str, path: Any) -> None:
    data = base64.b64encode(path.read_bytes()).decode()
    uri = f"data:{'image/png' if kind == 'image' else 'video/mp4'};base64,{data}"
    answers = [
        server.ask(CHAT, **chat(kind, url))["choices"][0]["logprobs"]["content"]
        for url in (str(path), path.absolute().as_uri(), f"{site}/{path.name}", uri)
    ]
    assert all(answer == answers[0] for answer in answers[1:]) and answers[0]


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize(
    "url",
    ["tcp://127.0.0.1:1/a.mp4?listen", "rtsp://127.0.0.1/a", f"cache:file://{CLIP}", f"concat:{CLIP}", "/dev/zero"],
)
def test_other_sources_are_bad_requests(server: Server, kind: str, url: str) -> None:
    for stream in (False, True):
        status, sentence = server.refuse(CHAT, **chat(kind, url), stream=stream)
        assert status == 400 and f"{kind} 0" in sentence and len(sentence) < 500
