"""mlx-vlm's server as users start it, on loopback, and the answers to expect of it.

The server is a subprocess in which only the `.pth` line imports this package. What it must answer is what
`stream_generate` in this process answers to the request alone.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Picture
from mlx_vlm import stream_generate
from mlx_vlm.prompt_utils import apply_chat_template

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
    pid: int

    def post(self, path: str = "/v1/chat/completions", **body: Any) -> Any:
        """Response to a request, open; greedy unless `body` says otherwise."""
        request = urllib.request.Request(
            f"{self.address}{path}",
            json.dumps({"model": self.model, "temperature": 0, **body}).encode(),
            {"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=ANSWER_SECONDS)

    def ask(self, **body: Any) -> dict[str, Any]:
        """Answer to a chat request, with log-probabilities unless `body` has another path."""
        defaults = {} if "path" in body else {"logprobs": True}
        try:
            with self.post(**defaults, **body) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            error.msg = error.read().decode()  # what a failing test prints
            raise

    def stream(self, **body: Any) -> Any:
        """Response to a chat request that streams, open."""
        return self.post(logprobs=True, stream=True, **body)

    def refuse(self, **body: Any) -> tuple[int, str]:
        """Status and text of the error that a request gets."""
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.ask(**body)
        with caught.value as response:
            error = json.loads(response.msg)
            return response.code, error["detail"] if "detail" in error else error["error"]["message"]


@contextmanager
def serve(model: Path, folder: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """A server for the length of a `with` block; `folder` takes its log, `variables` join its environment."""
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            pytest.skip(f"mlx-vlm's server needs {package}")
    check = [sys.executable, "-c", "import sys; sys.exit('minicpmv46' not in sys.modules)"]
    if subprocess.run(check, env=environment(), cwd=folder, timeout=START_SECONDS).returncode:
        pytest.skip("this environment has minicpmv46's .pth file not installed (pip install -e .)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlx_vlm.server", "--model", str(model)),
                *("--host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING", *flags),
            ],
            stdout=stream,
            stderr=stream,
            env=environment() | variables,
            cwd=folder,
        )
        try:
            wait_until_healthy(process, f"http://127.0.0.1:{port}", log)
            yield Server(f"http://127.0.0.1:{port}", str(model), process.pid)
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
