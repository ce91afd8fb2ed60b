"""Images from any source to RGB: opened first, which reads their size and decodes nothing, and decoded later.

A caller's PIL image is read by one thread at a time, and what is made of it is a copy.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .checks import quote
from .limits import Limits
from .resize import Picture
from .siblings import ImageBackend
from .slicing import Size
from .sources import label, locate

# Formats that are opened, of all that Pillow knows: some others start programs (EPS starts Ghostscript) or are so rare
# that nobody looks after their decoders. HEIF is there where `pillow_heif` has registered it.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")

# One for each of the callers' PIL images that are read at a time, by their addresses: two may share one.
_LOCKS = tuple(threading.Lock() for _ in range(61))

# What decoders raise for a damaged image; a damaged AVIF is a RuntimeError.
_DAMAGE = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageSource:
    """An image that is not decoded yet.

    Attributes:
        name: what to call the image in an error.
        source: path, encoded bytes, PIL image, or uint8 array [H, W, 1, 3 or 4 channels].
        size: (height, width) in pixels as stored; EXIF may turn it.
        label: the source, shortened, for an error.
        box: (width, height) that the image is made to fit in, as `mlx_vlm.utils.resize_image` does; None leaves it.
    """

    name: str
    source: Path | bytes | Image.Image | np.ndarray
    size: Size
    label: str
    box: tuple[int, int] | None = None

    @property
    def used_size(self) -> Size:
        """(height, width) of what the model sees."""
        return self.size if self.box is None else self._fitted(*self.size)

    def check_pixels(self, limits: Limits) -> None:
        """Raise `ValueError` where there are more pixels than the limits allow."""
        height, width = self.size
        limits.check("pixels", f"{self.name}, {height}x{width} (height x width), has pixels:", height * width)

    def image(self, backend: ImageBackend = "pil") -> Image.Image:
        """The image in RGB as a backend reads it; raises `ValueError` if it is damaged."""
        decoded = self._decoded(backend)
        image = Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded
        if self.box is None:
            return image
        height, width = self._fitted(image.height, image.width)
        fitted = image.resize((width, height))
        fitted.info.pop("transparency", None)  # the image is opaque since it was read
        return fitted

    def array(self) -> np.ndarray:
        """The same as uint8 [H, W, 3]."""
        return np.asarray(self._decoded("pil"))

    def picture(self, backend: ImageBackend) -> Picture:
        """The image in RGB as a backend's resize takes it at least cost."""
        if backend == "torchvision" and isinstance(self.source, np.ndarray) and self.source.shape[-1] == 4:
            return replace(self, source=_flattened(self.source)).picture(backend)
        return self.image() if backend == "pil" else np.asarray(self.image(backend))

    def _fitted(self, height: int, width: int) -> Size:
        assert self.box is not None
        ratio = min(self.box[0] / width, self.box[1] / height)
        if ratio * min(width, height) < 1:
            raise ValueError(
                f"{self.name}: resize_shape {self.box} leaves no pixel of {width}x{height} (width x height)"
            )
        return int(height * ratio), int(width * ratio)

    def _decoded(self, backend: ImageBackend) -> Image.Image | np.ndarray:
        """RGB in the form that costs least."""
        if isinstance(self.source, np.ndarray):
            return _rgb_from_array(self.source)
        try:
            if isinstance(self.source, Image.Image):
                with _LOCKS[id(self.source) // 16 % len(_LOCKS)]:
                    return _rgb_from_pil(self.source)
            with _open(self.source) as image:
                upright = ImageOps.exif_transpose(image)
                if backend == "torchvision":
                    return _opaque(upright)
                # A transparent colour outlives the conversion, an alpha channel does not; officially too.
                rgb = upright.convert("RGB")
                return _on_white(rgb) if _has_transparency(rgb) else rgb
        except MemoryError as error:
            raise MemoryError(
                f"{self.name}: not enough memory for {self.label}, {self.size[0]}x{self.size[1]}"
            ) from error
        except _DAMAGE as error:
            raise _unreadable(self.name, self.label, error) from error


def open_image(source: Any, name: str) -> ImageSource:
    """Look at an image without decoding it.

    Files, URLs, data URIs and `BytesIO` are turned upright by their EXIF tag and lose an alpha channel; with the "pil"
    backend a transparent colour (`tRNS`) is laid on white. PIL images and arrays are taken as they are and transparency
    is laid on white. All as the official processors do.

    Args:
        source: path, URL, data URI, `BytesIO`, PIL image, or a uint8 array [H, W], [H, W, C] or [C, H, W] with
            1, 3 or 4 channels.
        name: what to call the image in an error.

    Raises:
        ValueError: not an image, or without pixels.
    """
    called = label(source)
    if _is_array(source):
        array = _channels_last(np.asarray(source), name)
        return _with_pixels(ImageSource(name, array, (array.shape[0], array.shape[1]), called))
    if isinstance(source, Image.Image):
        return _with_pixels(ImageSource(name, source, (source.height, source.width), called))
    if not isinstance(source, (str, Path, BytesIO)):
        kind = "" if source is None else f" ({type(source).__name__})"
        raise ValueError(f"{name} is {quote(source)}{kind}, not a path, a PIL image or an array")
    try:
        encoded = locate(source)
        with _open(encoded) as image:
            size = image.height, image.width
    except _DAMAGE as error:
        raise _unreadable(name, called, error) from None  # the sentence has all that was said
    return _with_pixels(ImageSource(name, encoded, size, called))


def on_host(source: Any) -> Any:
    """`source`, an array of another library as numpy's; MLX evaluates one only on the thread that made it."""
    return np.asarray(source) if _is_array(source) else source


def flatten_images(images: Any) -> list[Any]:
    """One image, a list of images or a list of lists (one a prompt) to a flat list; None to an empty one."""
    if images is None:
        return []
    if isinstance(images, Sequence) and not isinstance(images, (str, bytes)):
        nested = [flatten_images(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in images]
        return [image for entries in nested for image in entries]
    return [images]


def _is_array(source: Any) -> bool:
    return hasattr(source, "__array__") and not isinstance(source, Image.Image)


def _with_pixels(source: ImageSource) -> ImageSource:
    height, width = source.size
    if height < 1 or width < 1:
        raise ValueError(f"{source.name} has no pixels: {height}x{width} (height x width)")
    return source


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())


def _unreadable(name: str, called: str, error: Exception) -> ValueError:
    if isinstance(error, UnidentifiedImageError):
        reason = f"cannot identify its format; known are {', '.join(_formats())}"
    else:
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
    return ValueError(f"{name}: cannot read {called}: {reason}")


def _rgb_from_pil(image: Image.Image) -> Image.Image:
    image.load()
    if _has_transparency(image):
        return _on_white(image)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    return "A" in image.getbands() or image.info.get("transparency") is not None


def _opaque(image: Image.Image) -> Image.Image:
    """An image as RGB without its transparency, as decoders of tensors read a file; 16 bits are scaled to 8."""
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32895) >> 16).astype(np.uint8))  # libpng's rounding
    rgb = image.convert("RGB")
    rgb.info.pop("transparency", None)
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    """An image with transparency as RGB."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def _channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """A view [H, W, C] of an array of pixels; raises `ValueError` for another type or shape."""
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
    return array


def _rgb_from_array(array: np.ndarray) -> np.ndarray:
    if array.shape[-1] == 1:
        return np.repeat(array, 3, axis=-1)
    if array.shape[-1] == 4:
        alpha = array[..., 3:] / 255
        return np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return array


def _flattened(array: np.ndarray) -> np.ndarray:
    """An array with transparency, laid on white in float32 as torchvision's backend does: it truncates levels."""
    unit = array.astype(np.float32) * np.float32(1 / 255)
    alpha = unit[..., 3:]
    levels = (unit[..., :3] * alpha + (1 - alpha)) * np.float32(256 - 1e-3)
    return levels.astype(np.uint8)
