"""What training draws at which step: the shares of the skills, how long the words are, and the options of requests."""

from __future__ import annotations

from typing import Any

import numpy as np

# Shares of the skills at first and from then on; "plain" are those of plain_tasks.py, drawn alike.
EARLY = {"read": 0.44, "object": 0.16, "count": 0.08, "two": 0.05, "clip": 0.05, "text": 0.12, "plain": 0.10}
LATE = {"read": 0.40, "object": 0.05, "count": 0.13, "two": 0.10, "clip": 0.11, "text": 0.06, "plain": 0.15}
EARLY_UNTIL, LONGEST_FROM = 1500, 1500  # steps; words reach their full length at the second


def skill_of(step: int, place: float) -> str:
    """The skill at a place, from 0 to 1, in a step, so that every step has the same shares."""
    shares = EARLY if step < EARLY_UNTIL else LATE
    ends = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(ends, place * ends[-1]))]


def longest_at(step: int) -> int:
    """The longest word at a step."""
    return min(7, 2 + 5 * step // LONGEST_FROM)


def options_of(random: np.random.Generator, skill: str, wide: bool) -> dict[str, Any]:
    """Mode and slices of a training request; `wide` is 4x, whose many tokens cost time, so mostly without slices."""
    options: dict[str, Any] = {"downsample_mode": "4x" if wide else "16x"}
    if wide and (skill == "clip" or random.random() < 0.8):
        options["max_slice_nums"] = 1
    return options
