"""mlx-vlm's `apply_chat_template` for our checkpoints.

mlx-vlm's own message builder puts a video on every message, system and assistant turns included, and drops video
entries of content lists. Here media stay where the caller put them, and what comes beside the messages (`num_images`,
`video`) goes to the last user message: images, then videos, then its text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError
from mlx_vlm.prompt_utils import normalize_image_content

from minicpmv46.checks import quote

# Keyword under which a request to mlx-vlm's server hands its arguments (`requests.RequestArguments`) to our functions.
REQUEST = "minicpmv46_request"

IMAGE_TYPES = ("image", "image_url", "input_image")
VIDEO_TYPES = ("video", "video_url", "input_video")
TEXT_TYPES = ("text", "input_text", "output_text")

# Keys by which the template knows parts without a type.
_KEYS = ("image", "image_url", "video", "text")

# Arguments of mlx-vlm's builder that say nothing to a template.
_BUILDER_ARGUMENTS = ("fps", "max_pixels")


def apply_chat_template(
    processor: Any,
    config: Any,
    prompt: Any,
    add_generation_prompt: bool = True,
    return_messages: bool = False,
    num_images: int = 0,
    num_audios: int = 0,
    video: Any = None,
    **kwargs: Any,
) -> Any:
    """Render `prompt` with the checkpoint's template, with `mlx_vlm.prompt_utils.apply_chat_template`'s signature.

    Args:
        prompt: a text, a message, or a list of either.
        num_images: images of the request; those without a place in a message go to the last user message.
        video: path or paths; likewise.

    Raises:
        ValueError: audio is asked for, media have no user message to go to, there is no template, or it cannot write
            these messages.
        TypeError: `num_videos` is given.
    """
    request = kwargs.pop(REQUEST, None)
    if "num_videos" in kwargs:
        raise TypeError("apply_chat_template takes no 'num_videos'; give the videos themselves: video=[...]")
    if not return_messages and processor.chat_template is None and kwargs.get("chat_template") is None:
        raise ValueError("this checkpoint has no chat template (chat_template.jinja)")
    num_videos = 0 if not video else len(video) if isinstance(video, (list, tuple)) else 1
    # Not through mlx-vlm's `get_chat_template`, which sorts the keys of tools: the template writes them as they come.
    variables = {name: value for name, value in kwargs.items() if name not in _BUILDER_ARGUMENTS}
    variables = {
        "tokenize": False,
        "enable_thinking": False,
        "add_generation_prompt": add_generation_prompt,
        **variables,
    }

    def render(prompt: Any) -> Any:
        if num_audios:
            raise ValueError("this model takes no audio")
        messages = build_messages(prompt, num_images, num_videos)
        return messages if return_messages else _write(processor, messages, variables)

    return render(prompt) if request is None else request.prompt(prompt, render)


def _write(processor: Any, messages: list[dict[str, Any]], variables: Mapping[str, Any]) -> Any:
    try:
        return processor.apply_chat_template(messages, **variables)
    except TemplateSyntaxError:  # the checkpoint's fault
        raise
    except (TemplateError, TypeError) as error:  # `raise_exception`, and filters that get values of another kind
        raise ValueError(f"the chat template cannot write these messages: {error}") from error


def build_messages(prompt: Any, num_images: int = 0, num_videos: int = 0) -> list[dict[str, Any]]:
    """Messages in the official form, content either a text or a list of image, video and text entries."""
    entries = prompt if isinstance(prompt, (list, tuple)) else [prompt]
    messages = [_message(entry) for entry in entries]
    # Where there are more places than media, the processor says so, with both counts.
    extra = {
        kind: max(0, count - sum(_count(m, kind) for m in messages))
        for kind, count in (("image", num_images), ("video", num_videos))
    }
    if any(extra.values()):
        users = [m for m in messages if m["role"] == "user"]
        if not users:
            raise ValueError(f"{num_images} images and {num_videos} videos have no user message to go to")
        content = users[-1]["content"]
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        first_text = next((i for i, part in enumerate(parts) if part["type"] == "text"), len(parts))
        users[-1]["content"] = [
            *({"type": "image"} for _ in range(extra["image"])),
            *parts[:first_text],
            *({"type": "video"} for _ in range(extra["video"])),
            *parts[first_text:],
        ]
    return messages


def has_video(content: Any) -> bool:
    """Whether a message's content, as a client sends it, has a video among its parts."""
    parts = content if isinstance(content, (list, tuple)) else ()
    return any(isinstance(part, Mapping) and part.get("type") in VIDEO_TYPES for part in parts)


