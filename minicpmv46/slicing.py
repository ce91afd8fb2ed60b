"""Where an image becomes tokens: how it is resized, cut into slices, and how many tokens each unit gets.

Pure integer and float arithmetic on sizes, without pixels. The results equal those of the official image processors
(transformers) for every size; `plan_slices(height, width)` answers for one image. With `small_image_upsize="adaptive"`
they depend on what is in the image too: the caller says which parts are enlarged (`glyphs.upsize_resolution`).
All sizes are `(height, width)`; pixel sizes and patch-grid sizes are named apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Literal

from .checks import check_options, integer, one_of, option, switch
from .siblings import DOWNSAMPLE_MODES, DownsampleMode

Size = tuple[int, int]
# Rows and columns of pixels: top, bottom, left, right; bottom and right are not in it.
Box = tuple[int, int, int, int]
# Side in pixels of the square whose area a part of an image is enlarged to; None leaves it as large as it is.
Resolution = int | None

SmallImageUpsize = Literal["always", "never", "adaptive"]
SMALL_IMAGE_UPSIZES: tuple[SmallImageUpsize, ...] = ("always", "never", "adaptive")

# An image of fewer pixels than TINY_PIXELS that is not small dense text is enlarged to the area of this square.
TINY_PIXELS, TINY_RESOLUTION = 6272, 84

_MODE = one_of(*DOWNSAMPLE_MODES)
_UPSIZE = one_of(*SMALL_IMAGE_UPSIZES)


@dataclass(frozen=True)
class SliceOptions:
    """What decides the geometry; defaults of the official processor.

    Attributes:
        downsample_mode: "16x" merges 4x4 patches into a token, "4x" merges 2x2.
        max_slice_nums: largest number of slices beside the overview, at least 1.
        scale_resolution: side in pixels of the square whose area one unit should have.
        patch_size: side of a patch in pixels.
        slice_mode: False keeps the overview only.
        small_image_upsize: what happens to an image that is not sliced and has fewer pixels than a unit: "always"
            enlarges it to a unit's area, "never" keeps its size, "adaptive" decides by what is in it, and by what is
            in the cells of a sliced image too.
    """

    downsample_mode: DownsampleMode = option("16x", _MODE)
    max_slice_nums: int = option(9, integer, "slices")
    scale_resolution: int = option(448, integer, "side")
    patch_size: int = option(14, integer, "side")
    slice_mode: bool = option(True, switch)
    small_image_upsize: SmallImageUpsize = option("always", _UPSIZE)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def merge_factor(self) -> int:
        """Patches along each side of a token's square."""
        return 2 if self.downsample_mode == "4x" else 4

    @property
    def token_size(self) -> int:
        """Side of a token's square in pixels; every unit is a multiple of it."""
        return self.patch_size * self.merge_factor


