"""What the labels of a picture's pixels say of its units: what points of patches show, and what each token holds.

A token holds the characters and objects whose middles are in it. So each is held once, however many tokens it covers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.drawing import CHARACTERS, ELSEWHERE, KINDS, parts_of

IGNORED = -100  # a label that is not learned, as torch has it
PATCH = 14
POINTS = 2  # labels along each side of a patch
SLOTS = 8  # characters or objects that a token can tell, in the order of their places
MOST = 16  # characters and objects of a unit that are counted
CELL_SLOTS = 4  # the same of a cell: four of them are merged to a token
LETTERS = tuple(KINDS.index(letter) for letter in CHARACTERS)


class Held(NamedTuple):
    """What the tokens of some units hold.

    Attributes:
        told: what each token must tell, [tokens, slots + 2]. First the kinds that it holds, sorted by place, then one
            0 as an end, then IGNORED. The last column but one is the rank of the first of them: its position among all
            characters and objects of the unit, from 1 on. The last column is the number of them in the unit. A rank is
            IGNORED where the token holds nothing, a number in slices and where it is 0; both are above MOST.
        read: pairs of a token and the place in the answer of a character that it holds, [pairs, 2].
    """

    told: np.ndarray
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


def columns_of(labels: np.ndarray) -> str:
    """The column of each character or object, of nine from left to right, as an answer says it."""
    return " ".join(str(int(9 * x) + 1) for x in middles(labels).x)


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
    told = np.full((rows * cols, most + 3), IGNORED)
    told[:, 0] = 0
    told[at[starts], np.minimum(sizes, most)] = 0
    some = slot < most
    told[at[some], slot[some]] = kinds[some]
    told = np.delete(told, most, axis=1)  # this column took the 0 of tokens with no free slot
    unit = at // (high * wide)
    # The rank of a character or object is its position among those of its unit, sorted by place, from 1 on.
    ranked = np.lexsort((places, unit))
    of_unit = np.bincount(unit, minlength=tile_rows * tile_cols)
    rank = np.empty(len(at), np.int64)
    rank[ranked] = np.arange(len(at)) - np.repeat(np.cumsum(of_unit) - of_unit, of_unit) + 1
    rank[of_unit[unit] > MOST] = IGNORED
    told[:, most:] = IGNORED
    told[at[starts], most] = rank[starts]
    if not tiles and 0 < len(at) <= MOST:
        told[:, most + 1] = len(at)
    letters = np.isin(kinds, LETTERS) & (places < ELSEWHERE)
    return Held(told, np.stack([at, places], axis=1)[letters])


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
    starts = np.cumsum([0, *(len(part.told) for part in parts)])
    read = [part.read + np.array([start, 0]) for part, start in zip(parts, starts[:-1], strict=True)]
    told = np.concatenate([np.zeros((0, most + 2), np.int64), *(part.told for part in parts)])
    return Held(told, np.concatenate([np.zeros((0, 2), np.int64), *read]))


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
