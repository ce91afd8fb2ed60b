"""Visual units of a request as the model gets them: where their patches are, and which tokens they fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .vision import Grid


@dataclass(frozen=True)
class Unit:
    """One visual unit of a request: its patches, its size, and the token that it fills."""

    start: int
    grid: Grid
    tokens: int
    token_id: int
    row: int | None
    """Row of the batch, None where units of all rows come one after another."""

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]


def read_units(pixel_values: Any, image_units: Any, placeholders: Sequence[int]) -> list[Unit]:
    """Units of `image_units`, int32 [units, 4] or [batch, units, 4], as the processor gives them.

    Sizes are needed on the host, where the shapes of the graph are decided. Rows of zeros are padding.

    Raises:
        ValueError: `image_units` is missing or of another shape, or fills tokens that are no placeholders.
    """
    if image_units is None:
        raise ValueError("pixel_values need image_units, which the processor returns beside them")
    rows = np.array(image_units)
    if rows.ndim not in (2, 3) or rows.shape[-1] != 4:
        raise ValueError(f"image_units must be [units, 4] or [batch, units, 4], not of shape {rows.shape}")
    units = []
    start = 0
    for b, row_units in enumerate(rows if rows.ndim == 3 else rows[None]):
        if pixel_values.ndim == 3:  # a row's patches may end in padding
            start = b * pixel_values.shape[1]
        for height, width, tokens, token_id in row_units.tolist():
            if height:
                if token_id not in placeholders:
                    raise ValueError(f"image_units fills tokens of id {token_id}, placeholders are {placeholders}")
                units.append(Unit(start, (height, width), tokens, token_id, b if rows.ndim == 3 else None))
                start += height * width
    return units


def check_rows(found: np.ndarray, units: list[Unit], token_id: int) -> None:
    """Raise `ValueError` unless the placeholders of each row, `found` of them, are those of whole units."""
    filled = sum(unit.tokens for unit in units)
    if found.sum() != filled:
        raise ValueError(
            f"the prompt has {found.sum()} tokens of id {token_id} for {filled} visual features; "
            "it must not be cut inside an image or a video (in training: raise --max-seq-length)"
        )
    ends = np.cumsum([unit.tokens for unit in units]).tolist()
    last = 0
    for row, count in enumerate(found.tolist()):
        own = sum(unit.tokens for unit in units if unit.row == row) if units and units[0].row is not None else count
        last += count
        if own != count or (last and last not in ends):
            raise ValueError(
                f"row {row} of the batch has {count} tokens of id {token_id}, but its units fill "
                f"{own if own != count else 'other numbers of them'}; rows have {found.tolist()}"
            )


def packed(pixel_values: Any, units: Iterable[Unit]) -> mx.array:
    """Patches of all rows in one array, [patches, columns]."""
    patches = mx.array(pixel_values) if isinstance(pixel_values, np.ndarray) else pixel_values
    patches = patches.reshape(-1, patches.shape[-1])
    needed = max((unit.start + unit.patches for unit in units), default=0)
    # Rows of a padded batch end in padding; without padding every patch belongs to a unit.
    if needed > patches.shape[0] or (pixel_values.ndim == 2 and needed < patches.shape[0]):
        raise ValueError(f"image_units names {needed} patches, but pixel_values has {patches.shape[0]}")
    return patches
