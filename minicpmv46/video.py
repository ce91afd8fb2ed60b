"""Video files, arrays and lists of frames to visual units.

Frames are decoded one after the other, resized and cut on threads, and dropped when no later unit needs them: memory
holds the patches and a few frames, however long the file is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .image import PixelOptions, VisualUnits, image_units, read_frame
from .resize import resize_frame
from .sampling import SamplingOptions, VideoMetadata, sample_units
from .slicing import SliceOptions
from .workers import map_ahead

_METADATA = ("total_num_frames", "fps", "duration", "frames_indices")

# Width in pixels of the black lines between the frames of a composed picture.
LINE_WIDTH = 6
# Frames that are worth decoding to get to the next one that is used; a seek to a key frame costs about as much.
SEEK_DISTANCE = 64
# A file that lacks more than this of its end is damaged, not merely miscounted.
TOLERATED_SECONDS = 1.0


class FrameSource(Protocol):
    """Frames of one clip, read by index."""

    metadata: VideoMetadata | None
    """None where the frames were chosen by the caller and all of them are used."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index, uint8 [H, W, 3]) for the sorted, distinct `indices`."""
        ...


class DecodedFrames:
    """A list of images or an array [T, H, W, C] / [T, C, H, W] of uint8."""

    def __init__(self, frames: Any, metadata: VideoMetadata | None, name: str) -> None:
        self._frames, self._name, self.metadata = frames, name, metadata
        if len(frames) == 0:
            raise ValueError(f"{name} has no frames")
        if metadata is not None and metadata.total_num_frames != len(frames):
            raise ValueError(
                f"{name}: video_metadata says {metadata.total_num_frames} frames, but {len(frames)} were given"
            )

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            yield index, read_frame(self._frames[index], f"{self._name}, frame {index}")


class FileFrames:
    """Frames of a file, decoded by OpenCV."""

    def __init__(self, path: str, name: str, sample: bool) -> None:
        path = path.removeprefix("file://")
        if "://" not in path and not os.path.isfile(path):
            raise ValueError(f"{name}: there is no file {path!r}")
        self._path, self._name = path, name
        capture = self._open()
        import cv2

        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        capture.release()
        if not fps > 0:
            raise ValueError(f"{name}: {path!r} states no frame rate")
        # Containers may state no count, or one that is off by some frames: check the end, count where it does not hold.
        if total < 1 or not self._readable(total - 1):
            stated, total = total, self._count()
            if total < 1:
                raise ValueError(f"{name}: no frame of {path!r} can be decoded")
            if stated - total > fps * TOLERATED_SECONDS:
                raise ValueError(f"{name}: {path!r} states {stated} frames, but only {total} can be decoded")
        self._total = total
        self.metadata = VideoMetadata(total, fps, total / fps) if sample else None

    def __len__(self) -> int:
        return self._total

    def _open(self) -> Any:
        import cv2

        capture = cv2.VideoCapture(self._path)
        if not capture.isOpened():
            raise ValueError(f"{self._name}: cannot open {self._path!r} as a video")
        return capture

    def _readable(self, index: int) -> bool:
        capture = self._open()
        try:
            return _seek(capture, index) and capture.grab()
        finally:
            capture.release()

    def _count(self) -> int:
        capture = self._open()
        total = 0
        while capture.grab():
            total += 1
        capture.release()
        return total

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        import cv2

        capture = self._open()
        try:
            position = 0
            for index in indices:
                if index - position > SEEK_DISTANCE:
                    if _seek(capture, index):
                        position = index
                    else:  # this container cannot seek exactly: start over and walk
                        capture.release()
                        capture, position = self._open(), 0
                while position < index and capture.grab():
                    position += 1
                ok, frame = capture.read()
                if position != index or not ok:
                    raise ValueError(f"{self._name}: frame {index} of {len(self)} in {self._path!r} cannot be decoded")
                position += 1
                yield index, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def _seek(capture: Any, index: int) -> bool:
    import cv2

    return bool(capture.set(cv2.CAP_PROP_POS_FRAMES, index)) and int(capture.get(cv2.CAP_PROP_POS_FRAMES)) == index


