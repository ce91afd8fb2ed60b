"""Tool calls in answers: mlx-vlm's server finds them in the text that our processor's tokenizer makes of tokens.

Random weights call no tools, so here the endpoints run in this process on a scripted answer, given token by token
through mlx-vlm's own detokenizer; the prompts' side of tools is in `test_server_endpoints.py`.
"""

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mlx_vlm.utils import load_processor
from support import tiny
from support.serving import events, skip_without_server, template_with_tools

from minicpmv46.processing import Processor

skip_without_server()

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "units": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
    }
    for name in ("weather", "time")
]


def call(name: str, **parameters: str) -> str:
    """A tool call as the official template describes it to the model."""
    lines = [f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items()]
    return f"<tool_call>\n<function={name}>\n{''.join(lines)}</function>\n</tool_call>"


WEATHER = call("weather", city="Ulm\nand Köln", days="3", units='["°C", "mm"]')
WEATHER_ARGUMENTS = {"city": "Ulm\nand Köln", "days": 3, "units": ["°C", "mm"]}
# Answer of the model, whether it thinks first; then its thoughts, its text and its calls.
ANSWERS = {
    "no call": ("It is dry.", False, "", "It is dry.", []),
    "call": (WEATHER, False, "", "", [("weather", WEATHER_ARGUMENTS)]),
    "text and call": (f"Let me look.\n\n{WEATHER}", False, "", "Let me look.", [("weather", WEATHER_ARGUMENTS)]),
    "two calls": (
        f"{WEATHER}\n{call('time', city='Rome')}",
        *(False, "", ""),
        [("weather", WEATHER_ARGUMENTS), ("time", {"city": "Rome"})],
    ),
    "call without parameters": (call("time"), False, "", "", [("time", {})]),
    "call after thoughts": (
        f"I need <b>weather</b>.\n</think>\n\n{WEATHER}",
        *(True, "I need <b>weather</b>.", ""),
        [("weather", WEATHER_ARGUMENTS)],
    ),
}


class Scripted:
    """In the place of the server's generator: a fixed answer, a token at a time."""

    def __init__(self, processor: Processor, text: str) -> None:
        self.processor, self.tokenizer, self.text = processor, processor.tokenizer, text

    def generate(self, *args: Any, **kwargs: Any) -> tuple[Any, Iterator[Any]]:
        return SimpleNamespace(uid=0, prompt_tokens=7), self.answer()

    def answer(self) -> Iterator[Any]:
        from mlx_vlm.server.generation import StreamingToken
        from mlx_vlm.tokenizer_utils import _ServerTokenStreamer, make_streaming_detokenizer

        streamer = _ServerTokenStreamer(self.tokenizer, make_streaming_detokenizer(self.processor))
        tokens = self.tokenizer.encode(f"{self.text}<|im_end|>", add_special_tokens=False)
        for i, token in enumerate(tokens):
            reason = "stop" if i == len(tokens) - 1 else None
            yield StreamingToken(streamer.advance(token, reason), token, 0.0, reason)

    def _cpu_preprocess(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"input_ids": [0] * 7}

    def validate_context_budget(self, *args: Any, **kwargs: Any) -> None:
        pass


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tiny.make_checkpoint(tmp_path_factory.mktemp("tools"))
    template = folder / "chat_template.jinja"
    template.write_text(template_with_tools(template.read_text()))
    processor: Processor = load_processor(folder)
    return processor


