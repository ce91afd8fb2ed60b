"""What training draws at which step: the shares of the skills, how long the words are, and the options of requests."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from scripts.demo.drawing import Random

T = TypeVar("T")

# Shares of the skills from a step on; "plain" are those of plain_tasks.py, drawn alike.
SHARES = {
    0: {"read": 0.44, "object": 0.16, "count": 0.08, "two": 0.05, "clip": 0.05, "text": 0.12, "plain": 0.10},
    1500: {"read": 0.40, "object": 0.05, "count": 0.13, "two": 0.10, "clip": 0.11, "text": 0.06, "plain": 0.15},
    7570: {"read": 0.36, "object": 0.04, "count": 0.13, "two": 0.11, "clip": 0.15, "text": 0.04, "plain": 0.17},
    8250: {"read": 0.42, "object": 0.03, "count": 0.15, "two": 0.13, "clip": 0.09, "text": 0.03, "plain": 0.15},
    9600: {"read": 0.57, "object": 0.03, "count": 0.09, "two": 0.06, "clip": 0.05, "text": 0.03, "plain": 0.17},
}
PAGES = 16  # of a step of the encoder alone
PAGES_OF_STEPS = {0: PAGES, 20650: 32}  # from a step of pages on; beside the requests of the whole model they go on
LONGEST_FROM = 1500  # the step at which words reach their full length
# Shares of requests in 4x, whose many tokens cost time; of skills that are not named, and of named ones.
WIDE, WIDE_OF = 0.05, {"read": 0.2, "plain": 0.45}


def at_step(values: dict[int, T], step: int) -> T:
    """What holds at a step, of values that each hold from a step on."""
    return values[max(first for first in values if first <= step)]


def skill_of(step: int, place: float) -> str:
    """The skill at a place, from 0 to 1, in a step, so that every step has the same shares."""
    shares = at_step(SHARES, step)
    ends = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(ends, place * ends[-1]))]


def longest_at(step: int) -> int:
    """The longest word at a step."""
    return min(7, 2 + 5 * step // LONGEST_FROM)


def options_of(random: Random, skill: str) -> dict[str, Any]:
    """Mode and slices of a training request; 4x mostly without slices."""
    wide = random.random() < WIDE_OF.get(skill, WIDE)
    options: dict[str, Any] = {"downsample_mode": "4x" if wide else "16x"}
    if wide and (skill == "clip" or random.random() < 0.8):
        options["max_slice_nums"] = 1
    return options
