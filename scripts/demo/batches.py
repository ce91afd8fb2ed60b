"""Batches for training the demo checkpoint: the mixture of skills, and pages for the encoder alone.

What is drawn depends on the seed and on the step alone, so a training that goes on where it stopped sees what it would
have seen, however many processes share the work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minicpmv46.image import patchify
from minicpmv46.processing import Processor
from minicpmv46.slicing import SliceOptions
from scripts.demo.cases import Wanted
from scripts.demo.labels import (
    IGNORED,
    PATCH,
    POINTS,
    contents,
    middles,
    of_patches,
)
from scripts.demo.mixture import (
    PAGES_OF_STEPS,
    PAGES_OF_UNITS,
    ROWS,
    SLICED,
    WIDE_PAGES,
    at_step,
    longest_at,
    options_of,
    sides_of,
    skill_of,
)
from scripts.demo.order import Grid, middles_of_tokens, positions, token_order
from scripts.demo.pages import page, page_size
from scripts.demo.rows import Row, make_row
from scripts.demo.slices import UNITS
from scripts.demo.varied_tasks import draw

Array = Any  # of numpy as it is drawn, of torch as it is computed

EASE = 300, 1500  # steps between which pages become harder


class Limits(NamedTuple):
    """What requests that are computed together have at most: patches, tokens with padding, longest to shortest."""

    patches: int
    tokens: int
    spread: float


CPU, CUDA = Limits(6000, 6000, 2), Limits(10**6, 60_000, 4)  # a GPU is fast when it has much to do at once


class Unit(NamedTuple):
    """A picture, a slice or a frame, in reading order: parts of a `Row`'s arrays; and where its tokens stand.

    Attributes:
        text: the place of the `Text` among those of its `Part`.
        places: of its tokens in the text's `ids.flatten()`.
    """

    grid: Grid
    patches: np.ndarray
    classes: np.ndarray
    told: np.ndarray
    cells: np.ndarray
    text: int
    places: np.ndarray


class View(NamedTuple):
    """Units of one mode, the smallest first, with the parts of each in the order of `token_order`.

    Attributes:
        patches: bytes, [patches of all units, 14 * 14 * 3].
        positions: rows of the position embedding, [patches].
        groups: how many units of how many patches, in the order of `patches`.
        middles: where tokens stand in their units, as y and x from 0 to 1, [tokens, 2].
        classes: labels of points of each patch, [patches, POINTS * POINTS].
        told, cells: what the units' tokens and cells must tell, as in `labels.Held`.
        merge: whether the window merger runs (16x), for all.
    """

    patches: Array
    positions: Array
    groups: list[tuple[int, int]]
    middles: Array
    classes: Array
    told: Array
    cells: Array
    merge: bool


class Text(NamedTuple):
    """Prompts and answers of requests whose lengths are alike, right-padded.

    Attributes:
        ids, labels: [rows, length]; a label stands where its token is predicted.
        asked: where labels stand in `labels.flatten()`.
        places: where the units' tokens stand in `ids.flatten()`.
        tokens: which tokens these are, of all views of the part, one view after the other.
        looks: [pairs, 3] of a row, where a character is predicted, and where a token of a picture stands that holds it.
        looked: for each pair, which of the characters it is, from 0 on.
        characters: how many characters there are.
    """

    ids: Array
    labels: Array
    asked: Array
    places: Array
    tokens: Array
    looks: Array
    looked: Array
    characters: int


class Part(NamedTuple):
    """What of a step is computed together.

    Attributes:
        views: units of the requests' pictures, of each mode.
        texts: the requests.
        page: pages, of which nothing is asked.
    """

    views: list[View]
    texts: list[Text]
    page: View | None


def view_of(units: list[Unit], merge: bool) -> View:
    """Units of one mode, which come with the smallest first."""
    n = 4 if merge else 2
    orders = [token_order(unit.grid, n) for unit in units]
    cells = [token_order((2 * unit.grid[0] // n, 2 * unit.grid[1] // n), 2) for unit in units]
    pairs = list(zip(units, orders, strict=True))
    sizes, counts = np.unique([len(order) for order in orders], return_counts=True)
    return View(
        patches=np.concatenate([unit.patches[order] for unit, order in pairs]),
        positions=np.concatenate([positions(unit.grid)[order] for unit, order in pairs]),
        groups=list(zip(counts.tolist(), sizes.tolist(), strict=True)),
        middles=np.concatenate([middles_of_tokens(unit.grid, n) for unit in units]).astype(np.float32),
        classes=np.concatenate([unit.classes[order] for unit, order in pairs]).astype(np.int32),
        told=np.concatenate([unit.told for unit in units]),
        cells=np.concatenate([unit.cells[order] for unit, order in zip(units, cells, strict=True)]),
        merge=merge,
    )


def units_of(row: Row, text: int, start: int) -> list[Unit]:
    """The units of a row whose ids begin at `start` of those of its text."""
    found, patch, token = [], 0, 0
    for grid in row.units:
        size = grid[0] * grid[1]
        patches = slice(patch, patch + size)
        tokens = slice(token, token + size // (16 if row.merge else 4))
        of_unit = row.patches[patches], row.classes[patches], row.told[tokens]
        cells = row.cells[4 * tokens.start : 4 * tokens.stop]
        found.append(Unit(grid, *of_unit, cells, text, start + row.places[tokens]))
        patch, token = patches.stop, tokens.stop
    return found


def text_of(rows: list[Row], places: np.ndarray, tokens: np.ndarray) -> Text:
    """Prompts and answers of rows, right-padded.

    Args:
        places, tokens: as `Text` has them.
    """
    length = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], labels[i, : len(row.ids)] = row.ids, row.labels
    looks = np.concatenate([np.insert(row.looks, 0, i, axis=1) for i, row in enumerate(rows)])
    characters, looked = np.unique(looks[:, 0] * length + looks[:, 1], return_inverse=True)
    arrays = ids, labels, np.flatnonzero(labels != IGNORED), places, tokens, looks, looked
    return Text(*arrays, len(characters))


def collate(rows: list[Row], most: Limits = CUDA) -> Part:
    """Requests whose pictures are encoded together; those whose lengths are not alike are different texts."""
    texts: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        text = texts[-1] if texts else []
        full = (len(text) + 1) * len(row.ids) > most.tokens
        if not text or full or len(row.ids) > most.spread * len(text[0].ids):
            texts.append([])
        texts[-1].append(row)
    views, start = [], 0
    places: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in texts]
    tokens: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in texts]
    for merge in (False, True):
        units: list[Unit] = []
        for i, text in enumerate(texts):
            length = len(text[-1].ids)
            for j, row in enumerate(text):
                if row.merge == merge:
                    units += units_of(row, i, j * length)
        if not units:
            continue
        units.sort(key=lambda unit: len(unit.patches))
        views.append(view_of(units, merge))
        for unit in units:
            places[unit.text].append(unit.places)
            tokens[unit.text].append(np.arange(start, start + len(unit.places)))
            start += len(unit.places)
    made = zip(texts, places, tokens, strict=True)
    return Part(views, [text_of(text, np.concatenate(at), np.concatenate(which)) for text, at, which in made], None)


def parts_of_rows(rows: list[Row], most: Limits) -> list[Part]:
    """Requests of a step in parts, each of one mode as far as there are enough."""
    parts: list[list[Row]] = []
    patches = 0
    for row in sorted(rows, key=lambda row: (row.merge, len(row.ids))):
        if not parts or patches + len(row.patches) > most.patches:
            parts.append([])
            patches = 0
        parts[-1].append(row)
        patches += len(row.patches)
    return [collate(part, most) for part in parts]


def answers(processor: Processor, seed: int, step: int, part: int, parts: int, most: Limits = CPU) -> list[Part]:
    """What one of the processes that share a step has of its requests."""
    rows, count = [], at_step(ROWS, step)
    for i in range(part, count, parts):
        random = np.random.default_rng([seed, 2, step, i])
        skill = skill_of(step, (i + 0.5) / count)
        longest = longest_at(step) if random.random() < 0.9 else 7
        case = draw(skill, random, Wanted(longest, sides_of(step, skill), at_step(SLICED, step)))
        rows.append(make_row(processor, case, options_of(random, skill, case)))
    return parts_of_rows(rows, most)


def pages(seed: int, step: int, part: int, parts: int) -> View:
    """One process's share of a step's pages, all of one size; most steps in 16x."""
    ease = float(np.clip((EASE[1] - step) / (EASE[1] - EASE[0]), 0, 1))
    random = np.random.default_rng([seed, 0, step])
    side = int(random.choice(UNITS, p=at_step(PAGES_OF_UNITS, step)))
    slicing = SliceOptions(scale_resolution=side)
    size = (slicing.scale_resolution,) * 2 if random.random() < ease else page_size(random, slicing)
    count = round(at_step(PAGES_OF_STEPS, step) * (UNITS[0] / side) ** 2)
    merge, half, units = step % at_step(WIDE_PAGES, step) > 0, PATCH // POINTS, []
    for i in range(part, count, parts):
        picture, labels = page(np.random.default_rng([seed, 1, step, i]), size, slicing, ease)
        tokens, cells = contents(middles(labels), size, 4 if merge else 2)
        classes = of_patches(labels[half // 2 :: half, half // 2 :: half])
        grid = (size[0] // PATCH, size[1] // PATCH)
        patches = patchify(np.asarray(picture), PATCH)
        units.append(Unit(grid, patches, classes, tokens.told, cells.told, 0, np.zeros(0, np.int64)))
    return view_of(units, merge)


def answers_and_page(
    processor: Processor, seed: int, before: tuple[int, int], step: int, part: int, parts: int, most: Limits
) -> list[Part]:
    """What one process has of a step of the whole model: requests, and pages with the last of them.

    Args:
        before: steps of pages and of questions of the stages before.
    """
    *others, last = answers(processor, seed, before[1] + step, part, parts, most)
    return [*others, last._replace(page=pages(seed, before[0] + step, part, parts))]
