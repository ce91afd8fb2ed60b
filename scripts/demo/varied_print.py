"""Lines of print anywhere in pictures of any size, in any typeface, and what each pixel of them shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.colours import Colour, ground, ink, jitter
from scripts.demo.drawing import ELSEWHERE, Picture, Random, label, pick
from scripts.demo.fonts import cap_height, font
from scripts.demo.slices import UNIT
from scripts.demo.varied import any_font, canvas, degraded, log_uniform, reduction, size_of_picture

CAPITALS = 10  # smallest height of a capital in pixels of a unit
SMALL_PRINT = 5  # how much larger than these the capitals of small print may be
SMALL, ACROSS = 0.5, 0.75  # of pictures with slices: shares with small print, and with print across a border of slices


@dataclass(frozen=True)
class Print:
    """How some lines are printed: a typeface, `size` pixels to the em, degrees, and lines so many ems apart."""

    name: str
    size: int
    angle: float
    spacing: float


def extent(lines: list[str], how: Print) -> tuple[float, float]:
    """Width and height of the lines, unturned."""
    face = font(how.name, how.size)
    return max(face.getlength(text) for text in lines), how.size * (
        cap_height(how.name) + how.spacing * (len(lines) - 1)
    )


def turned(width: float, height: float, angle: float) -> tuple[float, float]:
    """Sides of the upright box around a turned one."""
    c, s = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    return width * c + height * s, width * s + height * c


def tile(lines: list[str], how: Print, align: float, start: int) -> tuple[Image.Image, Image.Image]:
    """Mask of the ink, and labels, of some lines.

    Args:
        align: 0 puts them at the left, 1 at the right.
        start: where they stand in the answer, or ELSEWHERE.
    """
    face, cap = font(how.name, how.size), how.size * cap_height(how.name)
    width, height = extent(lines, how)
    margin = math.ceil(0.3 * how.size) + 1
    size = math.ceil(width) + 2 * margin, math.ceil(height) + 2 * margin
    mask, labels = Image.new("L", size), Image.new("I", size)
    pen, boxes = ImageDraw.Draw(mask), ImageDraw.Draw(labels)
    before = 0
    for row, text in enumerate(lines):
        x = margin + align * (width - face.getlength(text))
        y = margin + cap + row * how.spacing * how.size
        pen.text((x, y), text, fill=255, font=face, anchor="ls")
        for i, letter in enumerate(text):
            left, right = (x + face.getlength(text[:n]) for n in (i, i + 1))
            if letter != " ":
                boxes.rectangle(
                    (left, y - cap, max(right - 1, left), y), fill=label(letter, place=start + before + i + 1)
                )
        before += len(text) + 1
    if how.angle:
        mask = mask.rotate(how.angle, Image.Resampling.BICUBIC, expand=True)
        labels = labels.rotate(how.angle, Image.Resampling.NEAREST, expand=True)
    return mask, labels


def stamp(picture: Picture, tiles: tuple[Image.Image, Image.Image], colour: Colour, x: float, y: float) -> None:
    """Print what `tile` gives with its middle at (x, y)."""
    mask, labels = tiles
    corner = round(x - mask.width / 2), round(y - mask.height / 2)
    picture.picture.paste(colour, corner, mask)
    picture.classes.paste(labels, corner, Image.fromarray((np.asarray(labels) > 0).astype(np.uint8) * 255))


def print_somewhere(
    random: Random,
    lines: list[str],
    slicing: SliceOptions,
    start: int = ELSEWHERE,
    wanted: tuple[int, int] | None = None,
    sliced: bool = False,
) -> Picture:
    """A picture of any size with some lines somewhere, as large as there is room for or smaller.

    Args:
        start: where the lines stand in the answer, if they do.
        wanted: height and width, for which the print may be smaller than it should.
        sliced: whether the picture has slices, often with small print or with print across their borders.
    """
    angle = random.uniform(-8, 8) if random.random() < 0.3 else 0.0
    name = any_font(random)
    spacing = random.uniform(1.0, 1.7)
    while True:
        height, width = wanted or size_of_picture(random, 0.4 if slicing.scale_resolution == UNIT else 0.0)
        box = turned(*(side / 100 for side in extent(lines, Print(name, 100, angle, spacing))), angle)
        largest = 0.94 * min(width / box[0], height / box[1])
        smallest = CAPITALS / cap_height(name) / reduction((height, width), slicing)
        if wanted or (largest >= smallest and not (sliced and plan_slices(height, width, slicing).grid is None)):
            break
    if sliced and random.random() < SMALL:
        largest = min(largest, SMALL_PRINT * smallest)
    smallest = min(smallest, largest)
    if random.random() < 0.05:
        smallest *= 0.8
    spread = log_uniform(random, smallest, largest) if random.random() < 0.5 else random.uniform(smallest, largest)
    size = max(int(spread), 8)
    how = Print(name, size, angle, spacing)
    paper = ground(random)
    picture = canvas(random, (height, width), paper)
    w, h = turned(*extent(lines, how), angle)
    x, y = (n / 2 + random.uniform(0, max(side - n, 0)) for n, side in ((w, width), (h, height)))
    if sliced and random.random() < ACROSS:
        x, y = across_a_border(random, (x, y), (w, h), (width, height), slicing)
    colour = ink(random, paper)
    if random.random() < 0.08:
        inset = int(random.integers(0, 4))
        outline = jitter(random, colour, 40)
        ImageDraw.Draw(picture.picture).rectangle(
            (inset, inset, width - 1 - inset, height - 1 - inset), outline=outline, width=int(random.integers(1, 4))
        )
    stamp(picture, tile(lines, how, pick(random, (0.0, 0.5, 0.5, 1.0)), start), colour, x, y)
    return degraded(random, picture)


def across_a_border(
    random: Random,
    middle: tuple[float, float],
    extent: tuple[float, float],
    size: tuple[int, int],
    slicing: SliceOptions,
) -> tuple[float, float]:
    """A middle for print so that a border of the picture's slices cuts it anywhere, as far as there is room.

    Args:
        middle: x and y that it has; one of them stays.
        extent: width and height of the print.
        size: width and height of the picture, which has slices.
    """
    plan = plan_slices(size[1], size[0], slicing)
    rows, cols = plan.grid or (1, 1)
    i = int(random.integers(cols - 1 + rows - 1))
    axis, place = (0, (i + 1) / cols) if i < cols - 1 else (1, (i - cols + 2) / rows)
    half = extent[axis] / 2
    moved = list(middle)
    cut = size[axis] * place + random.uniform(-half, half)
    moved[axis] = max(min(cut, size[axis] - half), half)
    return moved[0], moved[1]