def open_video(video: Any, metadata: Any, name: str, *, sample: bool) -> FrameSource:
    """Open one video: a path, an array of frames or a list of them.

    Args:
        metadata: for decoded frames, an object or mapping with `total_num_frames`, `fps` and `duration`; frames
            without a frame rate, and frames that were sampled already (`frames_indices` names as many as there
            are, out of more), are all used.
        name: what to call the video in an error.
        sample: False uses every frame that is given.
    """
    if isinstance(video, (str, Path)):
        return FileFrames(str(video), name, sample)
    if not isinstance(video, (Sequence, np.ndarray)):
        video = np.asarray(video)
    return DecodedFrames(video, _frames_metadata(metadata, len(video), name) if sample else None, name)


def _frames_metadata(metadata: Any, count: int, name: str) -> VideoMetadata | None:
    if metadata is None:
        return None
    if isinstance(metadata, Mapping):
        entries: Mapping[str, Any] = metadata
    elif hasattr(metadata, "fps"):
        entries = {key: getattr(metadata, key, None) for key in _METADATA}
    else:
        raise ValueError(
            f"{name}: video_metadata must have {', '.join(_METADATA[:3])}, not be {type(metadata).__name__}"
        )
    total, fps, duration, indices = (entries.get(key) for key in _METADATA)
    if fps is None:
        return None
    total = count if total is None else total
    if total != count and indices is not None and len(indices) == count:
        return None
    try:
        return VideoMetadata(int(total), float(fps), float(total / fps if duration is None else duration))
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{name}: video_metadata has total_num_frames={total}, fps={fps}, duration={duration}: {error}"
        ) from error


def compose(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Lay frames of one size, uint8 [H, W, 3] each, on a black canvas with lines between them."""
    height, width, channels = frames[0].shape
    rows, cols = _layout(len(frames), height, width)
    canvas = np.zeros(
        (rows * height + (rows - 1) * LINE_WIDTH, cols * width + (cols - 1) * LINE_WIDTH, channels), dtype=np.uint8
    )
    for i, frame in enumerate(frames):
        top, left = i // cols * (height + LINE_WIDTH), i % cols * (width + LINE_WIDTH)
        canvas[top : top + height, left : left + width] = frame
    return canvas


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


def video_units(
    source: FrameSource, sampling: SamplingOptions, slicing: SliceOptions, pixels: PixelOptions, name: str
) -> list[VisualUnits]:
    """Visual units of one clip, one `VisualUnits` for each main frame and each composed picture."""
    if source.metadata is not None:
        try:
            units = sample_units(source.metadata, sampling)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    elif sampling.stack_frames > 1:
        raise ValueError(
            f"{name}: stack_frames = {sampling.stack_frames} needs video_metadata with fps and duration "
            "for frames that are given decoded"
        )
    else:
        units = [(i,) for i in range(len(source))]

    levels = pixels.video_levels()

    def process(entry: tuple[int, np.ndarray]) -> tuple[int, VisualUnits]:
        i, picture = entry
        height, width, _ = picture.shape
        return i, image_units((height, width), partial(resize_frame, picture), slicing, levels)

    done = dict(map_ahead(process, _pictures(source, units, name)))
    return [done[i] for i in range(len(units))]


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


def flatten_videos(videos: Any) -> list[Any]:
    """One video, a list of videos, or a list of lists of videos to a flat list; None to an empty one.

    A list of images (PIL or arrays of up to three axes) is one video of decoded frames.
    """
    if videos is None:
        return []
    if isinstance(videos, (str, Path)):
        return [videos]
    if isinstance(videos, Sequence):
        if len(videos) == 0:
            raise ValueError("videos is empty")
        if any(_is_frame(entry) for entry in videos):
            return [videos]
        return [video for entry in videos for video in flatten_videos(entry)]
    axes = np.ndim(videos)
    if axes == 5:
        return list(videos)
    if axes == 4:
        return [videos]
    raise ValueError(f"a video must be a path, a list of frames or an array of 4 axes, not {_shape(videos)}")


def _is_frame(entry: Any) -> bool:
    if isinstance(entry, (str, Path, list, tuple)):
        return False
    return hasattr(entry, "getbands") or np.ndim(entry) in (2, 3)


def _shape(value: Any) -> str:
    return f"one of shape {np.shape(value)}" if hasattr(value, "shape") else type(value).__name__
