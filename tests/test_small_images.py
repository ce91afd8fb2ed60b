"""MiniCPM-OCR's images: `small_image_upsize` against recorded answers of the official code, and files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import drawn_text, golden_data, stages

from minicpmv46 import glyphs
from minicpmv46.decoding import open_image
from minicpmv46.glyphs import upsize_resolution
from minicpmv46.image import plan_picture
from minicpmv46.options import changed


def test_sizes() -> None:
    """Sizes, grids and token counts of "always" and "never"."""
    rows = golden_data.units()
    assert len(rows) >= 500
    for given, expected in rows:
        stages.assert_units(given, expected)


def test_decisions() -> None:
    """What "adaptive" makes of text-like blobs, of what is no text, and at each threshold."""
    rows, edges = golden_data.upsizes(), drawn_text.edges()
    assert {side for _, side in rows} == {448, 84, None}
    assert set(edges) == {picture for picture, _ in rows if isinstance(picture, str)}
    for picture, expected in rows:
        pixels = edges[picture] if isinstance(picture, str) else drawn_text.drawn(picture)
        assert upsize_resolution(pixels, 448) == expected, picture


def test_decisions_ignore_the_layout() -> None:
    """A view with other strides, as a cell of a larger picture is, gives the same."""
    for seed in range(12):
        pixels = drawn_text.drawn(seed)
        height, width = pixels.shape[:2]
        page = np.zeros((height + 9, width + 5, 3), np.uint8)
        page[4 : height + 4, 3 : width + 3] = pixels
        view = page[4 : height + 4, 3 : width + 3]
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
        expected = upsize_resolution(pixels, 448)
        assert upsize_resolution(view, 448) == upsize_resolution(planes, 448) == expected, seed


def test_grey_levels() -> None:
    """Those of Pillow's arithmetic for every red and green, with a fifth of the blues."""
    red, green = (axis.astype(np.int64) for axis in np.indices((256, 256)))
    for blue in range(0, 256, 5):
        picture = np.stack([red, green, np.full_like(red, blue)], -1).astype(np.uint8)
        expected = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
        np.testing.assert_array_equal(glyphs._luma(picture), expected, err_msg=str(blue))


def test_slices(processor: Any) -> None:
    """Sizes of slices that "adaptive" decides about one by one, and token counts."""
    rows, differ, images = golden_data.adaptive_slices(), 0, processor("ocr").image_processor
    for given, expected in rows:
        options = {**asdict(given), "small_image_upsize": "adaptive"}
        picture = drawn_text.drawn_large(options.pop("seed"), given.scale_resolution)
        plan = plan_picture(picture, changed(images, options).slicing)
        assert plan.patch_grids == expected, given
        divisor = 4 if given.downsample_mode == "4x" else 16
        tokens = sum(rows * cols // divisor for rows, cols in expected)
        assert images.num_image_tokens(*picture.shape[:2], image=picture, **options) == tokens, given
        assert images.num_image_tokens(*picture.shape[:2], **options) >= tokens, given
        differ += len(set(expected[1:])) > 1
    assert differ >= 20  # pictures whose slices differ in size


@pytest.mark.parametrize(("mode", "colour"), [("1", 0), ("L", 60), ("P", 1), ("RGB", (60, 60, 60)), ("RGBA", None)])
def test_transparency_of_files(mode: str, colour: Any, tmp_path: Path) -> None:
    """A file's transparency is passed over, as decoders of tensors do; Pillow's backend lays a colour on white."""
    levels = np.arange(30, dtype=np.uint8).repeat(40).reshape(30, 40) * 3
    rgba = np.stack([levels, levels, levels, 255 - levels], -1)
    image = Image.fromarray(rgba) if mode == "RGBA" else Image.fromarray(rgba[..., :3].copy()).convert(mode)
    plain = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "picture.png", **({} if colour is None else {"transparency": colour}))
    source = open_image(tmp_path / "picture.png", "image")
    np.testing.assert_array_equal(source.picture("torchvision"), plain)
    assert source.image("torchvision").info.get("transparency") is None
    assert (np.asarray(source.picture("pil")) == plain).all() == (mode == "RGBA")


def test_files_of_16_bits(tmp_path: Path) -> None:
    """Grey levels are scaled to 8 bits and rounded."""
    levels = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "scan.png")
    picture = np.asarray(open_image(tmp_path / "scan.png", "image").picture("torchvision"))
    np.testing.assert_array_equal(picture, np.round(levels / 257).astype(np.uint8)[..., None].repeat(3, -1))
