"""What the demo model learns and is asked: pictures and clips drawn from a seed, questions in several phrasings.

Everything is drawn with Pillow and its own scalable font, so it is the same everywhere. `draw(skill, random)` gives one
case; the seeds of training and of evaluation differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Case:
    """One question with its media and its answer.

    Attributes:
        skill: one of `SKILLS`.
        images: pictures in their order.
        frames: uint8 [frames, height, width, 3] of a clip of one frame a second, or None.
        options: processor options that the question needs.
        labels: for each picture, or each frame, which of `CLASSES` its pixels belong to, uint8 [height, width].
    """

    skill: str
    question: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    frames: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    labels: tuple[np.ndarray, ...] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation for a chat template, media before the question."""
        parts = [{"type": "image"}] * len(self.images) + [{"type": "video"}] * (self.frames is not None)
        content = [*parts, {"type": "text", "text": self.question}] if parts else self.question
        return [{"role": "user", "content": content}]

    @property
    def video_metadata(self) -> dict[str, Any]:
        """Of the clip, whose frames are all used."""
        count = len(self.frames) if self.frames is not None else 0
        indices = list(range(count))  # mlx-vlm's own port wants them
        return {"total_num_frames": count, "fps": 1.0, "duration": float(count), "frames_indices": indices}


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


def question(random: Random, name: str) -> str:
    return str(pick(random, QUESTIONS[name]))


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


def word(random: Random, longest: int) -> str:
    return "".join(pick(random, LETTERS) for _ in range(int(random.integers(1, longest + 1))))


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
    answer = {"colour": colour, "shape": shape, "object": f"a {colour} {shape}"}[asked]
    if asked == "object" and colour == "orange":
        answer = f"an {colour} {shape}"
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
    article = "an" if colour == "orange" else "a"
    return of_pictures("two", question(random, asked), f"{article} {colour} {shape}", *pictures)


def draw_clip(random: Random) -> Case:
    kind = pick(random, ("direction", "first colour", "last colour", "flashes"))
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
                frame = Picture(Image.new("RGB", (SIDE, SIDE), shade(random, name)), name)
            else:
                frame = paper(random, SIDE, SIDE)
                draw_shape(random, frame, shape, name, x, y, r)
            frames.append(frame)
    return frames, names[0] if kind == "first colour" else names[-1]


def screen(level: int, name: str) -> Picture:
    return Picture(Image.new("RGB", (SIDE, SIDE), (level,) * 3), name)


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


SKILLS: dict[str, Callable[[Random], Case]] = {
    "read": draw_read,
    "small": draw_small,
    "object": draw_object,
    "count": draw_count,
    "two": draw_two,
    "clip": draw_clip,
    "text": draw_text,
}


def draw(skill: str, random: Random, longest: int | None = None) -> Case:
    """One case of a skill; `longest` limits the length of what is to be read."""
    if longest is not None and skill in ("read", "small"):
        return draw_read(random, longest) if skill == "read" else draw_small(random, min(longest, 3))
    return SKILLS[skill](random)


def unseen(skill: str, index: int) -> Case:
    """Case `index` of the evaluation, which training never draws."""
    random = np.random.default_rng([46, sum(map(ord, skill)), index])
    return draw_text(random, trained=False) if skill == "text" else draw(skill, random)
