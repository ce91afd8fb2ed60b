"""What training draws at which step: the shares of the skills, how long the words are, and the options of requests."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from scripts.demo.cases import Case
from scripts.demo.drawing import Random
from scripts.demo.slices import UNITS, Shares

T = TypeVar("T")

# Shares of the skills from a step on; "plain" are those of plain_tasks.py, drawn alike.
SHARES = {
    0: {"read": 0.44, "object": 0.16, "count": 0.08, "two": 0.05, "clip": 0.05, "text": 0.12, "plain": 0.10},
    1500: {"read": 0.40, "object": 0.05, "count": 0.13, "two": 0.10, "clip": 0.11, "text": 0.06, "plain": 0.15},
    7570: {"read": 0.36, "object": 0.04, "count": 0.13, "two": 0.11, "clip": 0.15, "text": 0.04, "plain": 0.17},
    8250: {"read": 0.42, "object": 0.03, "count": 0.15, "two": 0.13, "clip": 0.09, "text": 0.03, "plain": 0.15},
    9600: {"read": 0.57, "object": 0.03, "count": 0.09, "two": 0.06, "clip": 0.05, "text": 0.03, "plain": 0.17},
    11080: {"read": 0.62, "object": 0.04, "count": 0.09, "two": 0.06, "clip": 0.04, "text": 0.03, "plain": 0.12},
    11450: {"read": 0.56, "object": 0.04, "count": 0.15, "two": 0.08, "clip": 0.04, "text": 0.03, "plain": 0.10},
    11650: {"read": 0.50, "object": 0.03, "count": 0.23, "two": 0.08, "clip": 0.03, "text": 0.03, "plain": 0.10},
    11800: {"read": 0.44, "object": 0.03, "count": 0.31, "two": 0.07, "clip": 0.03, "text": 0.02, "plain": 0.10},
    11900: {"read": 0.47, "object": 0.03, "count": 0.17, "two": 0.07, "clip": 0.03, "text": 0.03, "plain": 0.20},
    12500: {"read": 0.44, "object": 0.02, "count": 0.19, "two": 0.05, "clip": 0.03, "text": 0.02, "plain": 0.25},
    13250: {"read": 0.41, "object": 0.02, "count": 0.18, "two": 0.04, "clip": 0.03, "text": 0.02, "plain": 0.30},
    13600: {"read": 0.45, "object": 0.02, "count": 0.12, "two": 0.04, "clip": 0.03, "text": 0.02, "plain": 0.32},
    14570: {"read": 0.50, "object": 0.06, "count": 0.11, "two": 0.04, "clip": 0.03, "text": 0.02, "plain": 0.24},
    15580: {"read": 0.50, "object": 0.04, "count": 0.13, "two": 0.05, "clip": 0.04, "text": 0.02, "plain": 0.22},
    17192: {"read": 0.58, "object": 0.03, "count": 0.16, "two": 0.05, "clip": 0.04, "text": 0.02, "plain": 0.12},
    17702: {"read": 0.44, "object": 0.03, "count": 0.13, "two": 0.04, "clip": 0.03, "text": 0.20, "plain": 0.13},
}
# Shares of the sides of units, from a step on: for lines to read, and for other pictures. The first three rounds had
# the smallest side alone. Then most pictures are cut into slices, and a token of small print has more characters than
# it can tell.
READ_SIDES: dict[int, Shares] = {
    0: (1.0, 0.0, 0.0),
    11080: (0.25, 0.25, 0.5),
    11200: (0.2, 0.25, 0.55),
    11450: (0.15, 0.25, 0.6),
    11900: (0.12, 0.68, 0.2),
    12500: (0.06, 0.88, 0.06),
    15580: (0.04, 0.06, 0.90),
    17192: (0.01, 0.02, 0.97),
}
SIDES: dict[int, Shares] = {
    0: (1.0, 0.0, 0.0),
    11080: (0.25, 0.25, 0.5),
    11200: (0.35, 0.35, 0.3),
    11450: (0.15, 0.2, 0.65),
    11650: (0.05, 0.15, 0.8),
    11900: (0.15, 0.7, 0.15),
    12500: (0.05, 0.9, 0.05),
    15580: (0.04, 0.06, 0.90),
    17192: (0.01, 0.02, 0.97),
}
ROWS = {0: 32, 15580: 192, 17192: 32, 17702: 40}  # requests of a step, from a step on; 192 are for a GPU
SLICED = {0: 0.0, 17192: 0.7}  # share of lines to read in pictures that have slices, from a step on
PAGES = 16  # of a step of the encoder alone
# From a step of pages on; beside the requests of the whole model they go on.
PAGES_OF_STEPS = {0: PAGES, 20650: 32, 26630: 192, 28242: 32}
# Shares of the sides of `UNITS`, from a step of pages on. Larger units are fewer, so that a step has as many patches.
PAGES_OF_UNITS: dict[int, Shares] = {
    0: (1.0, 0.0, 0.0),
    22130: (0.25, 0.25, 0.5),
    22950: (0.2, 0.55, 0.25),
    23550: (0.1, 0.75, 0.15),
    26630: (0.05, 0.1, 0.85),
}
FEWEST_PAGES = 8  # of a step, which has units of the largest side; no more processes can share it
WIDE_PAGES = {0: 6, 23050: 3, 23550: 2}  # from a step of pages on, one step of so many is in 4x
LONGEST_FROM = 1500  # the step at which words reach their full length
# Shares of requests in 4x, whose many tokens cost time: of clips, of plain pictures, and of others. Some plain pictures
# in 4x are seen in the smallest units.
CLIP_WIDE, PLAIN_WIDE, WIDE = 0.05, 0.8, 0.2
SMALL_PLAIN_WIDE = 0.05


def at_step(values: dict[int, T], step: int) -> T:
    """What holds at a step, of values that each hold from a step on."""
    return values[max(first for first in values if first <= step)]


def skill_of(step: int, place: float) -> str:
    """The skill at a place, from 0 to 1, in a step, so that every step has the same shares."""
    shares = at_step(SHARES, step)
    ends = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(ends, place * ends[-1]))]


def sides_of(step: int, skill: str) -> Shares:
    """Shares of the sides of units that a step draws a skill's pictures for."""
    return at_step(READ_SIDES if skill == "read" else SIDES, step)


def longest_at(step: int) -> int:
    """The longest word at a step."""
    return min(7, 2 + 5 * step // LONGEST_FROM)


def options_of(random: Random, skill: str, case: Case) -> dict[str, Any]:
    """Mode, units and slices of a training request; 4x mostly without slices."""
    of_picture = PLAIN_WIDE if skill == "plain" else WIDE
    share = of_picture if case.frames is None else CLIP_WIDE
    if random.random() >= share:
        return {"downsample_mode": "16x"}
    options: dict[str, Any] = {"downsample_mode": "4x"}
    if case.frames is not None or random.random() < 0.8:
        options["max_slice_nums"] = 1
    if skill == "plain" and case.frames is None and random.random() < SMALL_PLAIN_WIDE:
        options["scale_resolution"] = UNITS[0]
    return options
