"""What the messages of a conversation hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def media_of(conversation: Any, kind: str) -> list[Any]:
    """Images or videos (`kind`) that one conversation, or several, name in their messages, in order."""
    return list(_sources(conversation, kind))


def _sources(conversation: Any, kind: str) -> Iterator[Any]:
    for message in conversation:
        if not isinstance(message, Mapping):
            yield from _sources(message, kind)
            continue
        content = message.get("content")
        parts = content if isinstance(content, (list, tuple)) else ()
        for part in (part for part in parts if isinstance(part, Mapping)):
            if part.get("type") in (kind, f"{kind}_url") or (part.get("type") is None and kind in part):
                keys = (kind, "path", "url", f"{kind}_url", "base64")
                key = next((key for key in keys if part.get(key) is not None), None)
                if key == "base64":
                    yield f"data:{kind}/any;base64,{part[key]}"
                elif key is not None:
                    yield part[key]["url"] if isinstance(part[key], Mapping) else part[key]
