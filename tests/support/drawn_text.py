"""Drawn pictures for the classifier of small letters: integer arithmetic only, the same bytes on every machine.

`drawn(seed)` is a picture of text-like blobs or of what may be mistaken for them. `edges()` are pictures that stand
exactly at the classifier's thresholds, or one step beside them.
"""

from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]

KINDS = ("text", "text", "text", "text", "noise", "specks", "gradient", "plain", "frame", "lines", "waves", "two texts")


def drawn(seed: int, largest: int = 200) -> np.ndarray:
    """A picture, uint8 [height, width, 3], with sides of up to `largest` pixels."""
    random = np.random.RandomState(seed)
    kind = KINDS[seed % len(KINDS)]
    sides = [
        min(largest, _integer(random, *[(1, 9), (9, 60), (60, 140), (140, 261)][_integer(random, 0, 4)])) for _ in "yx"
    ]
    return _coloured(random, _ink(random, kind, (sides[0], sides[1])))


def drawn_large(seed: int, scale_resolution: int) -> np.ndarray:
    """A picture of several units of this side: text of one kind in each part, so that its slices differ."""
    random = np.random.RandomState(seed)
    sides = [scale_resolution * _integer(random, 7, 32) // 10 + _integer(random, 0, 9) for _ in "yx"]
    ink = np.zeros((sides[0], sides[1]), np.int64)
    rows, cols = _integer(random, 1, 5), _integer(random, 1, 5)
    ends = [[side * i // n for i in range(n + 1)] for side, n in zip(sides, (rows, cols), strict=True)]
    for row in range(rows):
        for col in range(cols):
            box = ink[ends[0][row] : ends[0][row + 1], ends[1][col] : ends[1][col + 1]]
            box[:] = _ink(random, KINDS[_integer(random, 0, len(KINDS))], (box.shape[0], box.shape[1]))
    return _coloured(random, ink)


def edges() -> dict[str, np.ndarray]:
    """Pictures at the thresholds by name, black on white."""
    found = {}
    # Median height: 12.0 is small, 12.5 is not; 500 pixels a glyph are exactly 2 in 1,000.
    for heights in ([12, 12], [11, 13], [12, 13], [12, 12, 13], [12, 13, 13], [13], [12], [2, 30], [2, 22], [2, 23]):
        found[f"median {heights}"] = blocks(heights, (50, 10 * len(heights)))
    for height, width in ((65, 100), (65, 101), (65, 99), (100, 65), (101, 65), (1, 6500)):
        found[f"13 glyphs in {height}x{width}"] = blocks([5] * 13, (height, width))
    for height, width in ((1, 6271), (6271, 1), (64, 98), (98, 64), (51, 123), (66, 95), (79, 79), (80, 80)):
        found[f"plain {height}x{width}"] = np.full((height, width, 3), 255, np.uint8)
    # Components of 0.9 of a side are frames.
    for side in range(10, 121, 5):
        for length in {9 * side // 10 - 1, 9 * side // 10, -(-9 * side // 10), 9 * side // 10 + 1}:
            wide = np.full((5, side, 3), 255, np.uint8)
            wide[1:3, :length] = 0
            found[f"{length} of {side} columns"] = wide
            found[f"{length} of {side} rows"] = wide.transpose(1, 0, 2)
    # Specks: fewer than 3 pixels, or one row.
    for name, rows in {
        "1x2": ["11"], "1x3": ["111"], "2x1": ["1", "1"], "2x2": ["11", "11"], "corner": ["10", "11"],
        "slope": ["10", "01"], "long slope": ["100", "010", "001"], "dots": ["101"], "hook": ["110", "001"],
    }.items():  # fmt: skip
        page = np.full((12, 20, 3), 255, np.uint8)
        for y, row in enumerate(rows):
            for x, dot in enumerate(row):
                page[4 + y, 7 + x] = 255 - 255 * int(dot)
        found[f"speck {name}"] = page
        found[f"light speck {name}"] = 255 - page
    # Ink is what covers less than half.
    for columns in (9, 10, 11):
        half = np.full((10, 20, 3), 255, np.uint8)
        half[:, :columns] = 0
        half[3:7, 13:16] = 255 - half[3:7, 13:16]
        half[3:7, 4:7] = 255 - half[3:7, 4:7]
        found[f"{columns} of 20 columns dark"] = half
    return found


def blocks(heights: Sequence[int], size: Size) -> np.ndarray:
    """Black blocks of these heights, 3 pixels wide, with one pixel between them, row by row on white."""
    page = np.full((*size, 3), 255, np.uint8)
    pitch, across = max(heights) + 1, max(size[1] // 4, 1)
    for i, height in enumerate(heights):
        top, left = i // across * pitch, i % across * 4
        page[top : top + height, left : left + 3] = 0
    return page


def _integer(random: np.random.RandomState, low: int, high: int) -> int:
    return int(random.randint(low, high, dtype=np.int64))


def _ink(random: np.random.RandomState, kind: str, size: Size) -> np.ndarray:
    """How much ink is on each pixel, 0..255, int64 [height, width]."""
    y, x = np.arange(size[0], dtype=np.int64)[:, None], np.arange(size[1], dtype=np.int64)[None]
    ink: np.ndarray
    if kind == "text":
        ink = _text(random, y, x, _integer(random, 1, 18)) * 255
    elif kind == "two texts":  # on both sides of the threshold of height
        small, large = (_text(random, y, x, _integer(random, *heights)) for heights in ((8, 13), (12, 17)))
        ink = np.where(x < size[1] * _integer(random, 1, 8) // 8, small, large) * 255
    elif kind == "noise":
        ink = random.randint(0, 256, size, dtype=np.int64)
    elif kind == "specks":
        ink = (random.randint(0, _integer(random, 3, 40), size, dtype=np.int64) == 0) * 255
    elif kind == "gradient":
        ink = (x * _integer(random, 0, 9) + y * _integer(random, 0, 9)) // _integer(random, 1, 9) % 256
    elif kind == "frame":
        wide, inset = _integer(random, 1, 4), [side // _integer(random, 15, 40) for side in size]
        distances = [np.minimum(a, side - 1 - a) - d for a, side, d in zip((y, x), size, inset, strict=True)]
        nearest = np.minimum(*np.broadcast_arrays(*distances))
        ink = np.where((nearest >= 0) & (nearest < wide), 255, _text(random, y, x, _integer(random, 4, 15)) * 200)
    elif kind == "lines":
        ink = ((x * _integer(random, 0, 3) + y * _integer(random, 0, 3)) % _integer(random, 2, 14) == 0) * 255
    elif kind == "waves":
        ink = (x * x // _integer(random, 7, 97) + y * _integer(random, 1, 9) * x // 31) % 256
    else:
        ink = np.zeros(size, np.int64) + 255 * _integer(random, 0, 2)
    return np.broadcast_to(ink, size)


def _text(random: np.random.RandomState, y: np.ndarray, x: np.ndarray, tall: int) -> np.ndarray:
    """Whether there is ink: blocks in rows, up to four pixels lower than `tall`, some left out, some with holes."""
    wide = _integer(random, 1, tall + 3)
    down, across = tall + _integer(random, 1, 6), wide + _integer(random, 1, 6)
    row, col = y // down, x // across
    shape = (len(y) // down + 1, x.shape[1] // across + 1)
    heights = tall - random.randint(0, min(tall, 5), shape, dtype=np.int64)
    kept = random.randint(0, _integer(random, 2, 20), shape, dtype=np.int64) > 0
    ink = (y % down < heights[row, col]) & (x % across < wide) & kept[row, col]
    if _integer(random, 0, 2):
        ink &= random.randint(0, _integer(random, 5, 60), ink.shape, dtype=np.int64) > 0
    return ink


def _coloured(random: np.random.RandomState, ink: np.ndarray) -> np.ndarray:
    """Ink on paper, dark on light or light on dark, of any colours, with or without noise."""
    paper, pen = random.randint(0, 256, (2, 3), dtype=np.int64)
    if _integer(random, 0, 3):  # mostly with contrast
        paper, pen = (paper // 4 + 190, pen // 4) if _integer(random, 0, 2) else (paper // 4, pen // 4 + 190)
    levels = (paper + (pen - paper) * np.arange(256)[:, None] // 255).astype(np.int16)[ink]
    most = [0, 0, 3, 12, 60][_integer(random, 0, 5)]
    if most:
        levels += random.randint(-most, most + 1, (*ink.shape, 1), dtype=np.int16)
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)
