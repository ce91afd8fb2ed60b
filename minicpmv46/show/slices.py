"""The picture that shows how an image is cut: its grid, what each unit has in pixels and tokens, and the overview."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from ..media import open_media
from ..option_names import ImageOptions, naming
from ..options import Options
from ..slicing import Box, Size, SlicePlan, grid_cells
from .counts import TokenCounts, percent
from .drawing import FRAME, INSET, LABEL, OWN, PAPER, Label, draw_grid, draw_label, label_extent, letters_for, scaled
from .media import options_for
from .sheet import Part, sheet
from .tokens import count, file_name, plan_image

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Longest side in pixels of the image as it is drawn, and where a fine grid makes it larger.
SIDE, LARGEST = 1000, 3600
# Least and largest longest side of an image without slices as it is drawn, and of an overview beside slices.
ALONE, OVERVIEW = (360, 800), (140, 480)
# Sides in pixels that a cell needs for its label.
CELL = (64, 36)
# Below this side the lines of the grid are thin.
THIN = 120
# An image so many times as wide as high has its overview below it.
WIDE = 2.0


@naming(ImageOptions)
def show_slices(image: Any, *, processor: Any = None, **given: Unpack[ImageOptions]) -> Image.Image:
    """A picture of how an image is cut: the grid, pixels and tokens of each unit, and the overview beside it.

    Args:
        image: path, URL, PIL image, array: everything that the processor takes.
        processor: of a loaded checkpoint, whose options and context then hold; None takes the official ones of
            MiniCPM-V 4.6.
        given: options of images, see `option_names.ImageOptions`.

    Raises:
        TypeError: an option is unknown, or `processor` is not one of this package's.
        ValueError: the image cannot be read or is larger than the limits, or an option has a value that is not
            supported.
    """
    options = options_for(processor, "show_slices", ImageOptions.__annotations__, **given)
    return draw_slices(*plan_slices_of(image, file_name(image, "image"), options))


def plan_slices_of(image: Any, name: str, options: Options) -> tuple[Image.Image, TokenCounts]:
    """An image as the model's processor reads it, and its plan and tokens; raises `ValueError`."""
    opened = open_media([image], [], None, None, options)
    opened.costs()
    picture = opened.images[0].picture(options.sibling.image_backend)
    counts = count(opened.images, [plan_image(picture, options)], [name], options)
    return Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture, counts


def draw_slices(picture: Image.Image, counts: TokenCounts) -> Image.Image:
    """The sheet of an image."""
    name, plan = counts.media[0].name, counts.media[0].pictures[0].plan
    texts = texts_of(plan, counts)
    if plan.grid is None:
        return sheet(name, texts, [[_alone(picture, plan)]])
    grid = _grid(picture, plan)
    overview = _overview(picture, plan, grid.image.size)
    beside = picture.width <= WIDE * picture.height
    return sheet(name, texts, [[grid, overview]] if beside else [[grid], [overview]])


def texts_of(plan: SlicePlan, counts: TokenCounts) -> list[str]:
    """What stands below the heading."""
    size, mode = _by(plan.size), counts.media[0].mode
    if plan.grid is None:
        texts = [f"{size} pixels: an overview and no slices, mode {mode}"]
    else:
        rows, cols = plan.grid
        texts = [f"{size} pixels: {rows * cols} slices ({cols} across, {rows} down) and an overview, mode {mode}"]
    own = sum(size is not None for size in plan.own_sizes)
    if own:
        texts.append(
            f"blue: {own} slices that keep the size of their part of the image or are enlarged less (adaptive)"
        )
    return [
        *texts,
        f"{counts.visual:,} visual tokens; {counts.prompt:,} with the markers around them, "
        f"{percent(counts.share)} of a context of {counts.context:,}",
    ]


def _by(size: Size) -> str:
    return f"{size[1]} x {size[0]}"


def _label(size: Size, tokens: int) -> Label:
    return _by(size), f"{tokens:,} token{'s' * (tokens != 1)}"


