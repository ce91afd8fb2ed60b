"""How large the letters in a small image are: what `small_image_upsize="adaptive"` enlarges an image by.

This is the official classifier (transformers, `adaptive_upsize_resolution`). An Otsu threshold separates ink from
paper, and 8-connected components of ink are glyphs. Small glyphs that are close together are text that is enlarged to
be read. The model was trained with these thresholds. The official code uses OpenCV too, which comes with mlx-vlm.
"""

from __future__ import annotations

import numpy as np

from .slicing import TINY_PIXELS, TINY_RESOLUTION, Resolution

# Text is small up to this median height of its glyphs in pixels, and dense from so many glyphs in 1,000 pixels.
SMALL_HEIGHT, DENSE = 12.0, 2.0
# Components of fewer pixels or of less height are specks; those as wide or high as the image, almost, are frames.
MIN_AREA, MIN_HEIGHT, FRAME = 3, 2, 0.9
# Luma of red, green and blue in 65,536ths, as Pillow computes it (ITU-R 601-2), and the half that rounds.
LUMA = ((19595, 38470, 7471, 32768),)
# Rows whose levels are numbers of four bytes at a time.
STRIPE = 64


def upsize_resolution(pixels: np.ndarray, scale_resolution: int) -> Resolution:
    """Side in pixels of the square whose area an image is enlarged to, None where it keeps its size.

    Args:
        pixels: uint8 [height, width, 3].
        scale_resolution: the side for small dense text.
    """
    height, width = pixels.shape[:2]
    heights = glyph_heights(pixels)
    dense = len(heights) * 1000.0 / (width * height) >= DENSE
    if dense and 0 < np.median(heights) <= SMALL_HEIGHT:
        return scale_resolution
    return TINY_RESOLUTION if height * width < TINY_PIXELS else None


def glyph_heights(pixels: np.ndarray) -> np.ndarray:
    """Heights in pixels of the glyphs in uint8 [height, width, 3], int32 [glyphs]."""
    import cv2

    height, width = pixels.shape[:2]
    _, paper = cv2.threshold(_luma(pixels), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    ink = paper == 0
    if 2 * np.count_nonzero(ink) > ink.size:  # glyphs cover less than half of an image: these are light on dark
        ink = ~ink
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink.view(np.uint8), connectivity=8)
    components = stats[1:]  # the first is everything that is not ink
    widths, heights, areas = (components[:, i] for i in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
    glyphs = (areas >= MIN_AREA) & (heights >= MIN_HEIGHT) & (widths < FRAME * width) & (heights < FRAME * height)
    found: np.ndarray = heights[glyphs]
    return found


def _luma(pixels: np.ndarray) -> np.ndarray:
    """Grey levels of uint8 [height, width, 3], uint8 [height, width].

    In float32: the sums are integers below 2**24 over a power of two, so they are exact. OpenCV's own conversion rounds
    otherwise.
    """
    import cv2

    gray, weights = np.empty(pixels.shape[:2], np.uint8), np.array(LUMA, np.float32) / 65536
    for top in range(0, len(gray), STRIPE):
        rows = slice(top, top + STRIPE)
        gray[rows] = cv2.transform(pixels[rows].astype(np.float32), weights)  # storing it drops the fraction
    return gray
