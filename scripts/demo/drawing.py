"""Plain pictures of about one size: coloured objects and print on light paper, and what each of their pixels shows.

Everything is drawn with Pillow and its own scalable font, so it is the same everywhere. `varied.py` has the pictures of
any size, typeface and colour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"  # no I and no O, which are drawn almost like 1 and 0
SIDE = 112  # of most plain pictures

COLOURS = {
    "red": (215, 35, 35),
    "green": (30, 150, 55),
    "blue": (40, 75, 215),
    "yellow": (240, 210, 30),
    "orange": (245, 130, 20),
    "purple": (135, 45, 165),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# What a pixel can show, for training the encoder; objects and screens of one colour have a colour too.
KINDS = ("background", *CHARACTERS, *SHAPES, "screen", "dark", "bright")
# A label has three parts: a kind in 6 bits; a colour in 3, 0 for none, else its place in COLOURS from 1 on; and the
# place of a character or an object in the order of reading, from 1 on: for a character that the answer has, its place
# there; for one that it has not, ELSEWHERE or more.
KIND_BITS, COLOUR_BITS = 6, 3
ELSEWHERE = 1000


def label(kind: str, colour: str | None = None, place: int = 0) -> int:
    """The label of a pixel that shows a kind, in a colour, of what has a place."""
    colours = 1 + list(COLOURS).index(colour) if colour else 0
    return KINDS.index(kind) | colours << KIND_BITS | place << KIND_BITS + COLOUR_BITS


def parts_of(labels: Any) -> tuple[Any, Any, Any]:
    """Kinds, colours and places of labels, of numpy or torch."""
    kinds, colours = labels & (1 << KIND_BITS) - 1, labels >> KIND_BITS & (1 << COLOUR_BITS) - 1
    return kinds, colours, labels >> KIND_BITS + COLOUR_BITS


class Picture:
    """A picture and the labels of its pixels, drawn on together."""

    def __init__(self, picture: Image.Image, background: int = 0) -> None:
        self.picture = picture
        self.classes = Image.new("I", picture.size, background)

    def copy(self) -> Picture:
        other = Picture(self.picture.copy())
        other.classes = self.classes.copy()
        return other

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.classes)


Random = np.random.Generator


def pick(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def named(shape: str, colour: str) -> str:
    """What the model calls an object."""
    return f"{'an' if colour == 'orange' else 'a'} {colour} {shape}"


def shade(random: Random, colour: str) -> tuple[int, ...]:
    """A colour, a little lighter or darker."""
    return tuple(int(np.clip(c + random.integers(-14, 15), 0, 255)) for c in COLOURS[colour])


def paper(random: Random, height: int, width: int) -> Picture:
    """A light background, plain or fading."""
    top, bottom = (random.integers(205, 256) + random.integers(-8, 9, 3) for _ in range(2))
    if random.random() < 0.5:
        bottom = top
    fade = np.linspace(0, 1, height)[:, None, None]
    rows = top * (1 - fade) + bottom * fade
    return Picture(Image.fromarray(np.broadcast_to(np.clip(rows, 0, 255), (height, width, 3)).astype(np.uint8)))


def corners(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Outline of a shape of "radius" r around (x, y)."""
    if shape == "square":
        s = 0.82 * r
        return [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    if shape == "triangle":
        return [(x, y - r), (x + 0.95 * r, y + 0.8 * r), (x - 0.95 * r, y + 0.8 * r)]
    if shape == "diamond":
        return [(x, y - 1.1 * r), (x + 0.75 * r, y), (x, y + 1.1 * r), (x - 0.75 * r, y)]
    if shape == "cross":
        a, b = 0.34 * r, r
        return [
            *((x - a, y - b), (x + a, y - b), (x + a, y - a), (x + b, y - a), (x + b, y + a), (x + a, y + a)),
            *((x + a, y + b), (x - a, y + b), (x - a, y + a), (x - b, y + a), (x - b, y - a), (x - a, y - a)),
        ]
    if shape == "star":
        radii = [1.1 * r if i % 2 == 0 else 0.45 * r for i in range(10)]
        angles = [np.pi * (i / 5 - 0.5) for i in range(10)]
        return [(x + q * np.cos(a), y + q * np.sin(a)) for q, a in zip(radii, angles, strict=True)]
    raise ValueError(f"unknown shape {shape!r}")


def fill_shape(image: Image.Image, shape: str, fill: Any, x: float, y: float, r: float) -> None:
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    else:
        pen.polygon(corners(shape, x, y, r), fill=fill)


def draw_shape(random: Random, picture: Picture, shape: str, colour: str, x: float, y: float, r: float) -> None:
    """A shape in a shade of a colour."""
    fill_shape(picture.picture, shape, shade(random, colour), x, y, r)
    fill_shape(picture.classes, shape, label(shape, colour, place=1), x, y, r)


def single(random: Random, shape: str, colour: str) -> Picture:
    """One object somewhere in a picture of one unit."""
    height, width = (int(random.integers(88, SIDE + 1)) for _ in range(2))
    picture = paper(random, height, width)
    r = random.uniform(15, 32)
    x, y = random.uniform(1.15 * r, width - 1.15 * r), random.uniform(1.15 * r, height - 1.15 * r)
    draw_shape(random, picture, shape, colour, x, y, r)
    return picture


def several(random: Random, count: int) -> Picture:
    """So many objects that do not touch, of any shapes and colours, or all alike."""
    height, width = (int(random.integers(100, SIDE + 1)) for _ in range(2))
    picture = paper(random, height, width)
    alike = random.random() < 0.4
    shape, colour = pick(random, SHAPES), pick(random, list(COLOURS))
    placed: list[tuple[float, float, float]] = []
    things: list[tuple[str, str]] = []
    while len(placed) < count:
        r = random.uniform(9, 14)
        x, y = random.uniform(1.2 * r, width - 1.2 * r), random.uniform(1.2 * r, height - 1.2 * r)
        if all((x - u) ** 2 + (y - v) ** 2 > (1.2 * (r + q)) ** 2 for u, v, q in placed):
            placed.append((x, y, r))
            if not alike:
                shape, colour = pick(random, SHAPES), pick(random, list(COLOURS))
            things.append((shape, colour))
            draw_shape(random, picture, shape, colour, x, y, r)
    for place, (at, what) in enumerate(sorted(zip(placed, things, strict=True)), 1):
        fill_shape(picture.classes, what[0], label(*what, place), *at)
    return picture


def print_line(random: Random, picture: Picture, text: str, size: int, x: int, y: int) -> None:
    """Dark print of `size` pixels, its drawing position (not its ink) at (x, y); the answer is the text."""
    pen, boxes = ImageDraw.Draw(picture.picture), ImageDraw.Draw(picture.classes)
    font = ImageFont.load_default(size)
    _, top, _, bottom = pen.textbbox((0, 0), text, font=font)
    ink = shade(random, pick(random, ("black", "black", "blue", "red", "purple")))
    pen.text((x, y), text, fill=ink, font=font)
    for i, letter in enumerate(text):
        start, end = (x + font.getlength(text[:n]) for n in (i, i + 1))
        if letter != " ":
            boxes.rectangle((start, y + top, end - 1, y + bottom), fill=label(letter, place=i + 1))


def written(random: Random, text: str, size: int, height: int, width: int, box: tuple[int, int, int, int]) -> Picture:
    """Print somewhere in `box` = (left, top, right, bottom) of a light picture."""
    picture = paper(random, height, width)
    left, top, right, bottom = ImageDraw.Draw(picture.picture).textbbox((0, 0), text, font=ImageFont.load_default(size))
    x = round(box[0] + random.uniform(0, max(box[2] - box[0] - (right - left), 0)) - left)
    y = round(box[1] + random.uniform(0, max(box[3] - box[1] - (bottom - top), 0)) - top)
    print_line(random, picture, text, size, x, y)
    return picture


def screen(level: int, name: str) -> Picture:
    return Picture(Image.new("RGB", (SIDE, SIDE), (level,) * 3), label(name))
