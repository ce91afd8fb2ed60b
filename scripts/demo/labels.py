"""What the labels of a picture's pixels say of its units: what points of patches show, and what each token holds.

A token holds the characters and objects whose middles are in it. So each is held once, however many tokens it covers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.drawing import CHARACTERS, ELSEWHERE, KINDS, SHAPES, parts_of

IGNORED = -100  # a label that is not learned, as torch has it
PATCH = 14
POINTS = 2  # labels along each side of a patch
SLOTS = 8  # characters or objects that a token can tell, in the order of their places
CELL_SLOTS = 4  # the same of a cell: four of them are merged to a token
OBJECTS = {KINDS.index(shape) for shape in SHAPES}
LETTERS = {KINDS.index(letter) for letter in CHARACTERS}


class Held(NamedTuple):
    """What the tokens of some units hold.

    Attributes:
        slots: kinds in the order of their places, then one 0, for no more; the rest is IGNORED: [tokens, SLOTS].
        counts: how many objects a token's unit has, or IGNORED in slices and where it has none: [tokens].
        read: pairs of a token and the place in the answer of a character that it holds, [pairs, 2].
    """

    slots: np.ndarray
    counts: np.ndarray
    read: np.ndarray


class Middles(NamedTuple):
    """Characters and objects of a picture, in the order of their places: y and x from 0 to 1."""

    places: np.ndarray
    kinds: np.ndarray
    y: np.ndarray
    x: np.ndarray


def middles(labels: np.ndarray) -> Middles:
    """Where the characters and objects are that have a place."""
    pixels = np.flatnonzero(parts_of(labels)[2])
    kinds, _, places = parts_of(labels.flat[pixels])
    rows, cols = np.divmod(pixels, labels.shape[1])
    sizes = np.bincount(places)
    there = np.flatnonzero(sizes)
    kind_of = np.zeros(len(sizes), np.int64)
    kind_of[places] = kinds
    y, x = (
        (np.bincount(places, weights=at)[there] / sizes[there] + 0.5) / side
        for at, side in ((rows, labels.shape[0]), (cols, labels.shape[1]))
    )
    return Middles(there, kind_of[there], y, x)


def held(found: Middles, tokens: tuple[int, int], tiles: tuple[int, int] | None = None, most: int = SLOTS) -> Held:
    """What the tokens hold of a picture that is `tokens` rows and columns of them, in tiles if it is sliced.

    Each tells `most` at most.
    """
    rows, cols = tokens
    tile_rows, tile_cols = tiles or (1, 1)
    high, wide = rows // tile_rows, cols // tile_cols
    row, col = (found.y * rows).astype(np.int64), (found.x * cols).astype(np.int64)
    at = ((row // high * tile_cols + col // wide) * high + row % high) * wide + col % wide
    order = np.argsort(at, kind="stable")
    at, kinds, places = at[order], found.kinds[order], found.places[order]
    starts = np.flatnonzero(np.diff(at, prepend=-1))
    sizes = np.diff(starts, append=len(at))
    slot = np.arange(len(at)) - np.repeat(starts, sizes)
    slots = np.full((rows * cols, most + 1), IGNORED)
    slots[:, 0] = 0
    slots[at[starts], np.minimum(sizes, most)] = 0
    some = slot < most
    slots[at[some], slot[some]] = kinds[some]
    objects = int(np.isin(kinds, list(OBJECTS)).sum())
    counts = np.full(rows * cols, IGNORED if tiles or not objects else objects)
    letters = np.isin(kinds, list(LETTERS)) & (places < ELSEWHERE)
    return Held(slots[:, :most], counts, np.stack([at, places], axis=1)[letters])


def picture_contents(labels: np.ndarray, slicing: SliceOptions, n: int) -> tuple[Held, Held]:
    """What each token of n * n patches of a picture holds, overview first, then slices, and the same of its cells."""
    plan, found = plan_slices(*labels.shape, slicing), middles(labels)
    parts = [contents(found, plan.overview, n)]
    if plan.grid is not None and plan.refined is not None:
        parts.append(contents(found, plan.refined, n, plan.grid))
    return joined([tokens for tokens, _ in parts]), joined([cells for _, cells in parts], CELL_SLOTS)


def contents(found: Middles, size: tuple[int, int], n: int, tiles: tuple[int, int] | None = None) -> tuple[Held, Held]:
    """What tokens of n * n patches hold, and cells, of a picture of so many pixels."""
    rows, cols = (side // (PATCH * n) for side in size)
    return held(found, (rows, cols), tiles), held(found, (2 * rows, 2 * cols), tiles, CELL_SLOTS)


def joined(parts: list[Held], most: int = SLOTS) -> Held:
    """What the tokens of all parts hold, one after the other."""
    starts = np.cumsum([0, *(len(part.slots) for part in parts)])
    read = [part.read + np.array([start, 0]) for part, start in zip(parts, starts[:-1], strict=True)]
    slots, counts = ([part[i] for part in parts] for i in range(2))
    nothing = np.zeros((0, most), np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
    return Held(*(np.concatenate([one, *found]) for one, found in zip(nothing, (slots, counts, read), strict=True)))


def patch_classes(labels: np.ndarray, slicing: SliceOptions) -> np.ndarray:
    """Labels of the points of each patch of a picture, overview first, then slices: [patches, POINTS * POINTS]."""
    plan, p = plan_slices(*labels.shape, slicing), slicing.patch_size // POINTS

    def points(size: tuple[int, int]) -> np.ndarray:
        places = (2 * (np.arange(n // p) * p + p // 2) + 1 for n in size)  # middles of pixels, in halves
        rows, cols = (place * m // (2 * n) for place, n, m in zip(places, size, labels.shape, strict=True))
        return labels[rows[:, None], cols]

    parts = [of_patches(points(plan.overview))]
    if plan.grid is not None and plan.refined is not None:
        whole, (rows, cols) = points(plan.refined), plan.grid
        height, width = whole.shape[0] // rows, whole.shape[1] // cols
        tiles = whole.reshape(rows, height, cols, width).swapaxes(1, 2).reshape(-1, height, width)
        parts += [of_patches(tile) for tile in tiles]
    return np.concatenate(parts).astype(np.int64)


def of_patches(points: np.ndarray) -> np.ndarray:
    """[rows * POINTS, cols * POINTS] to [rows * cols, POINTS * POINTS]."""
    rows, cols = (side // POINTS for side in points.shape)
    return points.reshape(rows, POINTS, cols, POINTS).swapaxes(1, 2).reshape(rows * cols, POINTS**2)
