"""Where an image becomes tokens: how it is resized, cut into slices, and how many tokens each unit gets.

Pure integer and float arithmetic on sizes, without pixels. The results equal the official
`MiniCPMV4_6ImageProcessor` (transformers) for every size; `plan_slices(height, width)` answers for one image.
All sizes are `(height, width)`; pixel sizes and patch-grid sizes are named apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from .checks import check_options, integer, one_of, option, switch
from .config import DOWNSAMPLE_MODES, DownsampleMode

Size = tuple[int, int]

_MODE = one_of(*DOWNSAMPLE_MODES)


@dataclass(frozen=True)
class SliceOptions:
    """What decides the geometry; defaults of the official processor.

    Attributes:
        downsample_mode: "16x" merges 4x4 patches into a token, "4x" merges 2x2.
        max_slice_nums: largest number of slices beside the overview, at least 1.
        scale_resolution: side in pixels of the square whose area one unit should have.
        patch_size: side of a patch in pixels.
        slice_mode: False keeps the overview only.
    """

    downsample_mode: DownsampleMode = option("16x", _MODE)
    max_slice_nums: int = option(9, integer, "slices")
    scale_resolution: int = option(448, integer, "side")
    patch_size: int = option(14, integer, "side")
    slice_mode: bool = option(True, switch)

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
    """Geometry of one image: an overview and, where it is large enough, a grid of equal slices.

    Attributes:
        overview: pixel size of the overview.
        grid: rows and columns of slices, None without slices.
        refined: pixel size to which the image is resized before it is cut into the grid, None without slices.
        options: what the plan was made with.
    """

    overview: Size
    grid: Size | None
    refined: Size | None
    options: SliceOptions

    @cached_property
    def slice_size(self) -> Size:
        """Pixel size of one slice."""
        if self.grid is None or self.refined is None:
            raise ValueError("this image has no slices")
        return self.refined[0] // self.grid[0], self.refined[1] // self.grid[1]

    @cached_property
    def patch_grids(self) -> list[Size]:
        """Patch rows and columns of each unit, overview first, slices in reading order."""
        sizes = [self.overview]
        if self.grid is not None:
            sizes += [self.slice_size] * (self.grid[0] * self.grid[1])
        p = self.options.patch_size
        return [(height // p, width // p) for height, width in sizes]

    @cached_property
    def token_counts(self) -> list[int]:
        """Tokens of each unit, in the order of `patch_grids`."""
        return [rows * cols // self.options.merge_factor**2 for rows, cols in self.patch_grids]


def plan_slices(height: int, width: int, options: SliceOptions | None = None) -> SlicePlan:
    """Plan how an image of `height` x `width` pixels is resized and sliced.

    Raises:
        ValueError: a side is smaller than one pixel.
    """
    options = options or SliceOptions()
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one pixel, this one is {height}x{width} (height x width)")
    grid = slice_grid(height, width, options) if options.slice_mode else None
    if grid is None:
        return SlicePlan(_unit_size(height, width, options, allow_upscale=True), None, None, options)
    overview = _unit_size(height, width, options, allow_upscale=False)
    return SlicePlan(overview, grid, _refined_size(height, width, grid, options), options)


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


def _unit_size(height: float, width: float, options: SliceOptions, *, allow_upscale: bool) -> Size:
    """Pixel size of one unit: about `scale_resolution` squared in area, whole tokens on both sides."""
    if allow_upscale or height * width > options.scale_resolution**2:
        aspect_ratio = width / height
        height = int(options.scale_resolution / math.sqrt(aspect_ratio))
        width = int(height * aspect_ratio)
    return _round_to_multiple(height, options.token_size), _round_to_multiple(width, options.token_size)


def _refined_size(height: int, width: int, grid: Size, options: SliceOptions) -> Size:
    """Pixel size of the whole grid of slices."""
    rows, cols = grid
    slice_height = _round_to_multiple(height, rows) / rows
    slice_width = _round_to_multiple(width, cols) / cols
    unit_height, unit_width = _unit_size(slice_height, slice_width, options, allow_upscale=True)
    return unit_height * rows, unit_width * cols