@dataclass(frozen=True)
class SlicePlan:
    """Geometry of one image: an overview and, where it is large enough, a grid of slices.

    Attributes:
        size: pixel size of the image.
        overview: pixel size of the overview.
        grid: rows and columns of slices, None without slices.
        refined: pixel size to which the image is resized before it is cut into the grid, None without slices.
        options: what the plan was made with.
        own_sizes: for each slice in reading order, the pixel size to which its cell of the image itself is resized,
            or None where the slice is cut from the refined image. Empty where all are.
    """

    size: Size
    overview: Size
    grid: Size | None
    refined: Size | None
    options: SliceOptions
    own_sizes: tuple[Size | None, ...] = ()

    @cached_property
    def slice_size(self) -> Size:
        """Pixel size of a slice that is cut from the refined image."""
        if self.grid is None or self.refined is None:
            raise ValueError("this image has no slices")
        return self.refined[0] // self.grid[0], self.refined[1] // self.grid[1]

    @cached_property
    def slice_sizes(self) -> list[Size]:
        """Pixel size of each slice, in reading order."""
        if self.grid is None:
            return []
        return [size or self.slice_size for size in self.own_sizes or (None,) * (self.grid[0] * self.grid[1])]

    @cached_property
    def cells(self) -> list[Box]:
        """The part of the image that each slice shows, in reading order."""
        return grid_cells(self.size, self.grid) if self.grid else []

    @cached_property
    def patch_grids(self) -> list[Size]:
        """Patch rows and columns of each unit, overview first, slices in reading order."""
        p = self.options.patch_size
        return [(height // p, width // p) for height, width in (self.overview, *self.slice_sizes)]

    @cached_property
    def token_counts(self) -> list[int]:
        """Tokens of each unit, in the order of `patch_grids`."""
        return [rows * cols // self.options.merge_factor**2 for rows, cols in self.patch_grids]


def plan_slices(
    height: int,
    width: int,
    options: SliceOptions | None = None,
    resolution_of: Callable[[Box], Resolution] | None = None,
) -> SlicePlan:
    """Plan how an image of `height` x `width` pixels is resized and sliced.

    This is arithmetic on a size, and knows no checkpoint: `minicpmv46.count_tokens(image, processor=processor)` takes
    the options of a loaded one, and looks into the image for "adaptive".

    Args:
        options: None takes the official defaults of MiniCPM-V 4.6; `processor.image_processor.slicing` are those of a
            loaded checkpoint.
        resolution_of: for "adaptive", how large a part of the image becomes; `image.plan_picture` gives it.

    Raises:
        ValueError: a side is smaller than one pixel, or "adaptive" is asked for without `resolution_of`.
    """
    options = options or SliceOptions()
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one pixel, this one is {height}x{width} (height x width)")
    adaptive = options.small_image_upsize == "adaptive"
    if adaptive and resolution_of is None:
        raise ValueError(
            "small_image_upsize = 'adaptive' depends on what is in the image, so a size alone gives no plan; "
            "image.plan_picture takes the image, largest_plan the size"
        )
    grid = slice_grid(height, width, options) if options.slice_mode else None
    if grid is None:
        target: Resolution = options.scale_resolution if options.small_image_upsize == "always" else None
        if adaptive and resolution_of is not None:
            target = resolution_of((0, height, 0, width))
        return SlicePlan((height, width), _unit_size(height, width, options, target), None, None, options)
    overview = _unit_size(height, width, options, None)
    plan = SlicePlan((height, width), overview, grid, _refined_size(height, width, grid, options), options)
    if not adaptive or resolution_of is None:
        return plan
    return replace(plan, own_sizes=tuple(_own_size(cell, plan, resolution_of) for cell in plan.cells))


def largest_plan(height: int, width: int, options: SliceOptions) -> SlicePlan:
    """The plan with the most tokens that an image of this size can have, whatever is in it."""
    if options.small_image_upsize != "adaptive":
        return plan_slices(height, width, options)
    sides: list[Resolution] = [options.scale_resolution, None, *[TINY_RESOLUTION] * (height * width < TINY_PIXELS)]
    # Slices that are all cut from the refined image, as with the first of them, are as large as slices become.
    plans = [plan_slices(height, width, options, partial(_constant, side)) for side in sides]
    return max(plans, key=lambda plan: sum(plan.token_counts))


def smallest_plan(height: int, width: int, options: SliceOptions) -> SlicePlan:
    """The plan with the fewest tokens: with "adaptive" nothing is enlarged."""
    return plan_slices(height, width, options, partial(_constant, None))


def _constant(side: Resolution, _: Box) -> Resolution:
    return side


def grid_cells(size: Size, grid: Size) -> list[Box]:
    """Boxes that divide an image of `size` among the rows and columns of `grid`, in reading order."""
    (height, width), (rows, cols) = size, grid
    tops, lefts = ([round(side * i / n) for i in range(n + 1)] for side, n in ((height, rows), (width, cols)))
    return [(top, bottom, left, right) for top, bottom in pairwise(tops) for left, right in pairwise(lefts)]


def slice_grid(height: int, width: int, options: SliceOptions) -> Size | None:
    """Rows and columns of slices whose shape is nearest to the image's, None where the overview suffices."""
    wanted = min(math.ceil(width * height / options.scale_resolution**2), options.max_slice_nums)
    if wanted <= 1:
        return None
    log_ratio = math.log(width / height)
    best, best_error = (1, 1), math.inf
    for slices in (wanted - 1, wanted, wanted + 1):
        if slices == 1 or slices > options.max_slice_nums:
            continue
        for rows in range(1, slices + 1):
            if slices % rows:
                continue
            cols = slices // rows
            error = abs(log_ratio - math.log(cols / rows))
            if error < best_error or (error == best_error and rows > best[0]):
                best, best_error = (rows, cols), error
    return best


def _round_to_multiple(length: float, divisor: int) -> int:
    """Nearest multiple of `divisor`, at least one of it; ties go to the even multiple as Python rounds."""
    return max(round(length / divisor) * divisor, divisor)


def _unit_size(height: float, width: float, options: SliceOptions, upsize: Resolution) -> Size:
    """Pixel size of one unit, whole tokens on both sides.

    Args:
        upsize: side of the square whose area it has; None keeps the size, up to `scale_resolution`.
    """
    resolution = upsize or options.scale_resolution
    if upsize is not None or height * width > resolution**2:
        aspect_ratio = width / height
        height = int(resolution / math.sqrt(aspect_ratio))
        width = int(height * aspect_ratio)
    return _round_to_multiple(height, options.token_size), _round_to_multiple(width, options.token_size)


def _refined_size(height: int, width: int, grid: Size, options: SliceOptions) -> Size:
    """Pixel size of the whole grid of slices."""
    rows, cols = grid
    slice_height = _round_to_multiple(height, rows) / rows
    slice_width = _round_to_multiple(width, cols) / cols
    unit_height, unit_width = _unit_size(slice_height, slice_width, options, options.scale_resolution)
    return unit_height * rows, unit_width * cols


def _own_size(cell: Box, plan: SlicePlan, resolution_of: Callable[[Box], Resolution]) -> Size | None:
    """Pixel size of the slice of a cell that has fewer pixels so than one of `slice_size`; None where it has not."""
    top, bottom, left, right = cell
    height, width = bottom - top, right - left
    if not 1 <= height * width <= plan.options.scale_resolution**2:
        return None
    resolution = resolution_of(cell)
    if resolution == plan.options.scale_resolution:
        return None
    size = _unit_size(height, width, plan.options, resolution)
    return size if math.prod(size) < math.prod(plan.slice_size) else None
