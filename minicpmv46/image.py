"""Images and frames to packed patches, bit-equal to the official processors.

An image is decoded to RGB, resized to the sizes that `slicing.plan_slices` gives and cut into slices and patches. A
patch is a row of `patch_size * patch_size * 3` levels in (row, column, channel) order. All patches of a request are
normalized together, each written to its place once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .slicing import Size, SliceOptions, SlicePlan, plan_slices

# Longest source that an error quotes in full; data URIs hold whole images.
MAX_QUOTED = 200
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
                raise ValueError(f"{name} needs three values, not {getattr(self, name)!r}")

    def image_levels(self) -> np.ndarray:
        """Normalized value of each level and channel of an image, float32 [256, 3].

        The official order of operations decides the last bit: float64 product, rounded to float32, then float32
        subtraction and division.
        """
        rescaled = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)[:, None]
        return (rescaled - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)

    def video_levels(self) -> np.ndarray:
        """The same for a video, whose official processor scales mean and deviation instead of the pixels."""
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


def read_image(source: Any, name: str) -> Image.Image:
    """Decode `source` into an RGB image.

    Files, URLs, data URIs and `BytesIO` are turned upright by their EXIF tag and lose transparency; PIL images and
    arrays are taken as they are and transparency is laid on white. Both as the official processor does.

    Args:
        source: path, URL, data URI, `BytesIO`, PIL image, or a uint8 array [H, W], [H, W, C] or [C, H, W] with
            1, 3 or 4 channels.
        name: what to call the image in an error.

    Raises:
        ValueError: not an image, truncated, or without pixels.
    """
    image = _decode(source, name)
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def read_frame(source: Any, name: str) -> np.ndarray:
    """The same as an array, uint8 [H, W, 3]."""
    return np.asarray(_decode(source, name))


def on_host(source: Any) -> Any:
    """`source`, an array of another library as numpy's; MLX evaluates one only on the thread that made it."""
    return np.asarray(source) if _is_array(source) else source


def _is_array(source: Any) -> bool:
    return hasattr(source, "__array__") and not isinstance(source, Image.Image)


def _decode(source: Any, name: str) -> np.ndarray | Image.Image:
    """RGB in the form that costs least."""
    if _is_array(source):
        array = _rgb_from_array(np.asarray(source), name)
        _check_pixels(array.shape[0], array.shape[1], name)
        return array
    if not isinstance(source, (str, Path, BytesIO, Image.Image)):
        kind = "" if source is None else f" ({type(source).__name__})"
        raise ValueError(f"{name} is {source!r:.40}{kind}, not a path, a PIL image or an array")
    if isinstance(source, Image.Image):
        _check_pixels(source.height, source.width, name)
    try:
        image = _rgb_from_pil(source) if isinstance(source, Image.Image) else _rgb_from_file(source)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # mlx-vlm wraps what went wrong in words that quote the source in full, which may be the data itself.
        reason = (isinstance(error, ValueError) and error.__cause__) or error
        raise ValueError(f"{name}: cannot read {_describe(source)}: {reason}") from error
    _check_pixels(image.height, image.width, name)
    return image


def _describe(source: Any) -> str:
    if not isinstance(source, (str, Path)):
        return f"this {type(source).__name__}"
    text = str(source)
    return repr(text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…")


def _check_pixels(height: int, width: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"{name} has no pixels: {height}x{width} (height x width)")


def _rgb_from_file(source: str | Path | BytesIO) -> Image.Image:
    from mlx_vlm.utils import load_image  # reads paths, URLs and data URIs; upright and RGB

    image: Image.Image = load_image(source.removeprefix("file://") if isinstance(source, str) else source)
    return image


def _rgb_from_pil(image: Image.Image) -> Image.Image:
    image.load()  # what cannot be decoded is told here, and two threads may resize it then
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _rgb_from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ValueError(f"{name} is an array of {array.dtype}; arrays of pixels must be uint8")
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and array.shape[0] in (1, 3, 4):  # channels first wins a tie, as in transformers
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has shape {array.shape}; expected [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels"
        )
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    if array.shape[-1] == 4:
        alpha = array[..., 3:] / 255
        return np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return array


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


def image_units(
    size: Size, resize: Callable[[Size], np.ndarray], slicing: SliceOptions, levels: np.ndarray
) -> VisualUnits:
    """Overview and slices of one picture of `size` = (height, width) pixels.

    Args:
        resize: gives the picture in another size, uint8 [height, width, 3]; called from two threads.
        levels: table of `PixelOptions.image_levels` or `video_levels`.
    """
    plan = plan_slices(*size, slicing)
    p = slicing.patch_size
    if plan.grid is None or plan.refined is None:
        return VisualUnits(plan, patchify(resize(plan.overview), p), levels)
    with ThreadPoolExecutor(1) as beside:  # both read the whole picture and take about as long
        overview = beside.submit(resize, plan.overview)
        refined = resize(plan.refined)
        parts = [patchify(overview.result(), p)]
    height, width = plan.slice_size
    for row in range(plan.grid[0]):
        for col in range(plan.grid[1]):
            tile = refined[row * height : (row + 1) * height, col * width : (col + 1) * width]
            parts.append(patchify(tile, p))
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


def flatten_images(images: Any) -> list[Any]:
    """One image, a list of images or a list of lists (one a prompt) to a flat list; None to an empty one."""
    if images is None:
        return []
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
        nested = [flatten_images(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in images]
        return [image for entries in nested for image in entries]
    return [images]
