"""mlx-vlm's server as users start it, on a free loopback port, and the answers that it should give.

The server is a subprocess in which only the `.pth` line imports this package. What it should answer comes from
`stream_generate` in this process.
"""

import base64
import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm import stream_generate
from mlx_vlm.prompt_utils import apply_chat_template

from support.pictures import Picture
from support.running import environment, skip_without_hook

START_SECONDS, ANSWER_SECONDS, STOP_SECONDS = 40, 120, 5

CHAT, RESPONSES, ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def skip_without_server() -> None:
    """Skip a test module where mlx-vlm's server cannot run."""
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            pytest.skip(f"mlx-vlm's server needs {package}", allow_module_level=True)


@dataclass(frozen=True)
class Server:
    """A running server and the model it serves."""

    address: str
    model: str
    log: Path
    pid: int

    def open(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> HTTPResponse:
        """Response to a request, not read yet: POST with a body, else GET."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.address}{path}", data, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        response: HTTPResponse = opener.open(request, timeout=ANSWER_SECONDS)
        return response

    def get(self, path: str) -> dict[str, Any]:
        with self.open(path) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

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
    skip_without_hook(folder)
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
            env=environment() | {"no_proxy": "*"} | variables,
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

    @property
    def plain(self) -> str:
        """The text, which must not think: a server would take that part out of it."""
        assert "think>" not in self.text, "this answer of the random model thinks: ask it another question"
        return readable(self.text)


def readable(text: str) -> str:
    """A text without bytes that are no UTF-8, for which mlx-vlm's server writes U+FFFD and `generate` nothing."""
    return text.replace("\ufffd", "").strip()


def alone(loaded: tuple[Any, Any], prompt: str, max_tokens: int, **options: Any) -> Answer:
    """The answer of `stream_generate` to a rendered prompt."""
    model, processor = loaded
    *steps, last = stream_generate(model, processor, prompt, max_tokens=max_tokens, temperature=0.0, **options)
    return Answer(
        [processor.tokenizer.decode([step.token]) for step in steps],
        [float(step.logprobs[step.token]) for step in steps],
        "".join(step.text for step in (*steps, last)),
        last.prompt_tokens,
        last.finish_reason,
    )


Part = str | Picture | Path  # a text, an image, a video file


@dataclass(frozen=True)
class Request:
    """A chat request to the server, and the same one for `stream_generate`.

    Attributes:
        turns: roles and what they say; a single text is plain content, everything else a list of parts.
        options: processor options, `resize_shape` or `thinking_budget`, which are called the same in both.
        thinking: what `enable_thinking` is, not sent where it is None.
    """

    turns: tuple[tuple[str, tuple[Part, ...]], ...]
    max_tokens: int = 6
    options: dict[str, Any] = field(default_factory=dict)
    thinking: bool | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Messages as OpenAI's clients send them."""
        return [{"role": role, "content": _content(parts)} for role, parts in self.turns]

    @property
    def body(self) -> dict[str, Any]:
        """The request's own fields."""
        body = {"messages": self.messages, "max_tokens": self.max_tokens, **self.options}
        return body if self.thinking is None else {**body, "enable_thinking": self.thinking}

    def answer(self, loaded: tuple[Any, Any]) -> Answer:
        """The answer of `stream_generate`."""
        model, processor = loaded
        parts = [part for _, said in self.turns for part in said]
        images = [part.load() for part in parts if isinstance(part, Picture)]
        videos = [str(part) for part in parts if isinstance(part, Path)]
        media = ({"image": images} if images else {}) | ({"video": videos} if videos else {})
        prompt = apply_chat_template(
            processor, model.config, self.messages, enable_thinking=bool(self.thinking), num_images=len(images)
        )
        return alone(loaded, prompt, self.max_tokens, enable_thinking=bool(self.thinking), **media, **self.options)


def asked(*parts: Part, max_tokens: int = 6, thinking: bool | None = None, **options: Any) -> Request:
    """A request of one user turn."""
    return Request((("user", parts),), max_tokens, options, thinking)


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Path):
        return {"type": "video_url", "video_url": {"url": str(part)}}
    return {"type": "image_url", "image_url": {"url": data_uri(part)}}


@cache
def png(picture: Picture) -> str:
    """A picture as base64."""
    buffer = io.BytesIO()
    picture.load().save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def data_uri(picture: Picture) -> str:
    return f"data:image/png;base64,{png(picture)}"


def gathered(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The chat completion that a stream of chunks amounts to."""
    body: dict[str, Any] = {"usage": None}
    entries, texts, reason = [], {"content": "", "reasoning_content": ""}, None
    for chunk in chunks:
        body["usage"] = chunk.get("usage") or body["usage"]
        for choice in chunk["choices"]:
            entries += (choice.get("logprobs") or {}).get("content", [])
            reason = choice["finish_reason"] or reason
            for name in texts:
                texts[name] += choice["delta"].get(name) or ""
    return body | {"choices": [{"message": texts, "logprobs": {"content": entries}, "finish_reason": reason}]}


# In the base template: where the first turn starts, where a turn of another role is refused, where one is written.
_FIRST_TURN = "{%- for turn in messages -%}\n  {%- set body = joined(turn) | trim -%}\n"
_OTHER_ROLE = "{%- elif turn.role not in ['system', 'user'] -%}"
_WRITTEN = "{{- '<|im_start|>' + turn.role + '\\n' + body + '<|im_end|>\\n' -}}"


def template_with_tools(template: str) -> str:
    """The small checkpoints' template with tools, which it writes and expects as the official one does."""
    for anchor in (_FIRST_TURN, _OTHER_ROLE, _WRITTEN):
        assert template.count(anchor) == 1, anchor
    head = """{%- if tools -%}
  {{- '<|im_start|>system\\nTools:' -}}
  {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
  {{- '\\nWrite:\\n<tool_call>\\n<function=NAME>\\n<parameter=KEY>\\nVALUE\\n</parameter>\\n' -}}
  {{- '</function>\\n</tool_call>' -}}
  {%- if messages[0].role == 'system' -%}{{- '\\n' + joined(messages[0]) | trim -}}{%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endif -%}
"""
    written = """{%- if turn.role == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>\\n' + body + '\\n</tool_response><|im_end|>\\n' -}}
  {%- elif turn.role != 'system' or not tools -%}
    {{- '<|im_start|>' + turn.role + '\\n' + body -}}
    {%- for call in turn.tool_calls or [] -%}
      {%- set call = call.function or call -%}
      {{- '<tool_call>\\n<function=' + call.name + '>\\n' -}}
      {%- for key, value in call.arguments | items -%}
        {%- set value = value if value is string else value | tojson -%}
        {{- '<parameter=' + key + '>\\n' + value + '\\n</parameter>\\n' -}}
      {%- endfor -%}
      {{- '</function>\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- endif -%}"""
    template = template.replace(_FIRST_TURN, head + _FIRST_TURN).replace(_WRITTEN, written)
    return template.replace(_OTHER_ROLE, _OTHER_ROLE.replace("'user']", "'user', 'tool']"))
