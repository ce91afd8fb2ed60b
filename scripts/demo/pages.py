"""Pages: units with print or objects, most of them full, for training the encoder of the demo model alone."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.colours import Colour, ground, ink, jitter
from scripts.demo.drawing import CHARACTERS, Picture, Random, label, pick
from scripts.demo.fonts import PILLOW, cap_height, font
from scripts.demo.lines import lines_to_read
from scripts.demo.slices import UNITS
from scripts.demo.varied import any_font, canvas, degraded, log_uniform, objects, thing
from scripts.demo.varied_print import print_somewhere

PRINT = 13, 220  # pixels to the em in a unit of the smallest side; in larger ones print may be as much larger
OBJECTS, FEW_LINES = 0.15, 0.35  # shares of pages with objects, and with a line or two as pictures to read have them
ROW = 1000  # the places of a row of print begin with a multiple of it


def page(random: Random, unit: tuple[int, int], slicing: SliceOptions, ease: float) -> tuple[Image.Image, np.ndarray]:
    """A unit with print or objects and the labels of its pixels, for training the encoder alone.

    It is drawn larger or smaller and resized, as pictures are, or with probability `ease` plainly: dark on light, in
    two typefaces, letters of medium size.
    """
    height, width = unit
    if random.random() < ease:
        picture = easy_page(random, unit)
        return picture.picture, picture.labels
    scale = log_uniform(random, 0.4, 1.6)  # of the drawing against the unit
    size = round(height * scale), round(width * scale)
    kind = random.random()
    if kind < OBJECTS:
        things = [thing(random) for _ in range(int(random.integers(1, 7)))]
        picture = objects(random, size, things, slicing)
    elif kind < OBJECTS + FEW_LINES:
        picture = print_somewhere(random, lines_to_read(random, 7), slicing, wanted=size)
    else:
        picture = printed_page(random, unit, scale)
    drawn = picture.picture.resize((width, height), Image.Resampling.BICUBIC)
    return drawn, np.asarray(picture.classes.resize((width, height), Image.Resampling.NEAREST))


def page_size(random: Random, slicing: SliceOptions) -> tuple[int, int]:
    """Height and width of a unit."""
    shape = log_uniform(random, 1 / 5, 5) if random.random() < 0.6 else 1.0
    side = slicing.scale_resolution
    return plan_slices(round(side / math.sqrt(shape)), round(side * math.sqrt(shape)), slicing).overview


def printed_page(random: Random, unit: tuple[int, int], scale: float) -> Picture:
    size = round(unit[0] * scale), round(unit[1] * scale)
    paper = ground(random)
    picture = canvas(random, size, paper)
    lines_of_one = random.random() < 0.5
    largest = PRINT[1] * math.sqrt(unit[0] * unit[1]) / UNITS[0]
    em = log_uniform(random, PRINT[0], largest) * scale
    y = random.uniform(-10, 4) * scale + random.uniform(0, 0.5) * max(em - 60 * scale, 0)
    name, colour = "", ink(random, paper)
    apart = random.random() < 0.6  # as in most pictures; where small print is dense, a token cannot hold it all
    row = 0
    while y < size[0]:
        if not lines_of_one:
            em, colour = log_uniform(random, PRINT[0], largest) * scale, ink(random, paper)
        name = any_font(random)
        cap = print_row(random, picture, name, em, colour, y, row)
        row += 1
        y += cap + em * log_uniform(random, 0.12, 1.0)
        if apart:
            y += random.uniform(0, 80) * scale
    if random.random() < 0.25:
        angle = random.uniform(-9, 9)
        picture.picture = picture.picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=paper)
        picture.classes = picture.classes.rotate(angle, Image.Resampling.NEAREST)
    return degraded(random, picture)


def easy_page(random: Random, size: tuple[int, int]) -> Picture:
    paper = jitter(random, (int(random.integers(225, 256)),) * 3, 10)
    picture = Picture(Image.new("RGB", (size[1], size[0]), paper))
    em, y = random.uniform(28, 60), random.uniform(-10, 4)
    name = pick(random, (PILLOW, "DejaVuSans"))
    row = 0
    while y < size[0]:
        y += print_row(random, picture, name, em, jitter(random, (20, 20, 20)), y, row) + em * random.uniform(0.2, 0.5)
        row += 1
    return picture


def print_row(random: Random, picture: Picture, name: str, em: float, colour: Colour, y: float, row: int) -> float:
    """A row of characters over the whole width, capitals from `y` on; gives their height."""
    face, cap = font(name, max(int(em), 7)), cap_height(name) * em
    x = random.uniform(-0.6, 1.0) * em
    base, start, text = y + cap, x, ""
    boxes = ImageDraw.Draw(picture.classes)
    while start < picture.picture.width:
        letter = pick(random, CHARACTERS + "    ")
        text, end = text + letter, start + face.getlength(letter)
        if letter != " ":
            place = row * ROW + len(text)
            boxes.rectangle((start, y, max(end - 1, start), base), fill=label(letter, place=place))
        start = end
    ImageDraw.Draw(picture.picture).text((x, base), text, fill=colour, font=face, anchor="ls")
    return cap
