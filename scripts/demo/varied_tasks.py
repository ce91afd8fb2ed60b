"""What the demo model learns: questions about pictures of any size, typeface and colour, and about clips.

Where one answer says little about the pictures, further questions follow in the same conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minicpmv46.slicing import SliceOptions
from scripts.demo.cases import ANY, Case, Turns, Wanted
from scripts.demo.drawing import COLOURS, ELSEWHERE, SHAPES, Picture, Random, named, pick
from scripts.demo.labels import columns_of
from scripts.demo.lines import lines_to_read, more_of_lines
from scripts.demo.plain_tasks import draw_clip, draw_plain, draw_text, draw_two
from scripts.demo.questions import MORE_FACTS, MORE_SUMS, NO_PICTURE, PHRASINGS, UNKNOWN, further, phrasing, unknown
from scripts.demo.slices import ONE, UNIT, UNITS, Shares
from scripts.demo.varied import objects, size_of_picture, thing
from scripts.demo.varied_clips import draw_varied_clip
from scripts.demo.varied_print import print_somewhere

PARTS = "shape", "colour"  # of what is told of an object


def case(
    skill: str, asked: str, answer: str, *pictures: Picture, options: dict[str, Any] | None = None, more: Turns = ()
) -> Case:
    labels, images = tuple(p.labels for p in pictures), tuple(p.picture for p in pictures)
    return Case(skill, asked, answer, images, options=options or {}, labels=labels, more=more)


def slicing_of(random: Random, sides: Shares, whole: Shares) -> tuple[SliceOptions, dict[str, Any]]:
    """Units of one of the sides of `UNITS`, with slices or with the overview alone, and the request's options for that.

    Args:
        sides: their shares.
        whole: the probability of the overview alone, for each of them.
    """
    i = int(random.choice(len(UNITS), p=sides))
    options: dict[str, Any] = dict(ONE) if random.random() < whole[i] else {}
    if UNITS[i] != UNIT:
        options["scale_resolution"] = UNITS[i]
    return SliceOptions(**{"scale_resolution": UNIT, **options}), options


def draw_read(random: Random, wanted: Wanted) -> Case:
    slices = wanted.sliced > 0 and random.random() < wanted.sliced
    slicing, options = slicing_of(random, wanted.sides, (0.0, 0.0, 0.0) if slices else (0.65, 0.2, 0.3))
    lines = lines_to_read(random, wanted.longest, most=2 if wanted.longest < 7 else 6)
    kind = random.random()
    asked, answer, start = "read", "\n".join(lines), 0
    if kind >= 0.95:
        asked, answer, start = "", UNKNOWN, ELSEWHERE
    elif kind >= 0.9:
        asked, answer, start = "object", f"the text {' '.join(lines)}", len("the text ")
    picture = print_somewhere(random, lines, slicing, start, sliced=slices)
    question = phrasing(random, asked) if asked else unknown(random, True)
    return case("read", question, answer, picture, options=options, more=more_of_lines(random, lines, picture))


def draw_one(random: Random, wanted: Wanted) -> Case:
    slicing, options = slicing_of(random, wanted.sides, (0.9, 0.8, 0.7))
    shape, colour = thing(random)
    picture = objects(random, size_of_picture(random), [(shape, colour)], slicing)
    asked = pick(random, ("colour", "shape", "object", "object"))
    if random.random() < 0.06:
        return case("object", unknown(random, True), UNKNOWN, picture, options=options)
    answer = {"colour": colour, "shape": shape, "object": named(shape, colour)}[asked]
    return case("object", phrasing(random, asked), answer, picture, options=options)


def some(random: Random, count: int) -> list[tuple[str, str]]:
    """Objects of any shapes and colours, or all alike, or of one colour or shape."""
    things = [thing(random) for _ in range(count)]
    kind = random.random()
    if kind < 0.3:
        return [things[0]] * count
    if kind < 0.45:
        return [(shape, things[0][1]) for shape, _ in things]
    if kind < 0.6:
        return [(things[0][0], colour) for _, colour in things]
    return things


def draw_count(random: Random, wanted: Wanted) -> Case:
    slicing, options = slicing_of(random, wanted.sides, (0.75, 0.6, 0.7))
    count = int(random.integers(1, 7))
    things = some(random, count)
    picture = objects(random, size_of_picture(random), things, slicing)
    more = more_counts(random, things, picture)
    if count > 1 and random.random() < 0.05:
        return case("count", phrasing(random, "object"), f"{count} objects", picture, options=options, more=more)
    return case("count", phrasing(random, "count"), str(count), picture, options=options, more=more)


def more_counts(random: Random, things: list[tuple[str, str]], picture: Picture) -> Turns:
    """How many have a shape and a colour, mostly of those that are there, and sometimes all, from left to right."""
    shapes, colours = ([thing[i] for thing in things] for i in range(2))
    shape = pick(random, shapes if random.random() < 0.8 else SHAPES)
    colour = pick(random, colours if random.random() < 0.8 else list(COLOURS))
    turns = [
        (further(random, "shapes", f"{shape}{'es' if shape == 'cross' else 's'}"), str(shapes.count(shape))),
        (further(random, "of colour", colour), str(colours.count(colour))),
    ]
    if random.random() < 0.4:
        turns.append((further(random, "list"), ", ".join(named(*thing) for thing in things)))
    if random.random() < 0.5:
        turns.append((further(random, "each column"), columns_of(picture.labels)))
    return tuple(turns[int(i)] for i in random.permutation(len(turns)))


def draw_pair(random: Random, wanted: Wanted) -> Case:
    slicing, options = slicing_of(random, wanted.sides, (0.8, 0.75, 0.7))
    asked = pick(random, ("more", "same", "same", "same", "second", "first", "text"))
    if asked == "text":
        texts = [lines_to_read(random, wanted.longest) for _ in range(2)]
        which = pick(random, ("first", "second"))
        starts = (0, ELSEWHERE) if which == "first" else (ELSEWHERE, 0)
        pictures = [print_somewhere(random, lines, slicing, at) for lines, at in zip(texts, starts, strict=True)]
        turns = {f"{name} text": "\n".join(lines) for name, lines in zip(("first", "second"), texts, strict=True)}
        return about_two(random, f"{which} text", turns, pictures, options)
    if asked == "more":
        few, many = sorted(random.choice(np.arange(1, 7), 2, replace=False).tolist())
        counts = [few, many] if random.random() < 0.5 else [many, few]
        turns = {"more": "first" if counts[0] > counts[1] else "second"}
        turns |= {"first count": str(counts[0]), "second count": str(counts[1])}
        groups = [some(random, count) for count in counts]
    else:
        one = thing(random)
        other = one
        if random.random() < (0.5 if asked == "same" else 0.7):
            while other == one:
                keep = int(random.integers(3))  # the shape, the colour, or neither stays
                new = thing(random)
                other = one[0] if keep == 0 else new[0], one[1] if keep == 1 else new[1]
        groups = [[one], [other]]
        turns = {"same": "same" if one == other else "different", "first": named(*one), "second": named(*other)}
        turns |= {f"same {part}": "same" if one[i] == other[i] else "different" for i, part in enumerate(PARTS)}
    pictures = [objects(random, size_of_picture(random), things, slicing) for things in groups]
    return about_two(random, asked, turns, pictures, options)


def about_two(
    random: Random, asked: str, answers: dict[str, str], pictures: list[Picture], options: dict[str, Any]
) -> Case:
    """A case of two pictures: a question of `answers`, and then its others in any order."""
    others = [name for name in answers if name != asked]
    order = [asked, *(others[int(i)] for i in random.permutation(len(others)))]
    turns = [(phrasing(random, name) if name in PHRASINGS else further(random, name), answers[name]) for name in order]
    return case("two", *turns[0], *pictures, options=options, more=tuple(turns[1:]))


def draw_words(random: Random, _: Wanted) -> Case:
    """Facts, sums, and questions that have no answer here."""
    first, *others = (one_of_words(random) for _ in range(3))
    return replace(first, more=tuple((other.question, other.answer) for other in others))


def one_of_words(random: Random) -> Case:
    """A fact, a sum, or a question that has no answer here."""
    kind = random.random()
    if kind < 0.45:
        return draw_text(random)
    if kind < 0.55:
        asked = pick(random, list(MORE_FACTS))
        return Case("text", asked, MORE_FACTS[asked])
    if kind < 0.65:
        a, b = (int(n) for n in random.integers(0, 10, 2))
        return Case("text", pick(random, MORE_SUMS[3:]).format(a, b), str(a + b))
    if kind < 0.72:
        return Case("text", phrasing(random, pick(random, list(PHRASINGS))), NO_PICTURE)
    return Case("text", unknown(random, False), UNKNOWN)


def draw_any_plain(random: Random, wanted: Wanted) -> Case:
    """A case of the plain skills, the hard ones more often."""
    kinds = (*("read",) * 8, "small", "object", "count", "two", "same", "moving")
    skill = pick(random, kinds)
    if skill == "same":
        return draw_two(random, ("same",))
    return draw_clip(random, ("direction",)) if skill == "moving" else draw_plain(skill, random, wanted.longest)


SKILLS: dict[str, Callable[[Random, Wanted], Case]] = {
    "read": draw_read,
    "object": draw_one,
    "count": draw_count,
    "two": draw_pair,
    "clip": draw_varied_clip,
    "text": draw_words,
    "plain": draw_any_plain,
}


def draw(skill: str, random: Random, wanted: Wanted = ANY) -> Case:
    """One case of a skill."""
    return SKILLS[skill](random, wanted)
