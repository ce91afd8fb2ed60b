"""Checks of single values, as people, JSON and numpy give them, and fields of options that carry their check."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any

import numpy as np

# Characters of a value that an error shows; values come from strangers and may be whole files.
SHOWN = 120

# Takes the name of an option and a value; returns the value as the code uses it, or raises ValueError.
Check = Callable[[str, Any], Any]


def quote(value: object) -> str:
    """`repr` of a value, shortened to `SHOWN` characters."""
    if isinstance(value, (str, bytes)) and len(value) > SHOWN:  # without a repr of all of it
        return repr(value[:SHOWN]) + "…"
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def names(values: Any) -> str:
    """Names that somebody gave, for an error: sorted, each and all of them shortened."""
    shown = ", ".join(quote(value) for value in sorted(map(str, values))[:5])
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def integer(name: str, value: Any) -> int:
    """An integer of at least 1; booleans, floats and texts are none, numpy's integers are."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, not {quote(value)}")
    return int(value)


def positive(name: str, value: Any) -> float:
    """A finite number above zero."""
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        with suppress(OverflowError):  # an integer that no float can hold
            if 0 < float(value) < math.inf:
                return float(value)
    raise ValueError(f"{name} must be a positive number, not {quote(value)}")


def switch(name: str, value: Any) -> bool:
    """True or False; numbers and texts are neither."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False (in JSON true or false), not {quote(value)}")
    return bool(value)


def one_of(*values: str) -> Check:
    """One of some texts."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, values))}, not {quote(value)}")
        return values[values.index(value)]

    return check


def optional(check: Check) -> Check:
    """The same, or None."""
    return lambda name, value: None if value is None else check(name, value)


def option(default: Any, check: Check, ceiling: str = "") -> Any:
    """A field of a frozen dataclass, with the check of its value and the name of its ceiling in `limits.Limits`."""
    return field(default=default, metadata={"check": check, "ceiling": ceiling})


def check_options(options: Any) -> None:
    """Check all fields of a frozen dataclass that have a check; for its `__post_init__`."""
    for f in fields(options):
        if "check" in f.metadata:
            object.__setattr__(options, f.name, f.metadata["check"](f.name, getattr(options, f.name)))
