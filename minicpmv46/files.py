"""Reading a checkpoint's files: regular ones of a bounded size, and JSON that says one thing only.

Folders come from strangers. What is no regular file (a FIFO, a device, a folder; links are followed, as the hub's cache
has them) is refused before it is opened, since opening it may wait or never end.
"""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

from .checks import quote

MB = 1_000_000
# Largest JSON file; the real ones have some kB, a tokenizer's 20 MB.
JSON_BYTES = 16 * MB
TOKENIZER_BYTES = 64 * MB
# Objects and lists within each other; the real files have 6. Deeper ones fail wherever they are walked or shown.
DEPTH = 64


def read_json(path: Path, highest: int = JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file of at most `highest` bytes.

    Raises:
        OSError: it cannot be read or is no regular file.
        ValueError: it is too large or holds no JSON object; both name the path.
    """
    return parse_json(read_bytes(path, highest), str(path))


def read_text(path: Path, highest: int = JSON_BYTES) -> str:
    """The text of a file in UTF-8; raises as `read_json` does."""
    return _decoded(read_bytes(path, highest), f"{path} is not text")


def read_bytes(path: Path, highest: int) -> bytes:
    """A whole regular file of at most `highest` bytes; raises as `read_json` does."""
    if (size := regular_size(path)) > highest:
        raise ValueError(f"{path} has {size:,} bytes; such a file has at most {highest:,}")
    with path.open("rb") as stream:
        return stream.read(highest)


def regular_size(path: Path) -> int:
    """Bytes of a regular file, which is not opened; raises `OSError` with its path where it is none or not there."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    return status.st_size


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The object that `content` holds; raises `ValueError`, which begins with `where`, for anything else.

    NaN, infinite numbers and keys that come twice, which Python reads though JSON has none, are refused too.
    """
    text = _decoded(content, f"{where} is not valid JSON")
    not_finite: list[str] = []

    def refuse(digits: str) -> float:
        not_finite.append(digits)
        return math.nan

    def real(digits: str) -> float:
        return refuse(digits) if math.isinf(value := float(digits)) else value

    try:
        found = json.loads(text, parse_constant=refuse, parse_float=real, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError(f"{where} is not valid JSON: it is nested too deep, more than {DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} must hold a JSON object, not {type(found).__name__}")
    _check_depth(found, where)
    if "\\ud" in text.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where} is not valid JSON: it has half of a surrogate pair, which is no text") from None
    if not_finite:
        place = ".".join(_first_nan(found))
        raise ValueError(f"{where} is not valid JSON: {place} = {quote(not_finite[0])} is not a finite number")
    return found


def shortened(text: object, characters: int = 300) -> str:
    """The first words of a text that is not ours, for an error."""
    shown = " ".join(str(text)[: 2 * characters].split())
    return shown if len(shown) <= characters else shown[:characters] + "…"


def _decoded(content: bytes, what: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: it is not UTF-8 ({error.reason} at byte {error.start:,})") from error


def _check_depth(found: dict[str, Any], where: str) -> None:
    level: list[Any] = [found]
    for _ in range(DEPTH):
        level = [
            value
            for node in level
            for value in (node.values() if isinstance(node, dict) else node)
            if isinstance(value, (dict, list)) and value
        ]
        if not level:
            return
    raise ValueError(f"{where} is not valid JSON: it is nested too deep, more than {DEPTH} levels")


def _first_nan(value: Any) -> list[str]:
    """The keys that lead to the first NaN; empty where there is none."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, float) and math.isnan(inner):
            return [shortened(key, 60)]
        if isinstance(inner, (dict, list)) and (found := _first_nan(inner)):
            return [shortened(key, 60), *found]
    return []


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quote(twice)} is there twice")
    return found
