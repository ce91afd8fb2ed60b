"""The two resizes of the official processors: Pillow's, and torchvision's, which video frames always have.

Both are antialiased bicubic, but they round differently, by up to two levels; on small random checkpoints that alone
changed greedy tokens. Pillow's is Pillow itself. Torchvision's integer arithmetic is done here: weights
of 16 bits, the rows' pass first, each pass rounded to a level. As banded matrix products of floats, whose sums of
integers (over a power of two) are exact, it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from .siblings import ImageBackend
from .slicing import Size

BICUBIC = int(Image.Resampling.BICUBIC)
# The cubic kernel's parameter in antialiased resizes, and its reach in source pixels when enlarging.
CUBIC, REACH = -0.5, 2.0
# Weights are integers below 2**WEIGHT_BITS with at most MAX_PLACES binary places.
WEIGHT_BITS, MAX_PLACES = 15, 22
# float32 has all integers up to this one.
FLOAT32 = 1 << 24
# Outputs computed by one product; few enough that its band of inputs is narrow.
BLOCK = 8
# Multiplications of one product. For more than these OpenBLAS, which numpy brings on most systems, uses its threads;
# where other processes run, products this short wait for threads ten times as long as they take.
PRODUCT = 1 << 18


# An RGB picture: Pillow's, or uint8 [height, width, 3].
Picture = Image.Image | np.ndarray


def resize_image(picture: Picture, size: Size) -> np.ndarray:
    """Resize an RGB picture to `size` = (height, width) pixels as Pillow does.

    Returns:
        uint8 [height, width, 3].
    """
    height, width = size
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    same = image.size == (width, height)
    return np.asarray(image if same else image.resize((width, height), resample=Image.Resampling.BICUBIC))


def resize_frame(picture: Picture, size: Size) -> np.ndarray:
    """The same as torchvision does."""
    import cv2

    height, width = size
    frame = np.asarray(picture)
    if frame.shape[1] != width:  # OpenCV transposes ten times as fast as numpy
        frame = cv2.transpose(_along(cv2.transpose(frame), width))
    if frame.shape[0] != height:
        frame = _along(frame, height)
    return frame


RESIZES: dict[ImageBackend, Callable[[Picture, Size], np.ndarray]] = {"pil": resize_image, "torchvision": resize_frame}


def _along(pixels: np.ndarray, n_out: int) -> np.ndarray:
    """Resize the first axis of uint8 [n, ...] to `n_out`."""
    columns = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    out = np.empty((n_out, columns.shape[1]), dtype=np.uint8)
    for start, low, band in _bands(len(pixels), n_out):
        rows, stripe = columns[low : low + band.shape[1]], max(PRODUCT // band.size, 1)
        for left in range(0, columns.shape[1], stripe):
            levels = band @ rows[:, left : left + stripe].astype(band.dtype)
            levels += 0.5  # storing them as integers drops the fraction: half a level goes up
            out[start : start + BLOCK, left : left + stripe] = np.clip(levels, 0, 255, out=levels)
    return out.reshape(n_out, *pixels.shape[1:])


@lru_cache(maxsize=64)
def _bands(n_in: int, n_out: int) -> list[tuple[int, int, np.ndarray]]:
    """Blocks of outputs: the first output, the first input, and weights [outputs, inputs]."""
    first, weights = _taps(n_in, n_out)
    taps, bands = np.arange(weights.shape[1]), []
    for start in range(0, n_out, BLOCK):
        rows = slice(start, start + BLOCK)
        low = int(first[rows].min())
        places = (first[rows] - low)[:, None] + taps
        band = np.zeros((len(places), int(places.max()) + 1), dtype=weights.dtype)
        np.put_along_axis(band, places, weights[rows], axis=1)
        bands.append((start, low, np.ascontiguousarray(band[:, : n_in - low])))
    return bands


def _taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """First input of each output, and its weights [n_out, taps], integers over one power of two.

    They are float32 where sums of their products with levels are exact so, and float64 elsewhere.
    """
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
    integers = np.trunc(weights * (1 << places) + np.where(weights < 0, -0.5, 0.5))
    largest = np.abs(integers).sum(1).max() * 255 + (1 << places) / 2
    return first, (integers / (1 << places)).astype(np.float32 if largest < FLOAT32 else np.float64)
