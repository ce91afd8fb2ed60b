"""mlx-vlm's server as users start it, on a free loopback port, and the answers that it should give.

The server is a subprocess in which only the `.pth` line imports this package. What it should answer comes from
`stream_generate` in this process.
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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import MEDIA, Picture
from mlx_vlm import stream_generate
from mlx_vlm.prompt_utils import apply_chat_template

START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 40, 120, 5

CHAT, RESPONSES, ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def skip_without_server() -> None:
    """Skip a test module where mlx-vlm's server cannot run."""
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            pytest.skip(f"mlx-vlm's server needs {package}", allow_module_level=True)


def environment() -> dict[str, str]:
    """This process's variables without those that change imports, this package or the server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MINICPMV46", "MLX_VLM", "APC_"))}
    return kept | {"HF_HUB_OFFLINE": "1", "no_proxy": "*"}


@dataclass(frozen=True)
class Server:
    """A running server and the model it serves."""

    address: str
    model: str
    log: Path
    pid: int

    def open(self, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        """Response to a request, not read yet: POST with a body, else GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        response: HTTPResponse = opener.open(request, timeout=ANSWER_SECONDS)
        return response

    def post(self, path: str = CHAT, **body: Any) -> HTTPResponse:
        """Response to a request, open; greedy, and in chats with log-probabilities, unless `body` says otherwise."""
        defaults = {"model": self.model, "temperature": 0} | ({"logprobs": True} if path == CHAT else {})
        return self.open(path, defaults | body)

    def ask(self, path: str = CHAT, **body: Any) -> dict[str, Any]:
        with self.post(path, **body) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def refuse(self, path: str = CHAT, **body: Any) -> tuple[int, str]:
        """Status and text of the error that a request gets."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.ask(path, **body)
        with caught.value as response:
            error = json.load(response)
            return response.code, error["detail"] if "detail" in error else error["error"]["message"]

    def stream(self, path: str = CHAT, **body: Any) -> list[dict[str, Any]]:
        """Data of all events of a streamed response."""
        with self.post(path, stream=True, **body) as response:
            return list(events(response))


def events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Data of server-sent events."""
    for line in lines:
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


@contextmanager
def running_server(folder: Path, model: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """A server of `model` with its log in `folder`, stopped at the end."""
    check = [sys.executable, "-c", "import sys; sys.exit('minicpmv46' not in sys.modules)"]
    if subprocess.run(check, env=environment(), cwd=folder, timeout=START_SECONDS).returncode:
        pytest.skip("this environment has minicpmv46's .pth file not installed (pip install -e .)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_vlm.server", "--model", str(model), "--host", "127.0.0.1"]
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--log-level", "WARNING", *flags],
            stdout=stream,
            stderr=stream,
            env=environment() | variables,
            cwd=folder,
        )
        server = Server(f"http://127.0.0.1:{port}", str(model), log, process.pid)
        try:
            wait_until_healthy(process, server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_SECONDS)


def wait_until_healthy(process: "subprocess.Popen[bytes]", server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with server.open("/health"):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the server did not start (status {process.poll()}):\n{server.log.read_text()[-4000:]}")


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer but its stop token, and how it ended."""

    ids: list[int]
    tokens: list[str]
    logprobs: list[float]
    text: str
    prompt_tokens: int
    finish_reason: str

    def check(self, body: dict[str, Any], what: str, tolerance: float = 1e-4) -> None:
        """Fail where a chat completion differs."""
        choice = body["choices"][0]
        content = choice["logprobs"]["content"]
        assert [entry["token"] for entry in content] == self.tokens, what
        logprobs = [entry["logprob"] for entry in content]
        np.testing.assert_allclose(logprobs, self.logprobs, atol=tolerance, err_msg=what)
        assert body["usage"]["prompt_tokens"] == self.prompt_tokens, what
        assert choice["finish_reason"] == self.finish_reason, what


def alone(loaded: tuple[Any, Any], prompt: str, max_tokens: int, **options: Any) -> Answer:
    """The answer of `stream_generate` to a rendered prompt."""
    model, processor = loaded
    *steps, last = stream_generate(model, processor, prompt, max_tokens=max_tokens, temperature=0.0, **options)
    return Answer(
        [step.token for step in steps],
        [processor.tokenizer.decode([step.token]) for step in steps],
        [float(step.logprobs[step.token]) for step in steps],
        "".join(step.text for step in (*steps, last)),
        last.prompt_tokens,
        last.finish_reason,
    )


def direct(
    loaded: tuple[Any, Any],
    messages: Any,
    max_tokens: int,
    enable_thinking: bool = False,
    tools: Any = None,
    **options: Any,
) -> Answer:
    """The answer to messages; `options` are media, processor options and further ones of `stream_generate`."""
    model, processor = loaded
    count = {"num_images": len(options.get("image", ()))} | ({"video": options["video"]} if "video" in options else {})
    prompt = apply_chat_template(
        processor, model.config, messages, enable_thinking=enable_thinking, tools=tools, **count
    )
    return alone(loaded, prompt, max_tokens, enable_thinking=enable_thinking, **options)


def png(picture: Picture) -> str:
    """A picture as base64."""
    buffer = io.BytesIO()
    picture.load().save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{png(picture)}"


def image(picture: Picture) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(picture)}}


def video(name: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": str(MEDIA / name)}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts) if not isinstance(parts[0], str) else parts[0]}


def streamed_tokens(chunks: Iterable[dict[str, Any]]) -> list[str]:
    """Token texts of a streamed chat completion."""
    return [entry["token"] for entry in streamed_entries(chunks)]


def streamed_entries(chunks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities of a streamed chat completion."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice.get("logprobs")]
    return [entry for choice in choices for entry in choice["logprobs"]["content"]]
