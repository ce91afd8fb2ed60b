"""mlx-vlm's `apply_chat_template` for our checkpoints.

mlx-vlm's own message builder puts a video on every message, system and assistant turns included, and drops video
entries of content lists. Here media stay where the caller put them, and what comes beside the messages (`num_images`,
`video`) goes to the last user message: images, then videos, then its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
        ValueError: audio is asked for, media have no user message to go to, or there is no template.
    """
    if num_audios:
        raise ValueError("MiniCPM-V 4.6 takes no audio")
    num_videos = 0 if not video else len(video) if isinstance(video, (list, tuple)) else 1
    messages = build_messages(prompt, num_images, num_videos)
    if return_messages:
        return messages
    if processor.chat_template is None and kwargs.get("chat_template") is None:
        raise ValueError("this checkpoint has no chat template (chat_template.jinja)")
    # Not through mlx-vlm's `get_chat_template`, which sorts the keys of tools: the template writes them as they come.
    variables = {name: value for name, value in kwargs.items() if name not in _BUILDER_ARGUMENTS}
    variables = {"tokenize": False, "enable_thinking": False, **variables}
    return processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, **variables)


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


class KeptText(str):
    """A message's text as mlx-vlm's server makes it, and the parts that it was made of."""

    parts: Sequence[Any]


class KeptParts(list[Any]):
    """The same where mlx-vlm keeps a list."""

    parts: Sequence[Any]


def normalize_image_content(original: Callable[[Any], Any], content: Any) -> str | list[Any]:
    """`mlx_vlm.prompt_utils.normalize_image_content` of content with videos."""
    return keep_parts(content, original(content))


def keep_parts(content: Any, normalized: str | list[Any]) -> str | list[Any]:
    """What mlx-vlm's server makes of a message's content, which has no videos in it, and what it had.

    To other models it is what it was; ours goes back to the parts, so that a video stays where the message has it.
    """
    parts = content if isinstance(content, list) else []
    if not any(isinstance(part, Mapping) and part.get("type") in VIDEO_TYPES for part in parts):
        return normalized
    kept = KeptText(normalized) if isinstance(normalized, str) else KeptParts(normalized)
    kept.parts = parts
    return kept


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
        message["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return message


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as a mapping, which the template iterates; servers get them as JSON text."""
    call = dict(call)
    function = dict(call.get("function") or call)
    if isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except ValueError as error:
            raise ValueError(f"arguments of tool call {function.get('name')!r} are not JSON: {error}") from error
    return {**call, "function": function} if "function" in call else function


def _content(content: Any) -> str | list[dict[str, Any]]:
    """A text, or entries of the three kinds that the template knows, in their order."""
    if content is None:
        return ""
    if isinstance(content, (KeptText, KeptParts)):
        content = content.parts
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
            parts.append({"type": "text", "text": part.get("text") or part.get("content") or ""})
        else:
            raise ValueError(f"a message has a part of type {kind!r}; this model takes text, image and video")
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts
