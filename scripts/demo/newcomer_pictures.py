"""Pictures as a newcomer may draw them, for the evaluation alone.

Nothing here is shared with what training draws but the typefaces: shapes are filled from formulas of distance, four
times as large and then reduced, text is written by Pillow on a canvas that is turned as a whole, and colours are those
of their names in CSS. Sizes are uniform between the least and the most that there is room for.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.fonts import font

TYPEFACES = (
    "Pillow",
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSerif",
    "STIXGeneral",
    "cmr10",
    "cmss10",
)
CSS = {
    "red": ("red", "crimson", "#e02020"),
    "green": ("green", "limegreen", "forestgreen"),
    "blue": ("blue", "royalblue", "mediumblue"),
    "yellow": ("yellow", "gold", "#f5e020"),
    "orange": ("orange", "darkorange"),
    "purple": ("purple", "darkviolet", "rebeccapurple"),
    "black": ("black", "#181818"),
}
FIGURES = ("circle", "square", "triangle", "star", "cross", "diamond")
OVERSIZE = 4  # figures are filled so many times as large
Generator = np.random.Generator
RGB = tuple[int, int, int]


def choose(generator: Generator, options: Any) -> Any:
    return options[int(generator.integers(len(options)))]


def relative_luminance(colour: RGB) -> float:
    """As WCAG defines it, from 0 to 1."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: RGB, b: RGB) -> float:
    """As WCAG defines it, from 1 to 21; 3 is its least for large text."""
    low, high = sorted((relative_luminance(a), relative_luminance(b)))
    return (high + 0.05) / (low + 0.05)


def dimensions(generator: Generator) -> tuple[int, int]:
    """Width and height."""
    width, height = (int(n) for n in generator.integers(64, 641, 2))
    return width, height


def worn(generator: Generator, picture: Image.Image) -> Image.Image:
    """With light noise, as JPEG, both, or neither."""
    if generator.random() < 0.3:
        noise = generator.normal(0, generator.uniform(1, 8), (picture.height, picture.width, 3))
        picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).round().astype(np.uint8))
    if generator.random() < 0.3:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(generator.integers(60, 96)))
        picture = Image.open(file).convert("RGB")
    return picture


def enlargement(width: int, height: int, slicing: SliceOptions) -> float:
    """By how much the official resize enlarges a picture in its slices, or in the overview where it has none."""
    plan = plan_slices(height, width, slicing)
    seen = plan.refined or plan.overview
    return min(seen[0] / height, seen[1] / width)


def writing(generator: Generator, lines: list[str], slicing: SliceOptions, sliced: bool) -> Image.Image:
    """Lines of text anywhere in a picture of any size; where `sliced`, in one that has slices and across their borders.

    Capitals are at least 10 pixels high after the official resize.
    """
    name = choose(generator, TYPEFACES)
    gap = generator.uniform(0.3, 0.9)  # between lines, in heights of a capital
    longest = max(lines, key=lambda text: font(name, 100).getlength(text))
    degrees = generator.uniform(-5, 5) if generator.random() < 0.3 else 0.0
    _, top, _, bottom = font(name, 200).getbbox("H")
    cap = (bottom - top) / 200
    while True:
        width, height = dimensions(generator)
        plan = plan_slices(height, width, slicing)
        if sliced and plan.grid is None:
            continue
        high = cap * (len(lines) + gap * (len(lines) - 1))
        wide = font(name, 100).getlength(longest) / 100
        sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
        most = 0.92 * min(width / (wide * cosine + high * sine), height / (wide * sine + high * cosine))
        least = 10 / cap / enlargement(width, height, slicing)
        if most > least:
            break
    em = max(int(generator.uniform(least, most)), math.ceil(least))
    face = font(name, em)
    back, ink = choose(generator, (((255, 255, 255), (0, 0, 0)), ((0, 0, 0), (255, 255, 255))))
    if generator.random() < 0.6:
        back = ink
        while contrast(back, ink) < 3:
            back, ink = (tuple(int(n) for n in generator.integers(0, 256, 3)) for _ in range(2))
    w, h = face.getlength(longest), em * high
    box_w, box_h = w * cosine + h * sine, w * sine + h * cosine
    room = max(width - box_w, 0), max(height - box_h, 0)
    middle = box_w / 2 + generator.uniform(0, room[0]), box_h / 2 + generator.uniform(0, room[1])
    if sliced and plan.grid is not None:
        # As near to a border of slices as there is room for.
        rows, cols = plan.grid
        borders = [(i * width / cols, middle[1]) for i in range(1, cols)]
        borders += [(middle[0], i * height / rows) for i in range(1, rows)]
        x, y = choose(generator, borders)
        middle = (
            min(max(x + generator.uniform(-w / 3, w / 3), box_w / 2), box_w / 2 + room[0]),
            min(max(y, box_h / 2), box_h / 2 + room[1]),
        )
    layer = Image.new("L", (width, height))
    pen = ImageDraw.Draw(layer)
    for i, text in enumerate(lines):
        base = middle[1] - h / 2 + em * cap * (1 + i * (1 + gap))
        pen.text((middle[0] - w / 2, base), text, font=face, fill=255, anchor="ls")
    if degrees:
        layer = layer.rotate(degrees, Image.Resampling.BILINEAR, center=middle)
    picture = Image.new("RGB", (width, height), back)
    picture.paste(ink, (0, 0), layer)
    return worn(generator, picture)