def _within(size: Size, least: float, most: float) -> float:
    """Factor that brings the longest side of (height, width) between two lengths."""
    return min(max(1.0, least / max(size)), most / max(size))


def _enlarged(size: Size, factor: float) -> tuple[int, int]:
    """(width, height) in pixels of what is drawn."""
    return max(round(size[1] * factor), 1), max(round(size[0] * factor), 1)


def _alone(picture: Image.Image, plan: SlicePlan) -> Part:
    shown = scaled(picture, _enlarged(plan.size, _within(plan.size, *ALONE)))
    return Part(shown, ["overview", *_label(plan.overview, plan.token_counts[0])])


def _overview(picture: Image.Image, plan: SlicePlan, grid: tuple[int, int]) -> Part:
    """The overview, drawn as large beside the grid's (width, height) as it is to the model beside the slices."""
    assert plan.refined is not None
    factor = max(grid) / max(plan.refined)
    factor *= _within((round(plan.overview[0] * factor), round(plan.overview[1] * factor)), *OVERVIEW)
    shown = scaled(picture, _enlarged(plan.overview, factor))
    return Part(shown, ["overview", *_label(plan.overview, plan.token_counts[0])])


def _grid(picture: Image.Image, plan: SlicePlan) -> Part:
    """The image with the lines of its grid, and a label on each cell, or beside it where the cell is too thin."""
    assert plan.grid is not None
    (rows, cols), (height, width) = plan.grid, plan.size
    factor = max(SIDE / max(plan.size), CELL[0] * cols / width * (cols > 1), CELL[1] * rows / height * (rows > 1))
    shown = scaled(picture, _enlarged(plan.size, min(factor, LARGEST / max(plan.size))))
    cells = grid_cells((shown.height, shown.width), plan.grid)
    labels = [_label(*unit) for unit in zip(plan.slice_sizes, plan.token_counts[1:], strict=True)]
    own = plan.own_sizes or (None,) * len(cells)
    draw_grid(shown, cells, thin=min(shown.size) < THIN)
    letters = letters_for(labels, [(right - left, bottom - top) for top, bottom, left, right in cells])
    if letters is not None:
        for (top, _, left, _), label, size in zip(cells, labels, own, strict=True):
            draw_label(shown, (left + INSET, top + INSET), label, letters, OWN if size else LABEL)
        return Part(shown)
    if rows > 1 and cols > 1:
        return Part(shown, [f"each slice {labels[0][0]}, {labels[0][1]}"] if len(set(labels)) == 1 else [])
    return _labelled_beside(shown, cells, labels, own)


def _labelled_beside(
    strip: Image.Image, cells: Sequence[Box], labels: Sequence[Label], own: Sequence[Size | None]
) -> Part:
    """A single row of cells with the labels below it, or a single column with them on its right."""
    row = cells[0][1] == cells[-1][1]
    spaces = [(right - left, strip.height + 200) if row else (400, bottom - top) for top, bottom, left, right in cells]
    letters = letters_for(labels, spaces)
    if letters is None:
        return Part(strip, [f"each slice {labels[0][0]}, {labels[0][1]}"] if len(set(labels)) == 1 else [])
    extents = [label_extent(label, letters) for label in labels]
    more = max(extent[1 if row else 0] for extent in extents) + 2 * INSET
    canvas = Image.new("RGB", (strip.width + more * (not row), strip.height + more * row), PAPER)
    canvas.paste(strip, (0, 0))
    ImageDraw.Draw(canvas).rectangle((0, 0, strip.width - 1, strip.height - 1), outline=FRAME)
    for (top, bottom, left, right), label, (width, height), size in zip(cells, labels, extents, own, strict=True):
        x = left + (right - left - width) // 2 if row else strip.width + INSET
        y = strip.height + INSET if row else top + (bottom - top - height) // 2
        draw_label(canvas, (x, y), label, letters, OWN if size else LABEL)
    return Part(canvas, framed=False)
