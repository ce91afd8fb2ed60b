"""The order of a unit's patches in training: token by token, so that what the mergers join stands together.

The four patches of a window follow each other, and so do the four cells of a token. Each patch brings its place along,
so the encoder sees the same as from rows of patches.
"""

from __future__ import annotations

import numpy as np

Grid = tuple[int, int]  # rows and columns of patches, or of other parts of a unit

PLACES = 32  # of patches, along each side of a unit, that the encoder tells apart


def token_order(grid: Grid, n: int) -> np.ndarray:
    """Where the parts of a grid stand in reading order, token by token, each of n * n parts: [rows * columns]."""
    rows, cols = grid
    order = np.arange(rows * cols).reshape(rows, cols, 1)
    while n > 1:
        rows, cols, n = rows // 2, cols // 2, n // 2
        order = order.reshape(rows, 2, cols, 2, -1).swapaxes(1, 2).reshape(rows, cols, -1)
    return order.ravel()


def positions(grid: Grid) -> np.ndarray:
    """Row of the position embedding of each patch, in reading order: [patches]."""
    rows, cols = (np.arange(n) * PLACES // n for n in grid)
    return (rows[:, None] * PLACES + cols).ravel()


def middles_of_tokens(grid: Grid, n: int) -> np.ndarray:
    """y and x of the middle of each token of n * n patches, from 0 to 1, in reading order: [tokens, 2]."""
    rows, cols = ((np.arange(side // n) + 0.5) * n / side for side in grid)
    return np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
