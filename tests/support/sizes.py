"""Sizes of images and lengths of videos, random and awkward ones, for comparing slices and sampled frames."""

import math

import numpy as np


def geometry_inputs(count: int, seed: int = 0) -> list[tuple[int, int, str, int, bool]]:
    """`count` distinct (height, width, token mode, max_slice_nums, slice_mode), a tenth awkward corners."""
    sides = [
        1,
        2,
        13,
        14,
        27,
        28,
        29,
        55,
        56,
        57,
        112,
        223,
        224,
        225,
        447,
        448,
        449,
        633,
        634,
        895,
        896,
        1344,
    ]
    corners = [
        (height, width, mode, slices, True)
        for height in sides
        for width in (height, 1, 448, 1000, 3000)
        for mode, slices in (("16x", 9), ("4x", 36))
    ]
    random = np.random.RandomState(seed)
    found = dict.fromkeys(corners[:: max(1, math.ceil(10 * len(corners) / count))])
    while len(found) < count:
        height = int(2 ** random.uniform(0, 12))
        width = int(min(4096, max(1, height * 2 ** random.uniform(-3, 3))))
        slices = int(random.choice([1, 2, 3, 4, 5, 6, 9, 12, 16, 25, 36]))
        mode = "4x" if random.randint(2) else "16x"
        found[(height, width, mode, slices, bool(random.randint(10) > 0))] = None
    return list(found)[:count]


def units_inputs(count: int, seed: int = 0) -> list[tuple[int, int, str, int, bool, str, int]]:
    """`count` distinct (height, width, token mode, max_slice_nums, slice_mode, small_image_upsize, scale_resolution).

    A tenth has other units than those of 448 pixels a side, a tenth has about as many pixels as one unit.
    """
    random = np.random.RandomState(seed)
    found: dict[tuple[int, int, str, int, bool, str, int], None] = {}
    while len(found) < count:
        side = 448 if random.randint(10) else int(random.choice([14, 27, 56, 84, 100, 112, 224, 300, 447, 700, 1792]))
        height = int(2 ** random.uniform(0, 12))
        width = int(min(4096, max(1, height * 2 ** random.uniform(-4, 4))))
        if not random.randint(10):
            width = max(1, side**2 // height + random.randint(-1, 2))
        slices = int(random.choice([1, 2, 3, 4, 5, 6, 9, 9, 12, 16, 25, 36, 100]))
        mode, upsize = ("4x", "16x")[random.randint(2)], ("always", "never", "never")[random.randint(3)]
        found[(height, width, mode, slices, bool(random.randint(10) > 0), upsize, side)] = None
    return list(found)


def slices_inputs(count: int, seed: int = 0) -> list[tuple[int, str, int, bool, int]]:
    """`count` distinct (seed of a drawn picture, token mode, max_slice_nums, slice_mode, scale_resolution)."""
    random = np.random.RandomState(seed)
    found = []
    for i in range(count):
        mode, slices = ("4x", "4x", "16x")[random.randint(3)], int(random.choice([4, 6, 9, 9, 16, 36]))
        side = int(random.choice([56, 84, 85, 140, 168, 168, 196, 196, 224, 224]))
        found.append((1000 * seed + i, mode, slices, bool(random.randint(10) > 0), side))
    return found


def sampling_inputs(count: int, seed: int = 0) -> list[tuple[int, float, float, int, int]]:
    """`count` distinct (frames, fps, duration in seconds, max_num_frames, stack_frames)."""
    random = np.random.RandomState(seed)
    found: dict[tuple[int, float, float, int, int], None] = {}
    while len(found) < count:
        fps = float(random.choice([1, 5, 7.5, 10, 12.5, 15, 23.976, 24, 25, 29.97, 30, 59.94, 60]))
        seconds = float(random.choice([0.3, 1, 2, 3.5, 4, 8, 8.1, 20, 64, 128, 129, 200])) + random.randint(3) / fps
        frames = max(1, round(seconds * fps))
        maximum, stack = int(random.choice([1, 2, 4, 8, 64, 128])), int(random.randint(1, 6))
        found[(frames, fps, frames / fps, maximum, stack)] = None
    return list(found)
