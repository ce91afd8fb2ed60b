"""Checks of the values in a checkpoint's JSON files: exact types, and ranges with room above every real size.

JSON has one kind of number, Python three: here 3.0 is no integer, true is no number, and null is no value. A ceiling
is there so that no file decides how much is built before it is compared with the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from .checks import Check, quote

# Token ids are int32.
HIGHEST_ID = 2**31 - 1


def size(highest: int, lowest: int = 1) -> Check:
    """An integer from `lowest` to `highest`."""

    def check(name: str, value: Any) -> int:
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(f"{name} = {quote(value)} must be an integer from {lowest:,} to {highest:,}")
        return value

    return check


def number(lowest: float, highest: float) -> Check:
    """A number from `lowest` to `highest`; NaN is in no range."""

    def check(name: str, value: Any) -> float:
        if type(value) not in (int, float) or not lowest <= value <= highest:
            raise ValueError(f"{name} = {quote(value)} must be a number from {lowest:g} to {highest:g}")
        return value  # an integer stays one

    return check


def pair(first: int, second: int) -> Check:
    """The one pair of integers that is supported."""

    def check(name: str, value: Any) -> tuple[int, int]:
        whole = isinstance(value, (list, tuple)) and all(type(x) is int for x in value)
        if not whole or tuple(value) != (first, second):
            shown = tuple(value) if whole else value
            raise ValueError(f"{name} = {quote(shown)} is not supported; supported: ({first}, {second})")
        return first, second

    return check


def text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {quote(value)}")
    return value


def token_id(name: str, value: Any) -> int:
    """Id of one token."""
    return int(size(HIGHEST_ID, 0)(name, value))


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """The ids of one integer, a list of them, or None."""
    ids = value if isinstance(value, (list, tuple)) else () if value is None else (value,)
    if not all(type(i) is int and 0 <= i <= HIGHEST_ID for i in ids):
        raise ValueError(f"{name} must be an integer from 0 or a list of such integers, not {quote(value)}")
    return tuple(ids)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) for x in value):
        raise ValueError(f"{name} must be a list of texts, not {quote(value)}")
    return tuple(value)


def section(name: str, value: Any) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, not {quote(value)}")
    return value


def exactly(name: str, value: Any, supported: Sequence[Any]) -> None:
    """Raise `ValueError` unless a value is one of the supported ones; 1 is not True."""
    if not any(type(value) is type(x) and value == x for x in supported):
        raise ValueError(f"{name} = {quote(value)} is not supported; supported: {', '.join(map(repr, supported))}")


def check_fields(config: Any, prefix: str) -> None:
    """Check all fields of a frozen dataclass that have a check, under their names in the file."""
    for f in fields(config):
        if "check" in f.metadata:
            object.__setattr__(config, f.name, f.metadata["check"](f"{prefix}{f.name}", getattr(config, f.name)))


def check_values(params: Mapping[str, Any], checks: Mapping[str, Check], prefix: str) -> None:
    """Check the values of an object's entries that are there and not null."""
    for name, check in checks.items():
        if params.get(name) is not None:
            check(f"{prefix}{name}", params[name])
