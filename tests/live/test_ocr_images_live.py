"""MiniCPM-OCR's image processing against the official classes: sizes, "adaptive", pixels, prompts. Needs torch."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import drawn_text, sizes, stages
from support.golden_data import SlicesInput, UnitsInput

pytest.importorskip("torch")
pytest.importorskip("torchvision")

import torch
from support import oracle

from minicpmv46.glyphs import upsize_resolution
from minicpmv46.image import PixelOptions
from minicpmv46.slicing import SliceOptions, slice_grid

IMAGE = "<|image_pad|>"


@pytest.fixture(scope="module")
def official(checkpoint: Callable[[str], Path]) -> Any:
    torch.set_num_threads(1)
    return oracle.official_processor(checkpoint("ocr"))


@pytest.fixture
def check(official: Any, processor: Any) -> Callable[..., Any]:
    """Compares prompt, sizes and pixels; theirs is given where both do not take the same."""

    def compare(images: list[Any], theirs: list[Any] | None = None, note: Any = "", **options: Any) -> None:
        text = f"<|im_start|>user\n{IMAGE * len(images)}\nWhat?<|im_end|>\n"
        expected = official(text=[text], images=theirs or images, return_tensors="pt", **options)
        inputs = processor("ocr")(text, images=images, **options)
        np.testing.assert_array_equal(inputs["image_units"][:, :2], expected["target_sizes"], err_msg=str(note))
        np.testing.assert_array_equal(inputs["input_ids"], expected["input_ids"], err_msg=str(note))
        np.testing.assert_array_equal(
            inputs["pixel_values"], oracle.patch_rows(expected["pixel_values"]), err_msg=str(note)
        )

    return compare


def test_sizes() -> None:
    """The official steps, and the functions by themselves."""
    official = oracle.MiniCPMOcrImageProcessor()
    for row in sizes.units_inputs(4000, seed=1):
        given = UnitsInput(*row)
        stages.assert_units(given, oracle.official_units(given))
        options = SliceOptions(max_slice_nums=given.max_slice_nums, scale_resolution=given.scale_resolution)
        size = given.height, given.width
        grid = official.get_sliced_grid(size, given.max_slice_nums, given.scale_resolution)
        assert slice_grid(*size, options) == (grid and tuple(grid)), given


def test_decisions() -> None:
    """The classifier on thousands of drawn pictures, and at its thresholds; another side for some."""
    pictures = [drawn_text.drawn(seed, 140) for seed in range(10_000, 12_500)]
    edges = [*drawn_text.edges().values()]
    for side, given in ((448, pictures + edges), (84, pictures[:100] + edges)):
        for i, picture in enumerate(given):
            assert upsize_resolution(picture, side) == oracle.official_upsize(picture, side), (side, i)


def test_drawn_pictures(check: Any) -> None:
    """Slices of their own size among others, all options, several pictures in one prompt."""
    rows = [SlicesInput(*row) for row in sizes.slices_inputs(120, seed=3)]
    random = np.random.RandomState(3)
    for i, given in enumerate(rows):
        pictures = [drawn_text.drawn_large(given.seed, given.scale_resolution)]
        pictures += [drawn_text.drawn(given.seed + j, given.scale_resolution) for j in range(i % 3)]
        check(
            pictures if i % 2 else [Image.fromarray(picture) for picture in pictures],
            note=given,
            downsample_mode=given.downsample_mode,
            max_slice_nums=given.max_slice_nums,
            slice_mode=given.slice_mode,
            scale_resolution=given.scale_resolution,
            small_image_upsize="adaptive" if random.randint(4) else ("always", "never")[random.randint(2)],
            use_image_id=bool(random.randint(2)),
        )


MODES = (
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"),
    *("I", "F", "I;16"),
)


def in_mode(pixels: np.ndarray, mode: str) -> Image.Image:
    """uint8 [H, W, 4] as a Pillow image of a mode."""
    image = Image.fromarray(pixels)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.convert("RGB").tobytes())
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode in ("P", "PA"):
        return image.convert("RGB").quantize(64).convert(mode)
    return image.convert("RGB").convert(mode) if mode in ("YCbCr", "HSV", "CMYK", "1") else image.convert(mode)


@pytest.mark.parametrize("upsize", ["always", "never", "adaptive"])
@pytest.mark.parametrize("mode", MODES)
def test_pillow_modes(mode: str, upsize: str, check: Any) -> None:
    for seed in (0, 4, 6):
        picture = drawn_text.drawn_large(seed, 112)
        alpha = np.random.RandomState(seed).randint(0, 256, (*picture.shape[:2], 1)).astype(np.uint8)
        image = in_mode(np.concatenate([picture, alpha], -1), mode)
        assert image.mode == mode
        check([image], small_image_upsize=upsize, scale_resolution=112, downsample_mode="4x")


@pytest.mark.parametrize("upsize", ["always", "adaptive"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("first", [False, True], ids=["HWC", "CHW"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays(channels: int, first: bool, kind: str, upsize: str, check: Any) -> None:
    """Single ones and lists; with four channels the alpha is laid on white in float32."""
    arrays = []
    for seed in range(4):
        random, picture = np.random.RandomState(seed), drawn_text.drawn_large(seed, 112)
        alpha = random.randint(0, 256, (*picture.shape[:2], 1)).astype(np.uint8)
        array = np.concatenate([picture, alpha], -1)[..., :channels]
        arrays.append(np.moveaxis(array, -1, 0) if first else array)
    given: list[Any] = (
        [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays] if kind == "torch" else arrays
    )
    check(given, small_image_upsize=upsize, scale_resolution=112)
    check(given[:1], small_image_upsize=upsize, scale_resolution=112)


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 40, 3), (4, 40, 3), (1, 30, 4), (3, 30, 1), (1, 1, 3), (60, 3, 4)])
def test_shapes_that_may_be_read_twice(shape: tuple[int, int, int], check: Any) -> None:
    array = np.random.RandomState(1).randint(0, 256, shape).astype(np.uint8)
    for upsize in ("always", "adaptive"):
        check([array], small_image_upsize=upsize)


def test_array_without_channels(check: Any) -> None:
    """The official processor takes one behind an array that has channels."""
    random = np.random.RandomState(3)
    check([random.randint(0, 256, shape).astype(np.uint8) for shape in ((40, 60, 3), (50, 30), (3, 30), (1, 1))])


def test_every_transparency_and_level(check: Any) -> None:
    """All 65,536 pairs of a level and an alpha, unscaled."""
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    array = np.stack([level, level[::-1], 255 - level, alpha], -1)[:252, :252]
    for picture in (array, array[::-1, ::-1], np.roll(array, (7, 9), (0, 1))):
        picture = np.ascontiguousarray(picture)
        check([picture], small_image_upsize="never")
        check([Image.fromarray(picture)], small_image_upsize="never")


def test_narrow_sizes(check: Any) -> None:
    """One pixel, one row, one column, and sides beside multiples of a patch."""
    random = np.random.RandomState(2)
    for height, width in [(1, 1), (1, 2), (2, 1), (1, 900), (900, 1), (3, 700), (13, 14), (14, 28), (28, 56), (57, 55)]:
        picture = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        for upsize in ("always", "never", "adaptive"):
            for side in (56, 112):
                options = {"small_image_upsize": upsize, "scale_resolution": side, "max_slice_nums": 36}
                check([Image.fromarray(picture)], note=(height, width, options), **options)


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.48145466, 0.4578275, 0.40821073)])
def test_other_normalizations(mean: tuple[float, float, float], official: Any) -> None:
    """Values that a processor file may have."""
    std, scale = (0.26862954, 0.26130258, 0.27577711), 1 / 127.5
    levels = PixelOptions(mean, std, scale).levels("torchvision")
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (1, 256, 3))
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
    expected = official.image_processor.rescale_and_normalize(tensor, True, scale, True, mean, std)
    np.testing.assert_array_equal(levels, expected[0, :, 0].numpy().T)


FILES: dict[str, dict[str, Any]] = {
    **{f"{mode}.png": {"mode": mode} for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    # A transparent colour is passed over, a transparency for each colour of a palette too.
    "1_colour.png": {"mode": "1", "transparency": 0},
    "L_colour.png": {"mode": "L", "transparency": 255},
    "P_colour.png": {"mode": "P", "transparency": 2},
    "P_colours.png": {"mode": "P", "transparency": bytes(range(0, 256, 4))},
    "RGB_colour.png": {"mode": "RGB", "transparency": (255, 255, 255)},
    **{f"turned_{turn}.png": {"mode": "RGB", "turn": turn} for turn in range(1, 9)},
    **{f"turned_{turn}.jpg": {"mode": "RGB", "turn": turn} for turn in range(1, 9)},
    **{f"chroma_{kind}.jpg": {"mode": "RGB", "subsampling": kind} for kind in range(3)},
    "grey.jpg": {"mode": "L"},
    "cmyk.jpg": {"mode": "CMYK"},
    "progressive.jpg": {"mode": "RGB", "progressive": True, "quality": 40},
    "lossy.webp": {"mode": "RGB", "quality": 70},
    "alpha.webp": {"mode": "RGBA", "lossless": True, "exact": True},
    "plain.gif": {"mode": "P"},
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, check: Any, tmp_path: Path) -> None:
    """By path and by data URI, torchvision's decoders there and Pillow's here; opened, as Pillow has them."""
    options = dict(FILES[name])
    picture = drawn_text.drawn_large(4, 112)
    alpha = np.random.RandomState(4).randint(0, 256, (*picture.shape[:2], 1)).astype(np.uint8)
    image = in_mode(np.concatenate([picture, alpha], -1), options.pop("mode"))
    exif = Image.Exif()
    exif[0x112] = options.pop("turn", 1)
    path = tmp_path / name
    image.save(path, exif=exif.tobytes(), **options)
    uri = f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    for upsize in ("never", "adaptive"):
        check([str(path), uri], small_image_upsize=upsize, scale_resolution=112)
    check([Image.open(path)], [Image.open(path)], small_image_upsize="never")  # as stored, on white
