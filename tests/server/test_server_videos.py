"""Videos of chats: mlx-vlm's server takes them out of the messages, and each comes back to its place."""

import json
from typing import Any

import pytest
from mlx_vlm.prompt_utils import apply_chat_template
from support.endpoints import CLIP, ROOF, arguments, user
from support.serving import data_uri, skip_without_server

skip_without_server()

VIDEO = {"type": "video_url", "video_url": {"url": str(CLIP)}}
IMAGE = {"type": "image_url", "image_url": {"url": data_uri(ROOF)}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def rendered(
    loaded: tuple[Any, Any], messages: list[dict[str, Any]], *, tool_choice: Any = None, **fields: Any
) -> tuple[str, list[dict[str, Any]]]:
    """The prompt of a chat as mlx-vlm's endpoint makes it, and the messages that it makes on the way."""
    from mlx_vlm.server.request_normalization import _chat_message_to_prompt, _normalize_instruction_messages
    from mlx_vlm.server.schemas import ChatRequest
    from mlx_vlm.tools import _prepare_chat_tool_choice

    model, processor = loaded
    request = ChatRequest(model="m", messages=messages, **fields)
    made = [_chat_message_to_prompt(message.model_dump(exclude_none=True)) for message in request.messages]
    _normalize_instruction_messages(made)
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
    if tool_choice is not None:
        made, _, _ = _prepare_chat_tool_choice(made, tools, tool_choice)
    ours = arguments(processor, messages, **fields)
    images = json.dumps(messages).count('"image_url": {')
    videos = [str(CLIP)] * json.dumps(messages).count('"video_url": {')
    prompt = apply_chat_template(
        processor, model.config, made, num_images=images, video=videos or None, **ours.to_template_kwargs()
    )
    return prompt, made


VIDEO_CHATS: dict[str, list[dict[str, Any]]] = {
    "before and after": [{"role": "user", "content": [text("Look:"), VIDEO, text("what moves?")]}],
    "with an image": [{"role": "user", "content": [VIDEO, text("and"), IMAGE, text("compare")]}],
    "the first turn's": [
        {"role": "user", "content": [VIDEO, text("What?")]},
        {"role": "assistant", "content": "A car."},
        user("And where?"),
    ],
    "the second turn's": [
        user("Hello!"),
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [text("This one"), VIDEO]},
    ],
    "systems between": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [IMAGE, text("What?")]},
        {"role": "assistant", "content": "A roof."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [text("And"), VIDEO, VIDEO, text("these?")]},
    ],
    "tools between": [
        {"role": "user", "content": [text("See"), VIDEO, text("and tell the weather.")]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]},
        {"role": "tool", "content": "dry"},
        user("And tomorrow?"),
    ],
}


@pytest.mark.parametrize("name", VIDEO_CHATS)
def test_videos_stay_where_they_are(loaded: tuple[Any, Any], name: str) -> None:
    """mlx-vlm's server takes videos out of the messages; each comes back to its place."""
    _, processor = loaded
    messages = VIDEO_CHATS[name]
    prompt, made = rendered(loaded, messages)
    assert "video" not in json.dumps(made)
    systems = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    wanted: list[dict[str, Any]] = [{"role": "system", "content": systems}] if systems else []
    for message in messages:
        parts = message["content"]
        if isinstance(parts, list):
            parts = [part if part["type"] == "text" else {"type": part["type"].removesuffix("_url")} for part in parts]
        calls = [{"function": {"name": "weather", "arguments": {}}}] if "tool_calls" in message else None
        if message["role"] != "system":
            wanted.append({**message, "content": parts} | ({"tool_calls": calls} if calls else {}))
    assert prompt == processor.tokenizer.apply_chat_template(
        wanted, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ([VIDEO, text("What moves?")], "<|video_pad|>\nWhat moves?\n\n{}"),
        ([text("What moves?"), VIDEO], "What moves?\n<|video_pad|>\n{}"),
        ([text("Here"), VIDEO, text("what moves?")], "Here\n<|video_pad|>\nwhat moves?\n\n{}"),
    ],
)
def test_videos_beside_a_choice_of_tools(loaded: tuple[Any, Any], parts: list[dict[str, Any]], wanted: str) -> None:
    """mlx-vlm writes what `tool_choice` asks for into the user's text: neither that nor the video is lost."""
    prompt, made = rendered(loaded, [{"role": "user", "content": parts}], tool_choice="required")
    instruction = made[-1]["content"].partition("\n\n")[2]
    assert instruction.startswith("You must call")
    assert f"user\n{wanted.format(instruction)}<|im_end|>" in prompt


def test_videos_without_a_place(loaded: tuple[Any, Any]) -> None:
    """Where the user's turns are not those of the request, a video has no place, and the error says so."""
    model, processor = loaded
    ours = arguments(processor, [{"role": "user", "content": [VIDEO, text("What?")]}])
    for messages, words in (
        ([user("One"), {"role": "assistant", "content": "Two"}, user("Three")], "1 user messages became 2"),
        ([user("Another text")], "not the one that was sent"),
    ):
        with pytest.raises(RuntimeError, match=words):
            apply_chat_template(processor, model.config, messages, video=[str(CLIP)], **ours.to_template_kwargs())
