"""Videos to visual units: which frames make a picture, and the pictures cut.

Frames are decoded one after the other, resized and cut on threads, and dropped when no later unit needs them: memory
holds the patches and a few frames, however long the file is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .frames import FrameSource
from .image import PixelOptions, VisualUnits, cut_units
from .sampling import SamplingOptions, sample_units
from .slicing import Size, SliceOptions
from .workers import map_ahead

# Width in pixels of the black lines between the frames of a composed picture.
LINE_WIDTH = 6


def compose(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Lay frames of one size, uint8 [H, W, 3] each, on a black canvas with lines between them."""
    height, width, channels = frames[0].shape
    _, cols = _layout(len(frames), height, width)
    canvas = np.zeros((*_canvas(len(frames), height, width), channels), dtype=np.uint8)
    for i, frame in enumerate(frames):
        top, left = i // cols * (height + LINE_WIDTH), i % cols * (width + LINE_WIDTH)
        canvas[top : top + height, left : left + width] = frame
    return canvas


def _canvas(count: int, height: int, width: int) -> Size:
    """(height, width) of a picture composed of frames of a size."""
    rows, cols = _layout(count, height, width)
    return rows * height + (rows - 1) * LINE_WIDTH, cols * width + (cols - 1) * LINE_WIDTH


def _layout(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns whose canvas is nearest to a square; one row for one frame and for more than four."""
    if count == 4:
        return 2, 2
    if count not in (2, 3):
        return 1, count

    def distance(rows: int, cols: int) -> float:
        canvas_width = cols * width + (cols - 1) * LINE_WIDTH
        canvas_height = rows * height + (rows - 1) * LINE_WIDTH
        return abs(canvas_width / canvas_height - 1.0)

    across, down = distance(1, count), distance(count, 1)
    if across == down:
        return (1, count) if count == 3 or width >= height else (count, 1)
    return (1, count) if across < down else (count, 1)


@dataclass(frozen=True)
class Clip:
    """One video and the frames of it that are used; nothing is decoded yet.

    Attributes:
        units: frame indices of each picture, several where it is composed of them.
        name: what to call the video in an error.
    """

    source: FrameSource
    units: list[tuple[int, ...]]
    name: str

    def sizes(self) -> Iterator[Size]:
        """(height, width) of each picture in pixels, as far as they are known without decoding."""
        for unit in self.units:
            height, width = self.source.size(unit[0])
            yield (height, width) if len(unit) == 1 else _canvas(len(unit), height, width)

    def pictures(self) -> Iterator[tuple[int, np.ndarray]]:
        """Number and picture, uint8 [H, W, 3], of each unit, as soon as its frames are decoded."""
        return _pictures(self.source, self.units, self.name)

    def cut(self, slicing: SliceOptions, pixels: PixelOptions, together: int) -> list[VisualUnits]:
        """Decode the frames: one `VisualUnits` for each main frame and each composed picture.

        Args:
            together: pixels of pictures that are worked on at a time.
        """
        levels = pixels.levels("torchvision")

        def process(entry: tuple[int, np.ndarray]) -> tuple[int, VisualUnits]:
            i, picture = entry
            return i, cut_units(picture, "torchvision", slicing, levels)

        def weight(entry: tuple[int, np.ndarray]) -> int:
            return entry[1].shape[0] * entry[1].shape[1]

        done = dict(map_ahead(process, self.pictures(), weight=weight, most=together))
        return [done[i] for i in range(len(self.units))]


def choose_frames(source: FrameSource, sampling: SamplingOptions, name: str) -> Clip:
    """The frames of a clip that are used; raises `ValueError` where the options ask for what it does not have."""
    if source.metadata is not None:
        try:
            return Clip(source, sample_units(source.metadata, sampling), name)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if sampling.stack_frames > 1:
        raise ValueError(
            f"{name}: stack_frames = {sampling.stack_frames} needs video_metadata with fps and duration "
            "for frames that are given decoded"
        )
    return Clip(source, [(i,) for i in range(len(source))], name)


def _pictures(source: FrameSource, units: Sequence[tuple[int, ...]], name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Each unit's number and picture as soon as its frames are read; frames are kept while a later unit needs them."""
    waiting = Counter(index for unit in units for index in set(unit))
    frames: dict[int, np.ndarray] = {}
    # Units become ready when their last frame is read; long clips do not list them in order of time.
    by_last: dict[int, list[int]] = {}
    for i, unit in enumerate(units):
        by_last.setdefault(max(unit), []).append(i)
    for index, frame in source.read(sorted(waiting)):
        frames[index] = frame
        for i in by_last.get(index, ()):
            unit_frames = [frames[j] for j in units[i]]
            if len({f.shape for f in unit_frames}) > 1:
                raise ValueError(f"{name}: frames {units[i]} differ in size")
            for j in set(units[i]):
                waiting[j] -= 1
                if waiting[j] == 0:
                    del frames[j]
            yield i, unit_frames[0] if len(unit_frames) == 1 else compose(unit_frames)
