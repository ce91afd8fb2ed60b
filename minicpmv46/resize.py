"""The two resizes of the official processors: Pillow's for images, torchvision's for video frames.

Both are antialiased bicubic, but they round differently, by up to two levels; on small random checkpoints that alone
changed greedy tokens. Images go to Pillow itself. For frames, torchvision's integer arithmetic is done here: weights
of 16 bits, the rows' pass first, each pass rounded to a level. As banded matrix products in float64, whose sums of
integers are exact, it needs no torch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from .slicing import Size

BICUBIC = int(Image.Resampling.BICUBIC)
# The cubic kernel's parameter in antialiased resizes, and its reach in source pixels when enlarging.
CUBIC, REACH = -0.5, 2.0
# Weights are integers below 2**WEIGHT_BITS with at most MAX_PLACES binary places.
WEIGHT_BITS, MAX_PLACES = 15, 22
# Outputs computed by one product; few enough that its band of inputs is narrow.
BLOCK = 16


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [H, W, 3] to `size` = (height, width) pixels as the official image processor (Pillow) does."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), resample=Image.Resampling.BICUBIC))


def resize_frame(frame: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [H, W, 3] to `size` = (height, width) pixels as the official video processor (torchvision) does."""
    height, width, channels = frame.shape
    if width != size[1]:
        rows = np.ascontiguousarray(frame.swapaxes(0, 1)).reshape(width, height * channels)
        frame = _along(rows, size[1]).reshape(size[1], height, channels).swapaxes(0, 1)
    if height != size[0]:
        columns = np.ascontiguousarray(frame).reshape(height, size[1] * channels)
        frame = _along(columns, size[0]).reshape(size[0], size[1], channels)
    return frame


def _along(pixels: np.ndarray, n_out: int) -> np.ndarray:
    """Resize the first axis of uint8 [n, k] to `n_out`."""
    out = np.empty((n_out, pixels.shape[1]), dtype=np.uint8)
    bands, places = _bands(pixels.shape[0], n_out)
    for start, low, band in bands:
        sums = band @ pixels[low : low + band.shape[1]].astype(np.float64)
        levels = np.floor(np.ldexp(sums, -places, out=sums) + 0.5)
        out[start : start + BLOCK] = np.clip(levels, 0, 255, out=levels)
    return out


@lru_cache(maxsize=64)
def _bands(n_in: int, n_out: int) -> tuple[list[tuple[int, int, np.ndarray]], int]:
    """Blocks of outputs: the first output, the first input, and integer weights [outputs, inputs]; binary places."""
    first, weights, places = _taps(n_in, n_out)
    bands = []
    for start in range(0, n_out, BLOCK):
        rows = range(start, min(start + BLOCK, n_out))
        low = int(first[rows].min())
        high = min(int(first[rows].max()) + weights.shape[1], n_in)
        band = np.zeros((len(rows), high - low))
        for row in rows:
            count = min(weights.shape[1], n_in - first[row])
            band[row - start, first[row] - low :][:count] = weights[row, :count]
        bands.append((start, low, band))
    return bands, places


def _taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray, int]:
    """First input of each output, its weights as integers [n_out, taps], and their binary places."""
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = REACH * stretch
    center = scale * (np.arange(n_out) + 0.5)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    count = np.minimum((center + support + 0.5).astype(np.int64), n_in) - first
    tap = np.arange(int(np.ceil(support)) * 2 + 1)
    x = np.abs((tap + first[:, None] - center[:, None] + 0.5) * (1.0 / stretch))
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    weights = np.where(x < 1, near, np.where(x < REACH, far, 0.0))
    weights = np.where(tap < count[:, None], weights, 0.0)
    total = np.zeros(n_out)
    for t in range(len(tap)):  # one after the other: the order of a sum decides its last bit
        total += weights[:, t]
    weights /= total[:, None]
    places = 0
    while places < MAX_PLACES and int(0.5 + weights.max() * (1 << (places + 1))) < 1 << WEIGHT_BITS:
        places += 1
    return first, np.trunc(weights * (1 << places) + np.where(weights < 0, -0.5, 0.5)), places