def restore_videos(messages: Sequence[Mapping[str, Any]], contents: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Messages that mlx-vlm's server made of a request, with the parts that they were made of where these had a video.

    Args:
        messages: user messages without videos, and others.
        contents: contents of the request's user messages, in order.

    Raises:
        RuntimeError: the user messages are not those of the request, which is not the client's fault.
    """
    users = sum(message.get("role") == "user" for message in messages)
    if users != len(contents):
        raise RuntimeError(f"{len(contents)} user messages became {users}, so that their videos have no place")
    left = iter(contents)
    return [_with_videos(message, next(left)) if message.get("role") == "user" else message for message in messages]


def _with_videos(message: Mapping[str, Any], parts: Any) -> Mapping[str, Any]:
    if not has_video(parts):
        return message
    seen, made = message["content"], normalize_image_content(parts)
    if seen == made:
        return {**message, "content": parts}
    if not isinstance(seen, str) or not isinstance(made, str) or not seen.startswith(made):
        raise RuntimeError("a user message is not the one that was sent, so that its videos have no place")
    added = seen[len(made) :]  # an instruction that `tool_choice` adds
    *others, last = parts
    if last.get("type") in TEXT_TYPES:
        return {**message, "content": [*others, {"type": "text", "text": f"{_text(last)}{added}"}]}
    return {**message, "content": [*parts, {"type": "text", "text": added.strip()}]}


def _count(message: Mapping[str, Any], kind: str) -> int:
    content = message["content"]
    return sum(part["type"] == kind for part in content) if isinstance(content, list) else 0


def _message(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"role": "user", "content": entry}
    if not isinstance(entry, Mapping):
        if not hasattr(entry, "role"):
            raise ValueError(f"a message must be a text or have a role and content, not {type(entry).__name__}")
        entry = {"role": entry.role, "content": getattr(entry, "content", "")}
    message = dict(entry)
    message.setdefault("role", "user")
    message["content"] = _content(message.get("content"))
    if message.get("tool_calls"):
        calls = message["tool_calls"]
        if not isinstance(calls, (list, tuple)):
            raise ValueError(f"a message's tool calls must be a list, not {quote(calls)}")
        message["tool_calls"] = [_tool_call(call) for call in calls]
    return message


def _tool_call(call: Any) -> dict[str, Any]:
    """A tool call with its arguments as a mapping, which the template iterates; servers get them as JSON text."""
    check_tool_call(call)
    function = dict(call.get("function", call))
    if "arguments" in function:
        function["arguments"] = _arguments(function["name"], function["arguments"])
    return {**call, "function": function} if "function" in call else function


def check_tool_call(call: Any) -> None:
    """Raise ValueError for what is no tool call."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a tool call must be an object with a name and arguments, not {quote(call)}")


def _arguments(name: str, arguments: Any) -> Mapping[str, Any]:
    given = arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise ValueError(f"arguments of tool call {quote(name)} are not JSON: {error}") from error
    if not isinstance(arguments, Mapping):
        raise ValueError(f"arguments of tool call {quote(name)} must be an object, not {quote(given)}")
    return arguments


def _content(content: Any) -> str | list[dict[str, Any]]:
    """A text, or entries of the three kinds that the template knows, in their order."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise ValueError(f"a message's content must be a text or a list, not {type(content).__name__}")
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
            continue
        if not isinstance(part, Mapping):
            raise ValueError(f"a message's part must be a text or a mapping, not {type(part).__name__}")
        kind = part.get("type") or next((key for key in _KEYS if key in part), None)
        if kind in IMAGE_TYPES:
            parts.append({"type": "image"})
        elif kind in VIDEO_TYPES:
            parts.append({"type": "video"})
        elif kind in TEXT_TYPES:
            parts.append({"type": "text", "text": _text(part)})
        else:
            raise ValueError(f"a message has a part of type {quote(kind)}; this model takes text, image and video")
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _text(part: Mapping[str, Any]) -> str:
    return part.get("text") or part.get("content") or ""
