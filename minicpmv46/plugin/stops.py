"""Answers that end before a stop text, which mlx-vlm's chat completions and responses pass over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any


class UntilStop(Iterator[Any]):
    """Tokens of mlx-vlm's server up to the first of some texts; closing it closes them.

    Text that may be the beginning of a stop text is held back until the next token shows what it is.

    Args:
        tokens: `StreamingToken`s, closeable.
        stop: texts, none empty.
        after: where given, stop texts count after this text only (thoughts may hold them).
    """

    def __init__(self, tokens: Any, stop: Sequence[str], after: str | None = None) -> None:
        self._tokens, self._stop, self._after = tokens, tuple(stop), after
        self._held = ""
        self._ended = False

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        token = next(self._tokens)
        before = self._pass_thoughts(token.text)
        if self._after is None and (found := [i for text in self._stop if (i := self._held.find(text)) >= 0]):
            self._ended = True
            self._tokens.close()
            return replace(token, text=before + self._held[: min(found)], finish_reason="stop")
        watched = self._stop if self._after is None else (self._after,)
        kept = 0 if token.finish_reason else max(_overlap(self._held, text) for text in watched)
        ready, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return replace(token, text=before + ready)

    def close(self) -> None:
        self._tokens.close()

    def _pass_thoughts(self, text: str) -> str:
        """Add a token's text; returns what ends the thoughts, if it does."""
        self._held += text
        if self._after is None or self._after not in self._held:
            return ""
        thoughts, end, self._held = self._held.partition(self._after)
        self._after = None
        return thoughts + end


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with, shorter than `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
