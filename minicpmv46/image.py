"""Images and frames to packed patches, bit-equal to the official processors.

A picture is resized to the sizes that `slicing.plan_slices` gives and cut into slices and patches. A patch is a row of
`patch_size * patch_size * 3` levels in (row, column, channel) order. All patches of a request are normalized together,
each written to its place once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .checks import quote
from .glyphs import upsize_resolution
from .resize import RESIZES, Picture
from .siblings import ImageBackend
from .slicing import Box, Resolution, SliceOptions, SlicePlan, grid_cells, plan_slices

# Patches that are normalized at once: their indices into the table are eight times as large and stay in a cache.
ROWS = 256
# Columns beside the pixels where places are asked for: a patch's row and column.
PLACES = 2


@dataclass(frozen=True)
class PixelOptions:
    """How pixel levels become numbers; defaults of the official processor.

    Attributes:
        image_mean, image_std: one value a channel.
        rescale_factor: multiplies the levels 0..255 first.
    """

    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rescale_factor: float = 1 / 255

    def __post_init__(self) -> None:
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} needs three values, not {quote(getattr(self, name))}")

    def levels(self, backend: ImageBackend) -> np.ndarray:
        """Normalized value of each level and channel, float32 [256, 3].

        The order of operations of each official backend decides the last bit. "pil" rescales: float64 product, rounded
        to float32, then float32 subtraction and division. "torchvision", which videos always have, scales mean and
        deviation instead of the pixels.
        """
        if backend == "pil":
            rescaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)[:, None]
            return (rescaled - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)
        scale = np.float32(1 / self.rescale_factor)
        mean, std = (np.array(values, np.float32) * scale for values in (self.image_mean, self.image_std))
        return (np.arange(256, dtype=np.float32)[:, None] - mean) / std


@dataclass(frozen=True)
class VisualUnits:
    """Overview and slices of one image (or one video frame) with their patches.

    Attributes:
        plan: the geometry.
        patches: uint8 [patches of all units, patch_size * patch_size * 3].
        levels: float32 [256, 3], the number that each level of a channel stands for.
    """

    plan: SlicePlan
    patches: np.ndarray
    levels: np.ndarray


def patchify(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Cut [H, W, C] into rows of patches, [H/p * W/p, p * p * C], in reading order."""
    height, width, channels = image.shape
    rows, cols = height // patch_size, width // patch_size
    patches = image.reshape(rows, patch_size, cols, patch_size, channels).transpose(0, 2, 1, 3, 4)
    return patches.reshape(rows * cols, patch_size * patch_size * channels)


def normalize(patches: np.ndarray, levels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Map levels to numbers: uint8 [N, p * p * 3] to float32 of the same shape, by a table [256, 3]; into `out`."""
    numbers = np.empty(patches.shape, dtype=np.float32) if out is None else out
    # The last axis of a patch repeats red, green, blue: each has its part of one table.
    table, parts = levels.T.ravel(), np.arange(patches.shape[1]) % 3 * len(levels)
    for start in range(0, len(patches), ROWS):
        rows = slice(start, start + ROWS)
        np.take(table, patches[rows] + parts, out=numbers[rows], mode="clip")  # no other mode writes to `out` directly
    return numbers


def plan_picture(picture: Picture, slicing: SliceOptions) -> SlicePlan:
    """Plan how an RGB image is resized and sliced; with "adaptive" what is in it is looked at."""
    height, width = (picture.height, picture.width) if isinstance(picture, Image.Image) else picture.shape[:2]

    def resolution_of(box: Box) -> Resolution:
        return upsize_resolution(part(np.asarray(picture), box), slicing.scale_resolution)

    return plan_slices(height, width, slicing, resolution_of)


def part(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The pixels in a box, a view."""
    top, bottom, left, right = box
    return pixels[top:bottom, left:right]


def cut_units(picture: Picture, backend: ImageBackend, slicing: SliceOptions, levels: np.ndarray) -> VisualUnits:
    """Overview and slices of one RGB picture.

    Args:
        backend: how it is resized.
        levels: table of `PixelOptions.levels`.
    """
    resize, p = RESIZES[backend], slicing.patch_size
    plan = plan_picture(picture, slicing)
    if plan.grid is None or plan.refined is None:
        return VisualUnits(plan, patchify(resize(picture, plan.overview), p), levels)
    own = plan.own_sizes or (None,) * len(plan.cells)
    with ThreadPoolExecutor(1) as beside:  # both read the whole picture and take about as long
        overview = beside.submit(resize, picture, plan.overview)
        refined = resize(picture, plan.refined) if None in own else None
        parts = [patchify(overview.result(), p)]
    for cell, size, tile in zip(plan.cells, own, grid_cells(plan.refined, plan.grid), strict=True):
        if size is not None:
            parts.append(patchify(resize(part(np.asarray(picture), cell), size), p))
        elif refined is not None:
            parts.append(patchify(part(refined, tile), p))
    return VisualUnits(plan, np.concatenate(parts), levels)


def pack_units(units: Sequence[VisualUnits], *, places: bool) -> np.ndarray:
    """Patches of all units, normalized, float32 [patches, p * p * 3].

    Args:
        places: append two columns, each patch's row and column in its unit.
    """
    count, width = sum(len(u.patches) for u in units), units[0].patches.shape[1]
    packed = np.empty((count, width + PLACES * places), dtype=np.float32)
    start = 0
    for unit in units:
        rows = packed[start : start + len(unit.patches)]
        normalize(unit.patches, unit.levels, out=rows[:, :width])
        if places:
            rows[:, width:] = np.concatenate([np.indices(grid).reshape(2, -1).T for grid in unit.plan.patch_grids])
        start += len(unit.patches)
    return packed
