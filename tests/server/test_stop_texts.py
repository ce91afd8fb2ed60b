"""Stop texts in a stream of tokens, whose borders fall anywhere."""

from collections.abc import Iterator
from typing import Any

from support.serving import skip_without_server

skip_without_server()


def test_tokens_until_a_stop() -> None:
    """However a text falls into tokens, what comes before the stop text comes out, and the rest is given up."""
    from mlx_vlm.server.generation import StreamingToken

    from minicpmv46.plugin.stops import UntilStop

    class Tokens(Iterator[Any]):
        def __init__(self, texts: list[str]) -> None:
            self.texts, self.closed = list(texts), False

        def __next__(self) -> Any:
            if not self.texts:
                raise StopIteration
            text = self.texts.pop(0)
            return StreamingToken(text, 0, 0.0, None if self.texts else "length")

        def close(self) -> None:
            self.closed = True

    def pieces(whole: str) -> Iterator[list[str]]:
        for cut in range(2 ** (len(whole) - 1)):
            parts = [whole[0]]
            for i, letter in enumerate(whole[1:]):
                if cut >> i & 1:
                    parts.append("")
                parts[-1] += letter
            yield parts

    def run(texts: list[str], *arguments: Any, **keywords: Any) -> tuple[str, str | None, bool]:
        tokens = Tokens(texts)
        out = list(UntilStop(tokens, *arguments, **keywords))
        assert [token.finish_reason for token in out[:-1]] == [None] * (len(out) - 1)
        return "".join(token.text for token in out), out[-1].finish_reason, tokens.closed

    check: list[tuple[str, tuple[str, ...], str | None, tuple[str, str | None, bool]]] = [
        ("abcabd", ("abd",), None, ("abc", "stop", True)),
        ("aabaac", ("ab", "aac"), None, ("a", "stop", True)),
        ("aaaaaa", ("ab",), None, ("aaaaaa", "length", False)),
        ("xyxyz.", ("xyz",), None, ("xy", "stop", True)),
        ("bxTbb.", ("b",), "xT", ("bxT", "stop", True)),
        ("bbxbb.", ("b",), "xT", ("bbxbb.", "length", False)),
    ]
    for whole, stop, after, expected in check:
        for texts in pieces(whole):
            assert run(texts, stop, after) == expected, texts
