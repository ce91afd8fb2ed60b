"""What the tests of the server ask of its endpoints, and how they read the answers."""

from typing import Any

from pictures import MEDIA, Picture
from serving import ANTHROPIC, CHAT, RESPONSES, Answer, data_uri, png, readable

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