@pytest.fixture(params=ANSWERS)
def scripted(request: pytest.FixtureRequest, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """One of the answers above; the server's endpoints give it."""
    import mlx_vlm.server
    from mlx_vlm.server import anthropic, openai

    text, *wanted = ANSWERS[request.param]
    model = SimpleNamespace(config=SimpleNamespace(model_type="minicpmv4_6"))
    for module in (openai, anthropic):
        monkeypatch.setattr(module, "get_cached_model", lambda *args, **kwargs: (model, processor, model.config))
    monkeypatch.setattr(mlx_vlm.server.runtime, "response_generator", Scripted(processor, text))
    return tuple(wanted)


class HTTPRequest:
    """What the endpoints ask of an HTTP request."""

    headers: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body

    async def json(self) -> dict[str, Any]:
        return self.body


def streamed(endpoint: Any) -> list[dict[str, Any]]:
    """Data of the events of an endpoint's streaming response."""

    async def collect() -> list[bytes]:
        response = await endpoint
        return [part.encode() if isinstance(part, str) else part async for part in response.body_iterator]

    return list(events(line for part in asyncio.run(collect()) for line in part.splitlines()))


def merged(deltas: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Calls that arrived in pieces, arguments as JSON text."""
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        own = calls.setdefault(delta["index"], ["", ""])
        own[0] += delta["function"].get("name") or ""
        own[1] += delta["function"]["arguments"]
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


def chat(thinks: bool, **fields: Any) -> Any:
    from mlx_vlm.server.openai import chat_completions_endpoint
    from mlx_vlm.server.schemas import ChatRequest

    messages = [{"role": "user", "content": "Rain?"}]
    request = ChatRequest(model="m", messages=messages, tools=TOOLS, enable_thinking=thinks, **fields)
    return chat_completions_endpoint(request, HTTPRequest({}))


def test_chat_completions(scripted: tuple[Any, ...]) -> None:
    thinks, thoughts, content, calls = scripted
    [choice] = asyncio.run(chat(thinks)).choices
    assert (choice.message.reasoning_content or "", choice.message.content or "") == (thoughts, content)
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    made = [call["function"] for call in choice.message.tool_calls or []]
    assert [(call["name"], json.loads(call["arguments"])) for call in made] == calls

    choices = [choice for chunk in streamed(chat(thinks, stream=True)) for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("reasoning_content") or "" for choice in choices).strip() == thoughts
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == content
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == [
        "tool_calls" if calls else "stop"
    ]
    deltas = [delta for choice in choices for delta in choice["delta"].get("tool_calls") or []]
    assert merged(deltas) == calls
    assert len(deltas) >= 4 * sum("city" in arguments for _, arguments in calls), "arguments did not come in pieces"


def test_responses(scripted: tuple[Any, ...]) -> None:
    from mlx_vlm.server.openai import responses_endpoint

    thinks, thoughts, content, calls = scripted
    tools = [{"type": "function", **tool["function"]} for tool in TOOLS]
    body = {"model": "m", "input": "Rain?", "tools": tools, "enable_thinking": thinks}
    whole = asyncio.run(responses_endpoint(HTTPRequest(body))).model_dump()
    done = streamed(responses_endpoint(HTTPRequest({**body, "stream": True})))
    for response in (whole, done[-1]["response"]):
        made = [item for item in response["output"] if item["type"] == "function_call"]
        assert [(call["name"], json.loads(call["arguments"])) for call in made] == calls
        assert response["output_text"] == content
        summaries = [item["summary"][0]["text"] for item in response["output"] if item["type"] == "reasoning"]
        assert "".join(summaries) == thoughts
    pieces: dict[str, str] = {}
    for event in done:
        if event["type"] == "response.function_call_arguments.delta":
            pieces[event["item_id"]] = pieces.get(event["item_id"], "") + event["delta"]
    assert [json.loads(text) for text in pieces.values()] == [arguments for _, arguments in calls]


def test_anthropic_messages(scripted: tuple[Any, ...]) -> None:
    from mlx_vlm.server.anthropic import anthropic_messages_endpoint

    thinks, thoughts, content, calls = scripted
    tools = [
        {"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"], "description": ""}
        for tool in TOOLS
    ]
    messages = [{"role": "user", "content": "Rain?"}]
    thinking = {"type": "enabled" if thinks else "disabled"}
    body = {"model": "m", "messages": messages, "tools": tools, "thinking": thinking, "max_tokens": 99}
    blocks = asyncio.run(anthropic_messages_endpoint(HTTPRequest(body))).model_dump()["content"]
    made = [block for block in blocks if block["type"] == "tool_use"]
    assert [(call["name"], call["input"]) for call in made] == calls
    assert "".join(block["text"] for block in blocks if block["type"] == "text") == content
    assert "".join(block["thinking"] for block in blocks if block["type"] == "thinking") == thoughts

    done = streamed(anthropic_messages_endpoint(HTTPRequest({**body, "stream": True})))
    started = {e["index"]: e["content_block"] for e in done if e["type"] == "content_block_start"}
    texts: dict[int, str] = {}
    for event in (event for event in done if event["type"] == "content_block_delta"):
        delta = event["delta"]
        text = delta.get("text", "") + delta.get("thinking", "") + delta.get("partial_json", "")
        texts[event["index"]] = texts.get(event["index"], "") + text
    of_type = {
        kind: [(started[i], text) for i, text in texts.items() if started[i]["type"] == kind]
        for kind in ("text", "thinking", "tool_use")
    }
    assert [(block["name"], json.loads(text)) for block, text in of_type["tool_use"]] == calls
    assert "".join(text for _, text in of_type["text"]) == content
    assert "".join(text for _, text in of_type["thinking"]).strip() == thoughts
