"""Questions about pictures and clips as a newcomer may draw and ask them, and free questions, for the evaluation alone.

Nothing here is shared with what training draws and asks but the typefaces.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from minicpmv46.slicing import SliceOptions
from scripts.demo.cases import Case
from scripts.demo.newcomer_pictures import (
    CSS,
    FIGURES,
    Figure,
    Generator,
    backdrop,
    choose,
    dimensions,
    figures,
    kinds,
    scattered,
    writing,
)

UNKNOWN = "I only read text, shapes and clips."
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
READ = ("What does it say?", "Read the text.", "What is written here?", "What does this picture say?")
COLOUR = ("What colour is it?", "Which colour does the object have?", "What color is the object?")
SHAPE = ("What shape is it?", "Which shape do you see?", "What is the shape?")
SEEN = ("What is in the picture?", "What do you see?", "Describe this image.")
COUNT = ("How many objects are there?", "How many shapes are in the picture?", "Count the objects.")


def text_lines(generator: Generator) -> list[str]:
    """One line of 2 to 6 letters and digits, or two of 1 to 6."""
    two = generator.random() < 0.3
    lengths = generator.integers(1 if two else 2, 7, 2 if two else 1)
    return ["".join(choose(generator, ALPHABET) for _ in range(n)) for n in lengths]


def article(colour: str, shape: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def read(generator: Generator, slicing: SliceOptions, sliced: bool = False) -> Case:
    lines = text_lines(generator)
    picture = writing(generator, lines, slicing, sliced)
    return Case("read", choose(generator, READ), "\n".join(lines), (picture,))


def across(generator: Generator, slicing: SliceOptions) -> Case:
    return read(generator, slicing, sliced=True)


def colour_and_shape(generator: Generator, slicing: SliceOptions) -> Case:
    shape, colour = choose(generator, FIGURES), choose(generator, list(CSS))
    questions, answer = choose(generator, ((COLOUR, colour), (SHAPE, shape), (SEEN, article(colour, shape))))
    return Case("object", choose(generator, questions), answer, (scattered(generator, [(shape, colour)], slicing),))


def count(generator: Generator, slicing: SliceOptions) -> Case:
    number = int(generator.integers(1, 7))
    picture = scattered(generator, kinds(generator, number), slicing)
    return Case("count", choose(generator, COUNT), str(number), (picture,))


def two(generator: Generator, slicing: SliceOptions) -> Case:
    kind = choose(generator, ("more", "same", "first", "second"))
    if kind == "more":
        a, b = (int(n) for n in generator.permutation(np.arange(1, 7))[:2])
        pictures = tuple(scattered(generator, kinds(generator, n), slicing) for n in (a, b))
        return Case("two", "Which image has more objects?", "first" if a > b else "second", pictures)
    one, other = ((choose(generator, FIGURES), choose(generator, list(CSS))) for _ in range(2))
    if kind == "same" and generator.random() < 0.5:
        other = one
    pictures = tuple(scattered(generator, [wanted], slicing) for wanted in (one, other))
    if kind == "same":
        return Case(
            "two", "Are the two objects the same or different?", "same" if one == other else "different", pictures
        )
    shape, colour = one if kind == "first" else other
    return Case("two", f"What is in the {kind} image?", article(colour, shape), pictures)


def clip(generator: Generator, slicing: SliceOptions) -> Case:
    """A clip of any size and rate, in which each picture stands for a second."""
    kind = choose(generator, ("move", "first", "last", "flash"))
    width, height = dimensions(generator)
    rate, seconds = choose(generator, (1, 2, 5)), int(generator.integers(3, 8))
    options: dict[str, Any] = {} if generator.random() < 0.5 else {"max_slice_nums": 1, "use_image_id": False}
    if kind == "move":
        direction = choose(generator, ("left", "right", "up", "down"))
        shape, colour = choose(generator, FIGURES), choose(generator, list(CSS))
        radius = generator.uniform(0.1, 0.22) * min(width, height)
        back = backdrop(generator, [colour])
        start, end = radius * 1.2, (width if direction in ("left", "right") else height) - radius * 1.2
        steady = generator.uniform(radius * 1.2, (height if direction in ("left", "right") else width) - radius * 1.2)
        frames = []
        look = int(generator.integers(2**31))
        for i in range(seconds):
            along = start + (end - start) * i / (seconds - 1)
            if direction in ("left", "up"):
                along = start + end - along
            place = (along, steady) if direction in ("left", "right") else (steady, along)
            frames.append(
                figures(np.random.default_rng(look), (width, height), back, [Figure(shape, colour, *place, radius)])
            )
        question, answer = "Which way does the object move?", direction
    elif kind == "flash":
        answer_count = int(generator.integers(1, min(3, (seconds + 1) // 2) + 1))
        while True:
            lit = sorted(generator.permutation(seconds)[:answer_count].tolist())
            if all(b - a > 1 for a, b in pairwise(lit)):
                break
        levels = int(generator.integers(5, 40)), int(generator.integers(225, 256))
        frames = [Image.new("RGB", (width, height), (levels[i in lit],) * 3) for i in range(seconds)]
        question, answer = "How many flashes are there?", str(answer_count)
    else:
        names = generator.permutation(list(CSS))[: int(generator.integers(2, min(4, seconds) + 1))].tolist()
        shades = [ImageColor.getrgb(choose(generator, CSS[name])) for name in names]
        frames = [Image.new("RGB", (width, height), shades[i * len(names) // seconds]) for i in range(seconds)]
        question, answer = f"What colour appears {kind}?", names[0 if kind == "first" else -1]
    stacked = np.repeat(np.stack([np.asarray(frame) for frame in frames]), rate, axis=0)
    return Case("clip", question, answer, frames=stacked, options=options, rate=float(rate))


# Free questions, none of them among those that training makes up; all get the sentence that says what the model can do.
FREE = """
How tall is Mount Everest?
Who painted the Mona Lisa?
Which planet is the largest?
Name three rivers in Asia.
What should I eat tonight?
Sing me a song.
How are you today?
What is the square root of 144?
Write an email to my boss.
Draft a letter of thanks to my neighbour.
Who won the last election?
When did the Second World War end?
List the primary colours.
Could you book a flight for me?
Are you smarter than a human?
What does the word serendipity mean?
Spell the word necessary.
Can pigs fly?
Why do leaves turn brown in autumn?
How deep is the Atlantic Ocean?
How many bones are in the human body?
Fix the bug in my code.
Write a haiku.
Make up a riddle.
Which language is spoken in Austria?
What currency is used in Sweden?
How do magnets attract each other?
Give me advice on saving energy.
Who discovered penicillin?
What happened in 1969?
Convert 10 miles to kilometres.
Sort the numbers 3, 1 and 2.
Is it going to rain tomorrow?
What are your hobbies?
Play a game with me.
Explain recursion to a child.
How can I lose weight?
Which phone should I buy?
Who is the king of England?
What do bees make?
Translate good night into Spanish.
Describe your favourite film.
What is the best way to learn the piano?
What is the fastest animal on land?
Where do penguins live?
How long is a marathon?
Why is the sea salty?
Tell me something interesting.
What rhymes with orange?
Count from one to ten.
Say something in Latin.
What makes a good leader?
Recommend me some films.
How is glass produced?
What is a transformer model?
Do aliens exist?
Continue the sentence: once upon a time
Solve x squared equals four.
Generate a password.
What is inside the Sun?
""".strip().splitlines()


ROWS = {
    "read": read,
    "across": across,
    "object": colour_and_shape,
    "count": count,
    "two": two,
    "clip": clip,
}


def drawn(skill: str, index: int, slicing: SliceOptions) -> Case:
    """Case `index` of a row of the evaluation, for a checkpoint that slices so."""
    if skill == "free":
        return Case("free", FREE[index], UNKNOWN)
    return ROWS[skill](np.random.default_rng([4600, *skill.encode(), index]), slicing)
