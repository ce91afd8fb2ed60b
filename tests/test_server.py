"""mlx-vlm's server as users start it, on loopback: every request gets the answer it gets alone.

Tokens and log-probabilities are compared with `generate` in this process. The server is a subprocess in which only
the `.pth` line imports this package.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import golden_data
import numpy as np
import pytest
from cases import BY_NAME, MEDIA, Picture
from mlx_vlm import load, stream_generate
from mlx_vlm.prompt_utils import apply_chat_template

for package in ("fastapi", "uvicorn"):
    if find_spec(package) is None:
        pytest.skip(f"mlx-vlm's server needs {package}", allow_module_level=True)

START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 40, 60, 5


def environment() -> dict[str, str]:
    """This process's variables without those that change imports, this package or the server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MINICPMV46", "MLX_VLM", "APC_"))}
    return kept | {"HF_HUB_OFFLINE": "1", "no_proxy": "*"}


@dataclass(frozen=True)
class Server:
    """A running server and the model it serves."""

    address: str
    model: str

    def post(self, **body: Any) -> Any:
        """Response to a chat request, open; greedy and with log-probabilities unless `body` says otherwise."""
        body = {"model": self.model, "temperature": 0, "logprobs": True, **body}
        request = urllib.request.Request(
            f"{self.address}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=ANSWER_SECONDS)

    def ask(self, **body: Any) -> dict[str, Any]:
        with self.post(**body) as response:
            return json.load(response)

    def refuse(self, **body: Any) -> tuple[int, str]:
        """Status and text of the error that a request gets."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.ask(**body)
        with caught.value as response:
            return response.code, json.load(response)["detail"]


@pytest.fixture(scope="module")
def server(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    check = [sys.executable, "-c", "import sys; sys.exit('minicpmv46' not in sys.modules)"]
    if subprocess.run(check, env=environment(), cwd=folder, timeout=START_SECONDS).returncode:
        pytest.skip("this environment has minicpmv46's .pth file not installed (pip install -e .)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = str(checkpoint("base"))
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlx_vlm.server", "--model", model),
                *("--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"),
            ],
            stdout=stream,
            stderr=stream,
            env=environment(),
            cwd=folder,
        )
        try:
            wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
            yield Server(f"http://127.0.0.1:{port}", model)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


def wait_until_healthy(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with opener.open(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start (status {process.poll()}):\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """The same model and processor in this process."""
    return load(str(checkpoint("base")))


@dataclass(frozen=True)
class Answer:
    """Texts and log-probabilities of the tokens but the stop token, and how the answer ended."""

    tokens: list[str]
    logprobs: list[float]
    prompt_tokens: int
    finish_reason: str

    def check(self, body: dict[str, Any], what: str) -> None:
        """Fail where the server's response differs."""
        choice = body["choices"][0]
        content = choice["logprobs"]["content"]
        assert [entry["token"] for entry in content] == self.tokens, what
        np.testing.assert_allclose([entry["logprob"] for entry in content], self.logprobs, atol=1e-3, err_msg=what)
        assert body["usage"]["prompt_tokens"] == self.prompt_tokens, what
        assert choice["finish_reason"] == self.finish_reason, what


def direct(
    loaded: tuple[Any, Any], messages: Any, max_tokens: int, enable_thinking: bool = False, **media: Any
) -> Answer:
    """The answer of `stream_generate` to a request of its own."""
    model, processor = loaded
    count = {"num_images": len(media.get("image", ()))} | ({"video": media["video"]} if "video" in media else {})
    prompt = apply_chat_template(processor, model.config, messages, enable_thinking=enable_thinking, **count)
    *steps, last = stream_generate(model, processor, prompt, max_tokens=max_tokens, temperature=0.0, **media)
    return Answer(
        [processor.tokenizer.decode([step.token]) for step in steps],
        [float(step.logprobs[step.token]) for step in steps],
        last.prompt_tokens,
        last.finish_reason,
    )


def data_uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    picture.load().save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image(picture: Picture) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(picture)}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts) if not isinstance(parts[0], str) else parts[0]}


def streamed_tokens(lines: Iterable[bytes]) -> list[str]:
    """Token texts of a streamed response."""
    chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice.get("logprobs")]
    return [entry["token"] for choice in choices for entry in choice["logprobs"]["content"]]


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
        "video": Request(
            [user({"type": "video_url", "video_url": {"url": clip}}, text("What moves?"))], 6, {}, {"video": [clip]}
        ),
    }


def test_requests_queued_behind_a_running_one(server: Server, loaded: tuple[Any, Any]) -> None:
    """Texts, images, a chat and a video of all lengths join a long answer; each gets what it gets alone."""
    long_messages = [user("Why?")]
    asked = requests()
    with ThreadPoolExecutor(len(asked)) as pool:
        stream = server.post(messages=long_messages, max_tokens=300, stream=True)
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


def test_image_options_of_a_request(server: Server, loaded: tuple[Any, Any]) -> None:
    """mlx-vlm's server hands no processor option but `resize_shape` on: a request is answered in one mode throughout.

    It accepts unknown fields; should it begin to pass them on, the answer has to be the 4x one.
    """
    messages = [user(image(ROOF), text("What is this?"))]
    body = server.ask(messages=messages, max_tokens=6, downsample_mode="4x", max_slice_nums=1)
    modes = {
        mode: direct(loaded, messages, 6, image=[ROOF.load()], downsample_mode=mode, max_slice_nums=1)
        for mode in ("16x", "4x")
    }
    counts = {answer.prompt_tokens: answer for answer in modes.values()}
    assert len(counts) == 2
    counts[body["usage"]["prompt_tokens"]].check(body, "one of both modes")


def test_bad_requests_hurt_nobody_else(server: Server, loaded: tuple[Any, Any]) -> None:
    """Requests that cannot be answered say why in a sentence; one that runs beside them goes on."""
    running = server.post(messages=[user("Why?")], max_tokens=120, stream=True)
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
