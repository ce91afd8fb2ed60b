"""examples/serve.sh: only this machine, only with the key, within the limits, and no model but the one it was given."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.examples import DEMO, EXAMPLES, variables
from support.serving import CHAT, START_SECONDS, STOP_SECONDS, skip_without_server

from minicpmv46.demo import sample

skip_without_server()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str, Path]]:
    """Address, key, model and log of a server of a folder with a space in its name."""
    folder = tmp_path_factory.mktemp("serve")
    model = shutil.copytree(DEMO, folder / "my model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    command = ["bash", str(EXAMPLES / "serve.sh"), str(model), str(port), "--max-kv-size", "4096"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=variables(), cwd=folder)
    try:
        deadline = time.monotonic() + 2 * START_SECONDS
        while "Application startup complete" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        key = log.read_text().split("MLX_VLM_SERVER_API_KEY=", 1)[1].split()[0]
        yield f"http://127.0.0.1:{port}", key, str(model), log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)


def ask(address: str, key: str | None, **body: Any) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{address}{CHAT}", json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_serve(served: tuple[str, str, str, Path]) -> None:
    address, key, model, log = served
    text = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
    assert ask(address, None, **text) == (401, {"detail": "Invalid API key"})
    assert ask(address, "guessed", **text) == (401, {"detail": "Invalid API key"})
    assert f"Uvicorn running on {address} " in log.read_text()

    parts = [
        {"type": "image_url", "image_url": {"url": sample("read.png")}},
        {"type": "text", "text": "Read the text."},
    ]
    pictured = {"model": model, "messages": [{"role": "user", "content": parts}]}
    for body, expected in ((text, "Hello!"), (pictured, "K7RM2")):
        status, answer = ask(address, key, **body, max_tokens=10**6)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, expected)
        # The context is for prompt and answer together, whatever is asked for.
        prompt = answer["usage"]["prompt_tokens"]
        assert f"prompt_tokens={prompt} max_tokens={4096 - prompt} " in log.read_text()
    status, refused = ask(address, key, **pictured, max_slice_nums=37)
    assert (status, refused["detail"].split("(")[0].strip()) == (
        400,
        "max_slice_nums is 37, more than the limit slices = 36",
    )

    # The process list shows the command, not the key.
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    assert model in listed
    assert key not in listed

    # A request that names another model gets no download.
    status, refused = ask(address, key, **text | {"model": "no-such-owner/no-such-model"})
    assert status == 400
    assert "Failed to load model" in refused["detail"]


def test_no_model() -> None:
    command = ["bash", str(EXAMPLES / "serve.sh")]
    answer = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert answer.returncode != 0
    assert "which model?" in answer.stderr
