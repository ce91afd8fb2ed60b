"""What the tests of the server ask of its endpoints, and how they read the answers."""

from typing import Any

from support.pictures import MEDIA, Picture
from support.serving import ANTHROPIC, CHAT, RESPONSES, Answer, data_uri, png, readable

COUNT_ANTHROPIC, COUNT_RESPONSES = f"{ANTHROPIC}/count_tokens", f"{RESPONSES}/input_tokens"
ENDPOINTS = (CHAT, RESPONSES, ANTHROPIC, COUNT_RESPONSES, COUNT_ANTHROPIC)
ROOF, FLOWER, PAGE = Picture("roof.png"), Picture("flower.png"), Picture("page.png")
WAVES = Picture("waves", (60, 200))
CLIP, JUMP = MEDIA / "pan_short.mp4", MEDIA / "jump.mp4"
TOP = 5


HELLO = {"role": "user", "content": "Hello!"}
RESPONSE_IMAGE = [
    {"type": "input_image", "image_url": data_uri(ROOF)},
    {"type": "input_text", "text": "What is this?"},
]
ANTHROPIC_IMAGE = [
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png(ROOF)}},
    {"type": "text", "text": "What is this?"},
]


OPENAI = (RESPONSES, COUNT_RESPONSES)  # with `input` items; the others have `messages`


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def split(text: str, thinking: bool) -> tuple[str, str]:
    """What a text says before and after its thoughts end."""
    before, end, after = text.partition("</think>")
    if not end and (thinking or "<think>" in text):
        before, after = text, ""
    elif not end:
        before, after = "", text
    return readable(before.replace("<think>", "")), readable(after)


def check_response(body: dict[str, Any], expected: Answer) -> None:
    assert readable(body["output_text"]) == expected.plain
    assert body["usage"]["input_tokens"] == expected.prompt_tokens
    assert body["usage"]["output_tokens"] == len(expected.tokens)
    assert body["status"] == {"length": "incomplete", "stop": "completed"}[expected.finish_reason]


def check_response_stream(events: list[dict[str, Any]], expected: Answer) -> None:
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 1
    assert readable("".join(deltas)) == expected.plain
    check_response(events[-1]["response"], expected)


def image_part(endpoint: str, source: str) -> dict[str, Any]:
    """An image by its URL, path or data URI, as the clients of an endpoint send it."""
    if endpoint == CHAT:
        return {"type": "image_url", "image_url": {"url": source}}
    if endpoint in OPENAI:
        return {"type": "input_image", "image_url": source}
    head, _, data = source.partition(",")
    if head.startswith("data:"):
        media_type = head.removeprefix("data:").removesuffix(";base64")
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    return {"type": "image", "source": {"type": "url", "url": source}}


def question(endpoint: str, text: str, *images: str, max_tokens: int = 3, **fields: Any) -> dict[str, Any]:
    """A request of one user turn, images first, with more fields."""
    kind = "input_text" if endpoint in OPENAI else "text"
    parts = [*(image_part(endpoint, source) for source in images), {"type": kind, "text": text}]
    return conversation(endpoint, [{"role": "user", "content": parts}], max_tokens=max_tokens, **fields)


def conversation(endpoint: str, messages: list[dict[str, Any]], max_tokens: int = 3, **fields: Any) -> dict[str, Any]:
    if endpoint in OPENAI:
        return {"input": messages, "max_output_tokens": max_tokens, **fields}
    return {"messages": messages, "max_tokens": max_tokens, **fields}


def called(endpoint: str, arguments: Any) -> dict[str, Any]:
    """A request whose history has a tool call with these arguments and its result."""
    name = "weather"
    if endpoint == CHAT:
        call = {"type": "function", "id": "1", "function": {"name": name, "arguments": arguments}}
        turns = [{"role": "assistant", "content": "", "tool_calls": [call]}]
        turns += [{"role": "tool", "tool_call_id": "1", "content": "dry"}]
    elif endpoint in OPENAI:
        turns = [{"type": "function_call", "call_id": "1", "name": name, "arguments": arguments}]
        turns += [{"type": "function_call_output", "call_id": "1", "output": "dry"}]
    else:
        use = {"type": "tool_use", "id": "1", "name": name, "input": arguments}
        turns = [{"role": "assistant", "content": [use]}]
        turns += [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "dry"}]}]
    return conversation(endpoint, [user("Rain?"), *turns])


def answer_text(endpoint: str, body: dict[str, Any]) -> str:
    """What an endpoint answered, without thoughts."""
    if endpoint == CHAT:
        return str(body["choices"][0]["message"]["content"])
    if endpoint == RESPONSES:
        return str(body["output_text"])
    return "".join(block.get("text", "") for block in body["content"])


def arguments(processor: Any, messages: list[dict[str, Any]], **fields: Any) -> Any:
    """mlx-vlm's arguments of a chat request, built in this process."""
    from mlx_vlm.server.request_normalization import _build_gen_args
    from mlx_vlm.server.schemas import ChatRequest

    return _build_gen_args(ChatRequest(model="m", messages=messages, **fields), processor)
