"""Clips of any size that the demo model learns from: objects that move, colours that follow each other, and flashes."""

from __future__ import annotations

from typing import Any

import numpy as np

from scripts.demo.cases import Case, Turns, Wanted
from scripts.demo.colours import jitter, paper_for, shade_on
from scripts.demo.drawing import COLOURS, SHAPES, Picture, Random, label, named, pick
from scripts.demo.plain_tasks import DIRECTIONS
from scripts.demo.questions import further, phrasing
from scripts.demo.slices import FRAME, ONE
from scripts.demo.varied import canvas, degrade, draw_object, log_uniform, size_of_picture, thing


def draw_varied_clip(random: Random, _: Wanted) -> Case:
    kind = pick(random, ("direction", "direction", "first colour", "last colour", "flashes"))
    sliced = random.random() < 0.12
    while True:
        size = size_of_picture(random)
        if not sliced or size[0] * size[1] < (3 * FRAME**2 if random.random() < 0.9 else 9 * FRAME**2):
            break
    clip = {"direction": moving, "first colour": colours, "last colour": colours, "flashes": flashing}[kind]
    frames, answer, more = clip(random, kind, size)
    options: dict[str, Any] = {} if sliced else dict(ONE)
    if random.random() < 0.6:
        options["use_image_id"] = False
    if random.random() < 0.25:
        for frame in frames:
            frame.picture = degrade(random, frame.picture)
    stacked, labels = np.stack([np.asarray(f.picture) for f in frames]), tuple(f.labels for f in frames)
    return Case("clip", phrasing(random, kind), answer, frames=stacked, options=options, labels=labels, more=more)


def moving(random: Random, _: str, size: tuple[int, int]) -> tuple[list[Picture], str, Turns]:
    name = pick(random, list(DIRECTIONS))
    height, width = size
    count = int(random.choice([2, 3, 4, 5, 6, 7], p=[0.15, 0.25, 0.25, 0.15, 0.1, 0.1]))
    shape, colour = thing(random)
    paper = paper_for(random, [colour])
    background = canvas(random, size, paper)
    fill = None
    while fill is None:
        fill = shade_on(random, colour, paper)
    direction = np.array(DIRECTIONS[name])
    axis = int(np.argmax(np.abs(direction)))
    long = (width, height)[axis]
    r = min(size) * log_uniform(random, 0.07, 0.3)
    room = long - 2.2 * r
    if room < 0.15 * long:
        r = 0.2 * min(size)
        room = long - 2.2 * r
    length = room * random.uniform(0.35, 1.0)
    low = 1.1 * r + random.uniform(0, room - length)
    start = np.array([random.uniform(1.1 * r, max(side - 1.1 * r, 1.2 * r)) for side in (width, height)])
    start[axis] = low if direction[axis] > 0 else low + length
    frames, places = [], []
    seed = int(random.integers(2**31))
    for i in range(count):
        frame = background.copy()
        x, y = start + direction * length * i / (count - 1)
        draw_object(np.random.default_rng(seed), frame, shape, colour, fill, float(x), float(y), r)
        frames.append(frame)
        places.append((int(9 * x / width) + 1, int(9 * y / height) + 1))
    # From the answer alone the decoder learns slowly to compare where an object stands from frame to frame.
    more = [
        (further(random, "columns"), " ".join(str(column) for column, _ in places)),
        (further(random, "rows"), " ".join(str(row) for _, row in places)),
        (phrasing(random, "object"), named(shape, colour)),
    ]
    return frames, name, tuple(more[int(i)] for i in random.permutation(3))


def colours(random: Random, kind: str, size: tuple[int, int]) -> tuple[list[Picture], str, Turns]:
    names = random.permutation(list(COLOURS))[: int(random.integers(2, 5))].tolist()
    shape, whole = pick(random, SHAPES), random.random() < 0.5
    paper = paper_for(random, names)
    height, width = size
    r = min(size) * random.uniform(0.15, 0.42)
    x, y = random.uniform(1.1 * r, width - 1.1 * r), random.uniform(1.1 * r, height - 1.1 * r)
    frames = []
    for name in names:
        fill = None
        while fill is None:
            fill = shade_on(random, name, (128, 128, 128) if whole else paper)
        for _ in range(int(random.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))):
            if whole:
                frame = canvas(random, size, jitter(random, fill, 2))
                frame.classes.paste(label("screen", name), (0, 0, width, height))
            else:
                frame = canvas(random, size, paper)
                draw_object(random, frame, shape, name, fill, x, y, r)
            frames.append(frame)
    answers = {"first colour": names[0], "last colour": names[-1]}
    other = "last colour" if kind == "first colour" else "first colour"
    more = (phrasing(random, other), answers[other]), (further(random, "colours"), ", ".join(names))
    return frames, answers[kind], more if random.random() < 0.5 else more[::-1]


def flashing(random: Random, _: str, size: tuple[int, int]) -> tuple[list[Picture], str, Turns]:
    count = int(random.choice([1, 2, 3, 4], p=[0.3, 0.3, 0.3, 0.1]))
    dark = int(random.integers(max(count - 1, 1), 6))
    lit = random.permutation(dark + 1)[:count]
    frames = []
    low, high = int(random.integers(0, 45)), int(random.integers(210, 256))

    def screen(level: int, name: str) -> Picture:
        frame = canvas(random, size, (level, level, level))
        frame.classes.paste(label(name), (0, 0, size[1], size[0]))
        return frame

    for place in range(dark + 1):
        if place in lit:
            frames.append(screen(high, "bright"))
        if place < dark:
            frames.append(screen(low, "dark"))
    return frames, str(count), ()
