"""Colours that training draws with: of backgrounds, of ink that can be read on them, and of what has a name."""

from __future__ import annotations

import math

import numpy as np

from scripts.demo.drawing import COLOURS, Random, pick

Colour = tuple[int, int, int]
# What people call by these names.
SHADES: dict[str, tuple[Colour, ...]] = {
    "red": ((255, 0, 0), (215, 35, 35), (200, 0, 0), (220, 20, 60), (235, 50, 40)),
    "green": ((0, 128, 0), (0, 160, 0), (30, 150, 55), (0, 200, 0), (0, 255, 0), (34, 139, 34), (50, 180, 80)),
    "blue": ((0, 0, 255), (40, 75, 215), (0, 0, 200), (30, 110, 240), (65, 105, 225), (20, 50, 160)),
    "yellow": ((255, 255, 0), (240, 210, 30), (255, 220, 0), (250, 235, 50)),
    "orange": ((255, 165, 0), (255, 140, 0), (245, 130, 20), (250, 120, 10), (240, 150, 40)),
    "purple": ((128, 0, 128), (135, 45, 165), (150, 0, 200), (110, 30, 150), (160, 32, 240)),
    "black": ((0, 0, 0), (20, 20, 20), (35, 35, 35), (10, 10, 20)),
}
assert set(SHADES) == set(COLOURS)


def any_colour(random: Random) -> Colour:
    r, g, b = (int(n) for n in random.integers(0, 256, 3))
    return r, g, b


def jitter(random: Random, colour: Colour, by: int = 14) -> Colour:
    r, g, b = (int(np.clip(c + random.integers(-by, by + 1), 0, 255)) for c in colour)
    return r, g, b


def luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def ground(random: Random) -> Colour:
    """A background's colour: white, light, dark, or any."""
    kind = random.random()
    if kind < 0.25:
        return 255, 255, 255
    if kind < 0.55:
        return jitter(random, (int(random.integers(200, 246)),) * 3, 12)
    if kind < 0.72:
        return jitter(random, (int(random.integers(0, 60)),) * 3, 14)
    if kind < 0.85:
        return jitter(random, pick(random, SHADES[pick(random, list(SHADES))]))
    return any_colour(random)


def ink(random: Random, paper: Colour) -> Colour:
    """A colour that can be read on `paper`."""
    black_or_white = (0, 0, 0) if luminance(paper) > 127 else (255, 255, 255)
    kind = random.random()
    if kind < 0.3:
        return black_or_white
    for _ in range(20):
        colour = any_colour(random) if kind < 0.65 else pick(random, SHADES[pick(random, list(SHADES))])
        if abs(luminance(colour) - luminance(paper)) > 55 and math.dist(colour, paper) > 110:
            return colour
    return black_or_white


def shade_on(random: Random, colour: str, paper: Colour) -> Colour | None:
    """A shade of a colour that stands out on `paper`, None where there is none."""
    for _ in range(4):
        shade = jitter(random, pick(random, SHADES[colour]))
        if math.dist(shade, paper) > 110:
            return shade
    return None


def paper_for(random: Random, colours: list[str]) -> Colour:
    """A background on which all `colours` stand out."""
    while True:
        paper = ground(random)
        if all(shade_on(random, colour, paper) is not None for colour in colours):
            return paper
