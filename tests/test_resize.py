"""The resize of video frames as products: exact whatever the sizes, and too small for BLAS to start threads."""

from typing import Any, ClassVar

import numpy as np
import pytest

from minicpmv46 import resize
from minicpmv46.resize import MAX_PLACES, PRODUCT, resize_frame

Size = tuple[int, int]
SIZES: list[tuple[Size, Size]] = [
    ((1, 1), (1, 1)),
    ((1, 1), (28, 56)),
    ((1, 301), (14, 42)),
    ((301, 1), (42, 14)),
    ((37, 53), (1, 1)),
    ((37, 53), (37, 53)),
    ((37, 53), (37, 70)),
    ((37, 53), (28, 53)),
    ((37, 53), (73, 101)),
    ((3, 1700), (5, 17)),
    ((400, 611), (336, 56)),
]


def along(pixels: np.ndarray, n_out: int) -> np.ndarray:
    """The first axis of uint8 [n, ...] as sums of integers, output by output."""
    if len(pixels) == n_out:
        return pixels
    first, weights = resize._taps(len(pixels), n_out)
    integers = (weights * (1 << MAX_PLACES)).astype(np.int64)
    assert (integers == weights * (1 << MAX_PLACES)).all()
    out = []
    for start, row in zip(first, integers, strict=True):
        taps = pixels[start : start + len(row)].astype(np.int64)
        total = np.tensordot(row[: len(taps)], taps, 1)
        out.append(np.clip((total + (1 << (MAX_PLACES - 1))) >> MAX_PLACES, 0, 255))
    return np.stack(out).astype(np.uint8)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_sums_are_exact(size: Size, wanted: Size) -> None:
    """Noise, and black beside white, where sums leave the range of levels."""
    random = np.random.RandomState(0)
    noise = random.randint(0, 256, (*size, 3)).astype(np.uint8)
    for frame in (noise, noise // 128 * 255, noise[::-1, ::-1]):
        rows = along(frame.swapaxes(0, 1), wanted[1]).swapaxes(0, 1)
        np.testing.assert_array_equal(resize_frame(frame, wanted), along(rows, wanted[0]))


def test_largest_sums_are_exact() -> None:
    """White under the positive weights of an output, black under the others, and the reverse."""
    types = set()
    for n_in, n_out in [(30, 31), (30, 40), (41, 40), (61, 40), (79, 40), (81, 40), (160, 40), (997, 33), (3000, 41)]:
        first, weights = resize._taps(n_in, n_out)
        types.add(weights.dtype)
        pixels = np.zeros((n_in, n_out), np.uint8)
        for column, (start, row) in enumerate(zip(first, weights, strict=True)):
            taps = pixels[start : start + len(row), column]
            taps[:] = 255 * (row[: len(taps)] > 0)
        for given in (pixels, 255 - pixels):
            np.testing.assert_array_equal(resize._along(given, n_out), along(given, n_out), err_msg=str((n_in, n_out)))
    assert types == {np.dtype(np.float32), np.dtype(np.float64)}


class Band(np.ndarray):
    """Weights that note how large the products are."""

    sizes: ClassVar[list[int]] = []

    def __matmul__(self, other: Any) -> Any:
        self.sizes.append(self.size * other.shape[1])
        return np.asarray(self) @ other


@pytest.mark.parametrize(
    ("size", "wanted"), [((1080, 1920), (336, 616)), ((90, 160), (448, 784)), ((2160, 3840), (28, 28))]
)
def test_products_are_too_small_for_threads(size: Size, wanted: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = resize._bands
    monkeypatch.setattr(
        resize, "_bands", lambda *sizes: [(start, low, band.view(Band)) for start, low, band in bands(*sizes)]
    )
    monkeypatch.setattr(Band, "sizes", [])
    resize_frame(np.zeros((*size, 3), np.uint8), wanted)
    # Smaller ones by far would cost more calls than they save.
    assert PRODUCT // 4 < max(Band.sizes) <= PRODUCT
