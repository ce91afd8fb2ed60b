"""Pictures for the demo model: coloured objects and print, drawn from a seed, and the class of each of their pixels.

Everything is drawn with Pillow and its own scalable font, so it is the same everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"  # no I and no O, which are drawn almost like 1 and 0
SIDE = 112  # the demo checkpoint's scale_resolution: pictures of about this side are one unit

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
# What a pixel can belong to, for training the encoder: background, objects, characters, screens of one colour, flashes.
CLASSES = (
    "background",
    *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
    *LETTERS,
    *COLOURS,
    "dark",
    "bright",
)


class Picture:
    """A picture and the classes of its pixels, drawn on together."""

    def __init__(self, picture: Image.Image, background: str = "background") -> None:
        self.picture = picture
        self.classes = Image.new("L", picture.size, CLASSES.index(background))

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


def draw_shape(random: Random, picture: Picture, shape: str, colour: str, x: float, y: float, r: float) -> None:
    """A shape in a shade of a colour."""
    for image, fill in (
        (picture.picture, shade(random, colour)),
        (picture.classes, CLASSES.index(f"{colour} {shape}")),
    ):
        pen = ImageDraw.Draw(image)
        if shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        else:
            pen.polygon(corners(shape, x, y, r), fill=fill)


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
    while len(placed) < count:
        r = random.uniform(9, 14)
        x, y = random.uniform(1.2 * r, width - 1.2 * r), random.uniform(1.2 * r, height - 1.2 * r)
        if all((x - u) ** 2 + (y - v) ** 2 > (1.2 * (r + q)) ** 2 for u, v, q in placed):
            placed.append((x, y, r))
            if not alike:
                shape, colour = pick(random, SHAPES), pick(random, list(COLOURS))
            draw_shape(random, picture, shape, colour, x, y, r)
    return picture


def print_line(random: Random, picture: Picture, text: str, size: int, x: int, y: int) -> None:
    """Dark print of `size` pixels, its drawing position (not its ink) at (x, y)."""
    pen, boxes = ImageDraw.Draw(picture.picture), ImageDraw.Draw(picture.classes)
    font = ImageFont.load_default(size)
    _, top, _, bottom = pen.textbbox((0, 0), text, font=font)
    ink = shade(random, pick(random, ("black", "black", "blue", "red", "purple")))
    pen.text((x, y), text, fill=ink, font=font)
    for i, letter in enumerate(text):
        start, end = (x + font.getlength(text[:n]) for n in (i, i + 1))
        if letter != " ":
            boxes.rectangle((start, y + top, end - 1, y + bottom), fill=CLASSES.index(letter))


def written(random: Random, text: str, size: int, height: int, width: int, box: tuple[int, int, int, int]) -> Picture:
    """Print somewhere in `box` = (left, top, right, bottom) of a light picture."""
    picture = paper(random, height, width)
    left, top, right, bottom = ImageDraw.Draw(picture.picture).textbbox((0, 0), text, font=ImageFont.load_default(size))
    x = round(box[0] + random.uniform(0, max(box[2] - box[0] - (right - left), 0)) - left)
    y = round(box[1] + random.uniform(0, max(box[3] - box[1] - (bottom - top), 0)) - top)
    print_line(random, picture, text, size, x, y)
    return picture


def page(random: Random) -> Picture:
    """A picture full of print or of objects, for training the encoder: nothing is asked about it."""
    height, width = (SIDE, SIDE) if random.random() < 0.5 else (SIDE // 2, 2 * SIDE)
    if random.random() < 0.3:
        picture = paper(random, height, width)
        for _ in range(int(random.integers(1, 7))):
            r = random.uniform(9, 30)
            x, y = random.uniform(r, max(width - r, r + 1)), random.uniform(r, max(height - r, r + 1))
            draw_shape(random, picture, pick(random, SHAPES), pick(random, list(COLOURS)), x, y, r)
        return picture
    picture = paper(random, height, width)
    size = int(random.integers(22, 45))
    y = int(random.integers(-size // 2, 6))
    while y < height - size // 2:
        text = "".join(pick(random, LETTERS + "   ") for _ in range(int(2 * width / size)))
        print_line(random, picture, text, size, int(random.integers(-size // 2, 8)), y)
        y += round(size * random.uniform(0.95, 1.3))
    return picture


def screen(level: int, name: str) -> Picture:
    return Picture(Image.new("RGB", (SIDE, SIDE), (level,) * 3), name)
