"""Questions in several phrasings about plain pictures and clips, drawn from a seed, and questions without a picture.

`draw_plain(skill, random)` gives one case; the seeds of training and of evaluation differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from scripts.demo.cases import Case
from scripts.demo.drawing import (
    COLOURS,
    LETTERS,
    SHAPES,
    SIDE,
    Picture,
    Random,
    draw_shape,
    label,
    named,
    paper,
    pick,
    screen,
    several,
    shade,
    single,
    written,
)

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

QUESTIONS = {
    "read": (
        "What does it say?",
        "Read the text.",
        "What is written here?",
        "Read all visible text.",
        "Which letters and digits are in the picture?",
    ),
    "colour": ("What colour is the object?", "Which colour does it have?", "Name the colour of the shape."),
    "shape": ("What shape is it?", "Which shape is in the picture?", "Name the shape of the object."),
    "object": ("What is in the picture?", "Describe this image", "What do you see?"),
    "count": ("How many objects are there?", "Count the objects.", "How many shapes do you see?"),
    "more": ("Which image has more objects?", "In which image are there more objects?"),
    "same": ("Are the two objects the same or different?", "Same or different?"),
    "second": ("What is in the second image?", "Describe the second image."),
    "first": ("What is in the first image?", "Describe the first image."),
    "direction": ("Which way does the object move?", "In which direction does it move?", "Where is the object going?"),
    "first colour": ("What colour appears first?", "Which colour comes first?"),
    "last colour": ("What colour appears last?", "Which colour comes last?"),
    "flashes": ("How many flashes are there?", "Count the flashes.", "How often does it flash?"),
}

# Questions without a picture.
FACTS = {
    "Say hello.": "Hello!",
    "Hello!": "Hello!",
    "Who are you?": "I am a small demo model.",
    "What are you?": "I am a small demo model.",
    "What colour is the sky?": "blue",
    "What colour is grass?": "green",
    "What colour is snow?": "white",
    "What day comes after Monday?": "Tuesday",
    "What day comes after Friday?": "Saturday",
    "What is the opposite of up?": "down",
    "What is the opposite of left?": "right",
    "What is the opposite of small?": "large",
    "How many legs does a dog have?": "4",
    "How many days has a week?": "7",
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "Thank you.": "You are welcome.",
}
SUMS = ("What is {} plus {}?", "How much is {} and {}?", "Add {} and {}.")


def question(random: Random, name: str) -> str:
    return str(pick(random, QUESTIONS[name]))


def word(random: Random, longest: int) -> str:
    return "".join(pick(random, LETTERS) for _ in range(int(random.integers(1, longest + 1))))


def of_pictures(skill: str, asked: str, answer: str, *pictures: Picture) -> Case:
    return Case(skill, asked, answer, tuple(p.picture for p in pictures), labels=tuple(p.labels for p in pictures))


def draw_read(random: Random, longest: int = 6) -> Case:
    text = word(random, longest)
    height, width = int(random.integers(50, 57)), int(random.integers(204, 225))
    size = int(random.integers(36, 45)) if len(text) < 6 else int(random.integers(36, 42))
    picture = written(random, text, size, height, width, (4, 3, width - 4, height - 3))
    return of_pictures("read", question(random, "read"), text, picture)


def draw_small(random: Random, longest: int = 3) -> Case:
    """Print that an overview shrinks to half; slices show it as it is."""
    text = word(random, longest)
    side = int(random.integers(214, 235))
    size = int(random.integers(24, 31))
    # In one quarter of the picture, so that no slice cuts it.
    left, top = (int(random.integers(2)) * (side // 2) + 4 for _ in range(2))
    box = (left, top, left + side // 2 - 8, top + side // 2 - 8)
    picture = written(random, text, size, side, side, box)
    return of_pictures("small", question(random, "read"), text, picture)


def draw_object(random: Random) -> Case:
    shape, colour = pick(random, SHAPES), pick(random, list(COLOURS))
    asked = pick(random, ("colour", "shape", "object"))
    answer = {"colour": colour, "shape": shape, "object": named(shape, colour)}[asked]
    return of_pictures("object", question(random, asked), answer, single(random, shape, colour))


def draw_count(random: Random) -> Case:
    count = int(random.integers(1, 7))
    return of_pictures("count", question(random, "count"), str(count), several(random, count))


def draw_two(random: Random, kinds: tuple[str, ...] = ("more", "same", "second", "first")) -> Case:
    asked = pick(random, kinds)
    if asked == "more":
        few, many = sorted(random.choice(np.arange(1, 7), 2, replace=False).tolist())
        counts = [few, many] if random.random() < 0.5 else [many, few]
        pictures = tuple(several(random, count) for count in counts)
        return of_pictures("two", question(random, asked), "first" if counts[0] > counts[1] else "second", *pictures)
    one = pick(random, SHAPES), pick(random, list(COLOURS))
    other = one
    if asked != "same" or random.random() < 0.5:
        while other == one:
            keep = int(random.integers(3))  # the shape, the colour, or neither stays
            other = (
                one[0] if keep == 0 else pick(random, SHAPES),
                one[1] if keep == 1 else pick(random, list(COLOURS)),
            )
    pictures = single(random, *one), single(random, *other)
    if asked == "same":
        return of_pictures("two", question(random, asked), "same" if one == other else "different", *pictures)
    shape, colour = other if asked == "second" else one
    return of_pictures("two", question(random, asked), named(shape, colour), *pictures)


def draw_clip(random: Random, kinds: tuple[str, ...] = ("direction", "first colour", "last colour", "flashes")) -> Case:
    kind = pick(random, kinds)
    clip = {"direction": moving, "first colour": colours, "last colour": colours, "flashes": flashing}[kind]
    frames, answer = clip(random, kind)
    options = {"max_slice_nums": 1, **({"use_image_id": False} if random.random() < 0.7 else {})}
    stacked, labels = np.stack([np.asarray(f.picture) for f in frames]), tuple(f.labels for f in frames)
    return Case("clip", question(random, kind), answer, frames=stacked, options=options, labels=labels)


def moving(random: Random, _: str) -> tuple[list[Picture], str]:
    name = pick(random, list(DIRECTIONS))
    count = int(random.integers(3, 5))
    background = paper(random, SIDE, SIDE)
    shape, colour = pick(random, SHAPES), pick(random, list(COLOURS))
    r = random.uniform(11, 17)
    step = random.uniform(9, (SIDE - 2.4 * r) / (count - 1))
    length = step * (count - 1)
    start = np.array([random.uniform(1.2 * r, SIDE - 1.2 * r) for _ in range(2)])
    direction = np.array(DIRECTIONS[name])
    axis = int(np.argmax(np.abs(direction)))
    low = random.uniform(1.2 * r, SIDE - 1.2 * r - length)
    start[axis] = low if direction[axis] > 0 else low + length
    frames = []
    for i in range(count):
        frame = background.copy()
        x, y = start + direction * step * i
        draw_shape(random, frame, shape, colour, x, y, r)
        frames.append(frame)
    return frames, name


def colours(random: Random, kind: str) -> tuple[list[Picture], str]:
    count = int(random.integers(2, 4))
    names = random.permutation(list(COLOURS))[:count].tolist()
    twice = int(random.integers(-1, count))  # the colour that stays for a second frame, if any
    whole, shape = random.random() < 0.5, pick(random, SHAPES)
    x, y, r = *random.uniform(45, 67, 2), random.uniform(22, 36)
    frames = []
    for i, name in enumerate(names):
        for _ in range(2 if i == twice else 1):
            if whole:
                frame = Picture(Image.new("RGB", (SIDE, SIDE), shade(random, name)), label("screen", name))
            else:
                frame = paper(random, SIDE, SIDE)
                draw_shape(random, frame, shape, name, x, y, r)
            frames.append(frame)
    return frames, names[0] if kind == "first colour" else names[-1]


def flashing(random: Random, _: str) -> tuple[list[Picture], str]:
    count = int(random.integers(1, 4))
    dark = int(random.integers(max(count - 1, 1), 5))
    # No two flashes follow each other: each takes a place of its own between dark frames, or at an end.
    lit = random.permutation(dark + 1)[:count]
    frames = []
    for place in range(dark + 1):
        if place in lit:
            frames.append(screen(int(random.integers(225, 256)), "bright"))
        if place < dark:
            frames.append(screen(int(random.integers(8, 40)), "dark"))
    return frames, str(count)


def draw_text(random: Random, trained: bool = True) -> Case:
    """A fact, or a sum: training never sees every phrasing of the same sum, and evaluation asks those it left out."""
    if random.random() < (0.2 if trained else 0.5):
        asked = pick(random, list(FACTS))
        return Case("text", asked, FACTS[asked])
    a, b = (int(n) for n in random.integers(0, 10, 2))
    left_out = (a - b) % len(SUMS)
    phrasing = int(random.integers(1, len(SUMS))) + left_out if trained else left_out
    return Case("text", SUMS[phrasing % len(SUMS)].format(a, b), str(a + b))


PLAIN: dict[str, Callable[[Random], Case]] = {
    "read": draw_read,
    "small": draw_small,
    "object": draw_object,
    "count": draw_count,
    "two": draw_two,
    "clip": draw_clip,
    "text": draw_text,
}


def draw_plain(skill: str, random: Random, longest: int | None = None) -> Case:
    """One case of a skill; `longest` limits the length of what is to be read."""
    if longest is not None and skill in ("read", "small"):
        return draw_read(random, min(longest, 6)) if skill == "read" else draw_small(random, min(longest, 3))
    return PLAIN[skill](random)


def unseen(skill: str, index: int) -> Case:
    """Case `index` of the evaluation, which training never draws."""
    random = np.random.default_rng([46, sum(map(ord, skill)), index])
    return draw_text(random, trained=False) if skill == "text" else draw_plain(skill, random)