@dataclass(frozen=True)
class Figure:
    """A shape with its colour, its middle, its radius in pixels and its turn in degrees."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    turn: float = 0.0


def inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points are within a shape of radius 1, from their coordinates: to the right, and down."""
    if shape == "circle":
        return u**2 + v**2 <= 1
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.8
    if shape == "diamond":
        return abs(u) / 0.8 + abs(v) <= 1
    if shape == "triangle":
        return (v <= 0.75) & (abs(u) <= (v + 1) * 0.55)
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 0.95)
    # A star of five: the distance of its edge at each angle from the upright point.
    angle = abs((np.degrees(np.arctan2(u, -v)) + 36) % 72 - 36)
    inner, tip = 0.42, np.radians(36)
    a = np.radians(angle)
    edge = inner * math.sin(tip) / (inner * np.sin(tip - a) + np.sin(a)) * 1.0
    return np.hypot(u, v) <= edge


def figures(generator: Generator, size: tuple[int, int], back: RGB, drawn: list[Figure]) -> Image.Image:
    """A picture of `size` (width, height) with figures."""
    width, height = size
    picture = np.empty((height, width, 3))
    picture[:] = back
    for figure in drawn:
        turn = math.radians(figure.turn)
        left, top = (max(int(c - 1.5 * figure.radius), 0) for c in (figure.x, figure.y))
        right, bottom = (
            min(int(c + 1.5 * figure.radius) + 2, side) for c, side in ((figure.x, width), (figure.y, height))
        )
        y, x = np.mgrid[top * OVERSIZE : bottom * OVERSIZE, left * OVERSIZE : right * OVERSIZE] / OVERSIZE
        dx, dy = (x - figure.x) / figure.radius, (y - figure.y) / figure.radius
        u, v = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        mask = inside(figure.shape, u, v)
        rows, cols = mask.shape[0] // OVERSIZE, mask.shape[1] // OVERSIZE
        share = mask.reshape(rows, OVERSIZE, cols, OVERSIZE).mean(axis=(1, 3))[..., None]
        fill = np.array(ImageColor.getrgb(choose(generator, CSS[figure.colour])))
        target = picture[top : top + rows, left : left + cols]
        target[:] = target * (1 - share) + fill * share
    return worn(generator, Image.fromarray(picture.round().astype(np.uint8)))


def backdrop(generator: Generator, colours: list[str]) -> RGB:
    """White, light, dark or grey, and far from all shades of the figures' colours."""
    while True:
        base = choose(generator, (255, 255, 240, 225, 200, 128, 40, 15))
        back: RGB = tuple(int(np.clip(base + n, 0, 255)) for n in generator.integers(-12, 13, 3))  # type: ignore[assignment]
        if all(math.dist(back, ImageColor.getrgb(shade)) > 120 for name in colours for shade in CSS[name]):
            return back


def kinds(generator: Generator, count: int) -> list[tuple[str, str]]:
    """Shapes and colours, a third of the time all alike."""
    found = [(choose(generator, FIGURES), choose(generator, list(CSS))) for _ in range(count)]
    return [found[0]] * count if generator.random() < 1 / 3 else found


def scattered(generator: Generator, wanted: list[tuple[str, str]], slicing: SliceOptions) -> Image.Image:
    """Figures that do not touch; each is at least 20 pixels wide in the overview."""
    size = dimensions(generator)
    plan = plan_slices(size[1], size[0], slicing)
    least = 10 / min(plan.overview[0] / size[1], plan.overview[1] / size[0])
    most = max(min(size) * 0.45 / math.sqrt(len(wanted)), least)
    placed: list[Figure] = []
    tries = 0
    while len(placed) < len(wanted):
        radius = generator.uniform(least, most)
        x, y = (generator.uniform(1.1 * radius, max(side - 1.1 * radius, 1.1 * radius + 1)) for side in size)
        if all(math.hypot(x - f.x, y - f.y) > 1.15 * (radius + f.radius) for f in placed):
            turn = generator.uniform(-6, 6) if generator.random() < 0.3 else 0.0
            placed.append(Figure(*wanted[len(placed)], x, y, radius, turn))
        tries += 1
        if tries % 300 == 0:  # no room: begin again with smaller ones, or with another size
            placed, most = [], max(0.8 * most, least)
        if tries > 3000:
            return scattered(generator, wanted, slicing)
    return figures(generator, size, backdrop(generator, [colour for _, colour in wanted]), placed)
