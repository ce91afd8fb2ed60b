"""How `mlx_vlm.batch_generate` divides pictures for our processor.

mlx-vlm makes a batch of each size of picture, since other models stack pixels: crops of a document, all of other sizes,
run one by one. Here rows of any sizes share a batch, in parts that bound memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from minicpmv46.decoding import open_image
from minicpmv46.options import Options

# Rows of a batch. mlx-vlm encodes all rows of a batch and reads their prompts at once: at real widths, a third of the
# depth and in 16x, each small crop more took about 50 MB.
MAX_ROWS = 16

# Whether the call of `batch_generate` that runs is for our processor and leaves the division to us.
any_sizes: ContextVar[bool] = ContextVar("any_sizes", default=False)

Groups = tuple[dict[Any, list[Any]], dict[Any, list[int]]]


def batch_generate(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`mlx_vlm.batch_generate`; where the caller gives `group_by_shape`, mlx-vlm divides.

    Names of images are read here, since mlx-vlm would open them in any format and of any size.
    """
    call = inspect.signature(original).bind(*args, **kwargs)
    images = call.arguments.get("images")
    if isinstance(images, str):
        images = [images]
    if isinstance(images, (list, tuple)):
        options = call.arguments["processor"].options
        call.arguments["images"] = [_read(image, i, options) for i, image in enumerate(images)]
    token = any_sizes.set("group_by_shape" not in call.arguments)
    try:
        return original(*call.args, **call.kwargs)
    finally:
        any_sizes.reset(token)


def _read(image: Any, position: int, options: Options) -> Any:
    """An image that is given by name; what is given otherwise goes to the processor as it is."""
    if not isinstance(image, str):
        return image
    source = open_image(image, f"image {position}")
    source.check_pixels(options.limits)
    return source.image(options.images.sibling.image_backend)


def group_images_by_shape(images: Sequence[Any], disable_grouping: bool = False) -> Groups:
    """Pictures in groups of at most MAX_ROWS, each of similar areas, so that prompts of similar lengths meet.

    Returns:
        Pictures and positions of each group, as `mlx_vlm.utils.group_images_by_shape` gives them; names are numbers.
    """
    order = sorted(range(len(images)), key=lambda i: _area(images[i]))
    parts = [order[start : start + MAX_ROWS] for start in range(0, len(order), MAX_ROWS)]
    return {n: [images[i] for i in part] for n, part in enumerate(parts)}, dict(enumerate(parts))


def _area(image: Any) -> int:
    size: tuple[int, int] | None = getattr(image, "size", None) if hasattr(image, "mode") else None
    return size[0] * size[1] if size else np.asarray(image).size
