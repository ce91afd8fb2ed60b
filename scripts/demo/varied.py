"""Pictures of any size, typeface and colour, as a newcomer may draw them, and what each of their pixels shows."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.colours import Colour, jitter, paper_for, shade_on
from scripts.demo.drawing import (
    COLOURS,
    SHAPES,
    Picture,
    Random,
    corners,
    label,
    pick,
)
from scripts.demo.fonts import FONTS

SMALLEST, LARGEST = 64, 640  # sides of pictures in pixels
NOISE = np.random.default_rng(46).standard_normal(3 * 800 * 800, dtype=np.float32)  # cut anew for each picture


def log_uniform(random: Random, low: float, high: float) -> float:
    return float(math.exp(random.uniform(math.log(low), math.log(max(high, low)))))


def any_font(random: Random) -> str:
    return str(random.choice(list(FONTS), p=np.array(list(FONTS.values())) / sum(FONTS.values())))


def size_of_picture(random: Random, uniform: float = 0.0) -> tuple[int, int]:
    """Height and width: each side on its own, or of a usual shape.

    Args:
        uniform: the probability of sides drawn from a uniform distribution.
    """
    if random.random() < uniform:
        height, width = (int(side) for side in random.integers(SMALLEST, LARGEST + 1, 2))
        return height, width
    if random.random() < 0.6:
        return int(log_uniform(random, SMALLEST, LARGEST)), int(log_uniform(random, SMALLEST, LARGEST))
    area = log_uniform(random, 80, 560)
    shape = pick(random, (1.0, 1.0, 4 / 3, 3 / 4, 16 / 9, 2.0, 3.0, 4.0, 0.5))
    sides = (area / math.sqrt(shape), area * math.sqrt(shape))
    height, width = (int(np.clip(round(side), SMALLEST, LARGEST)) for side in sides)
    return height, width


def canvas(random: Random, size: tuple[int, int], colour: Colour) -> Picture:
    """A background, plain or fading a little."""
    height, width = size
    if random.random() < 0.75:
        return Picture(Image.new("RGB", (width, height), colour))
    other = jitter(random, colour, 20)
    fade = np.linspace(0, 1, height)[:, None, None] if random.random() < 0.5 else np.linspace(0, 1, width)[:, None]
    mixed = np.array(colour) * (1 - fade) + np.array(other) * fade
    return Picture(Image.fromarray(np.broadcast_to(mixed, (height, width, 3)).astype(np.uint8)))


def degrade(random: Random, picture: Image.Image) -> Image.Image:
    """Light noise, a little blur or JPEG, or nothing."""
    if random.random() < 0.08:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.9)))
    if random.random() < 0.33:
        pixels = np.array(picture, dtype=np.float32)
        start = int(random.integers(NOISE.size - pixels.size))
        pixels += NOISE[start : start + pixels.size].reshape(pixels.shape) * np.float32(random.uniform(2, 14))
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if random.random() < 0.25:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(random.integers(50, 96)))
        picture = Image.open(file)
        picture.load()
    return picture


def degraded(random: Random, picture: Picture) -> Picture:
    picture.picture = degrade(random, picture.picture)
    return picture


def reduction(size: tuple[int, int], slicing: SliceOptions, sliced: bool = True) -> float:
    """By how much a picture's sides grow or shrink in what the model sees best: its slices, or its overview."""
    plan = plan_slices(*size, slicing)
    seen = plan.refined if sliced and plan.refined is not None else plan.overview
    return min(seen[0] / size[0], seen[1] / size[1])


def outline_of(random: Random, shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """The corners of a shape as this or that program draws it: a little turned, wider or slimmer."""
    points = np.array(corners(shape, 0.0, 0.0, r))
    if shape == "star":
        points[1::2] *= random.uniform(0.8, 1.15)
    if shape == "cross":
        thin = np.abs(points) < 0.5 * r
        points[thin] *= random.uniform(0.65, 1.3)
    if shape == "diamond":
        points[:, 0] *= random.uniform(0.8, 1.45)
    if shape == "triangle":
        points[0, 0] += random.uniform(-0.25, 0.25) * r
    points *= random.uniform(0.88, 1.0, 2)
    if random.random() < 0.5:
        a = math.radians(random.uniform(-10, 10))
        points = points @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    return [(x + float(u), y + float(v)) for u, v in points]


def draw_object(
    random: Random,
    picture: Picture,
    shape: str,
    colour: str,
    fill: Colour,
    x: float,
    y: float,
    r: float,
    place: int = 1,
) -> None:
    """A filled shape, some with a thin outline."""
    edge = (0, 0, 0) if random.random() < 0.12 else fill
    thick = int(random.integers(1, 4)) if edge != fill and r > 12 else 1
    mine = label(shape, colour, place)
    pens = ImageDraw.Draw(picture.picture), ImageDraw.Draw(picture.classes)
    if shape == "circle":
        a, b = r * random.uniform(0.9, 1.0, 2)
        pens[0].ellipse((x - a, y - b, x + a, y + b), fill=fill, outline=edge, width=thick)
        pens[1].ellipse((x - a, y - b, x + a, y + b), fill=mine)
        return
    points = outline_of(random, shape, x, y, r)
    pens[0].polygon(points, fill=fill, outline=edge, width=thick)
    pens[1].polygon(points, fill=mine)


def objects(random: Random, size: tuple[int, int], things: list[tuple[str, str]], slicing: SliceOptions) -> Picture:
    """Objects, each a shape and a colour, that do not touch, anywhere in a picture of `size`, from left to right."""
    height, width = size
    paper = paper_for(random, [colour for _, colour in things])
    picture = canvas(random, size, paper)
    least = 9 / reduction(size, slicing, sliced=False)  # radius
    most = max(min(size) * 0.46 / max(1.0, 0.75 * math.sqrt(len(things) * min(size) / max(size))), least)
    scale = log_uniform(random, least, most)
    alike = random.random() < 0.5
    placed: list[tuple[float, float, float]] = []
    tries = 0
    while len(placed) < len(things):
        tries += 1
        if tries % 60 == 0:
            scale, placed = max(scale * 0.85, 0.6 * least), []
        r = scale * (random.uniform(0.95, 1.05) if alike else random.uniform(0.7, 1.3))
        reach = 1.12 * r
        if 2 * reach >= min(size):
            continue
        x, y = random.uniform(reach, width - reach), random.uniform(reach, height - reach)
        if all((x - u) ** 2 + (y - v) ** 2 > (1.18 * (r + q)) ** 2 for u, v, q in placed):
            placed.append((x, y, r))
    for place, ((x, y, r), (shape, colour)) in enumerate(zip(sorted(placed), things, strict=True), 1):
        fill = None
        while fill is None:
            fill = shade_on(random, colour, paper)
        draw_object(random, picture, shape, colour, fill, x, y, r, place)
    return degraded(random, picture)


def thing(random: Random) -> tuple[str, str]:
    return pick(random, SHAPES), pick(random, list(COLOURS))
