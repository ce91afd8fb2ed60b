"""Frames of a video: of a file, decoded by OpenCV, or given decoded, as an array or a list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from mimetypes import guess_type
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

import numpy as np

from .checks import quote
from .decoding import ImageSource, open_image
from .sampling import VideoMetadata
from .slicing import Size
from .sources import label, locate

_METADATA = ("total_num_frames", "fps", "duration", "frames_indices")

# Frames that are worth decoding to get to the next one that is used; a seek to a key frame costs about as much.
SEEK_DISTANCE = 64
# A file that lacks more than this of its end is damaged, not merely miscounted.
TOLERATED_SECONDS = 1.0


# Bytes that tell a container.
HEAD = 512


def is_container(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a video's container (MP4, AVI, Matroska, MPEG, …)."""
    boxes = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
    starts = (
        *(b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\0\1", b"\x30\x26\xb2\x75", b"OggS", b"FLV\1"),
        *(b"GIF8", b"DKIF", b"YUV4MPEG2 ", b".RMF", b"\x06\x0e\x2b\x34"),
    )
    packets = any(head[i : i + 1] == head[i + step : i + step + 1] == b"\x47" for i, step in ((0, 188), (4, 192)))
    return (
        head[4:8] in boxes
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
        or head.startswith(starts)
        or packets  # a transport stream
    )


class FrameSource(Protocol):
    """Frames of one clip, read by index."""

    metadata: VideoMetadata | None
    """None where the frames were chosen by the caller and all of them are used."""

    def __len__(self) -> int: ...

    def size(self, index: int) -> Size:
        """(height, width) of a frame in pixels, without decoding it; a file's frames may turn out otherwise."""
        ...

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

    def _frame(self, index: int) -> ImageSource:
        return open_image(self._frames[index], f"{self._name}, frame {index}")

    def size(self, index: int) -> Size:
        return self._frame(index).size

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            yield index, self._frame(index).array()


class FileFrames:
    """Frames of a file, decoded by OpenCV."""

    def __init__(self, source: str | Path | BytesIO, name: str, sample: bool) -> None:
        self._name, self._label = name, label(source)
        self._path, self._held = self._file(source)
        capture = self._open()
        import cv2

        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        self._size = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        capture.release()
        if not fps > 0:
            raise ValueError(f"{name}: {self._label} states no frame rate")
        # Containers may state no count, or one that is off by some frames: check the end, count where it does not hold.
        if total < 1 or not self._readable(total - 1):
            stated, total = total, self._count()
            if total < 1:
                raise ValueError(f"{name}: no frame of {self._label} can be decoded")
            if stated - total > fps * TOLERATED_SECONDS:
                raise ValueError(f"{name}: {self._label} states {stated} frames, but only {total} can be decoded")
        self._total = total
        self.metadata = VideoMetadata(total, fps, total / fps) if sample else None

    def __len__(self) -> int:
        return self._total

    def size(self, index: int) -> Size:
        return self._size

    def _file(self, source: str | Path | BytesIO) -> tuple[str, Any]:
        """An absolute path for OpenCV, and what keeps the file there.

        FFmpeg, which OpenCV hands it to, reads protocols from a path and playlists from a file, and fetches what they
        name: it gets nothing but the path of a regular file whose first bytes are those of a video's container.
        """
        try:
            located = locate(source)
            if isinstance(located, Path):
                with located.open("rb") as stream:
                    head = stream.read(HEAD)
            else:
                head = located[:HEAD]
            if not is_container(head):
                raise ValueError("its first bytes are not those of a video")
        except (FileNotFoundError, IsADirectoryError):
            raise ValueError(f"{self._name}: there is no file {self._label}") from None
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "strerror", None) or error)[:200]
            raise ValueError(f"{self._name}: cannot open {self._label} as a video: {reason}") from None
        if isinstance(located, Path):
            return str(located.absolute()), None
        held = NamedTemporaryFile(suffix=".video")  # noqa: SIM115  kept with the object, and deleted with it
        held.write(located)
        held.flush()
        return held.name, held

    def _open(self) -> Any:
        import cv2

        capture = cv2.VideoCapture(self._path)
        if not capture.isOpened():
            raise ValueError(f"{self._name}: cannot open {self._label} as a video")
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
                    where = f"frame {index} of {len(self)} in {self._label}"
                    raise ValueError(f"{self._name}: {where} cannot be decoded")
                position += 1
                yield index, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()


def _seek(capture: Any, index: int) -> bool:
    import cv2

    return bool(capture.set(cv2.CAP_PROP_POS_FRAMES, index)) and int(capture.get(cv2.CAP_PROP_POS_FRAMES)) == index


def open_video(video: Any, metadata: Any, name: str, *, sample: bool) -> FrameSource:
    """Open one video: a file in any of the forms of `sources.locate`, an array of frames or a list of them.

    Args:
        metadata: for decoded frames, an object or mapping with `total_num_frames`, `fps` and `duration`; frames
            without a frame rate, and frames that were sampled already (`frames_indices` names as many as there
            are, out of more), are all used.
        name: what to call the video in an error.
        sample: False uses every frame that is given.
    """
    if isinstance(video, (str, Path, BytesIO)):
        return FileFrames(video, name, sample)
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
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"{name}: video_metadata has total_num_frames={quote(total)}, fps={quote(fps)}, "
            f"duration={quote(duration)}: {error}"
        ) from error


def flatten_videos(videos: Any) -> list[Any]:
    """One video, a list of videos, or a list of lists of videos (one a prompt) to a flat list; None to an empty one.

    A list of images (PIL, arrays of up to three axes, or names of image files) is one video of decoded frames.
    """
    if videos is None:
        return []
    flat = _flat(videos)
    if not flat:
        raise ValueError("videos is empty")
    return flat


def _flat(videos: Any) -> list[Any]:
    if isinstance(videos, (str, Path, BytesIO)):
        return [videos]
    if isinstance(videos, Sequence):
        if any(_is_frame(entry) for entry in videos) or (videos and all(map(_names_an_image, videos))):
            return [videos]
        return [video for entry in videos for video in _flat(entry)]
    axes = np.ndim(videos)
    if axes == 5:
        return list(videos)
    if axes == 4:
        return [videos]
    raise ValueError(f"a video must be a path, a list of frames or an array of 4 axes, not {_shape(videos)}")


def _names_an_image(entry: Any) -> bool:
    """Whether an entry is a file with an image's ending; a GIF is a video here."""
    kind = guess_type(str(entry))[0] if isinstance(entry, (str, Path)) else None
    return kind is not None and kind.startswith("image/") and kind != "image/gif"


def _is_frame(entry: Any) -> bool:
    if isinstance(entry, (str, Path, BytesIO, list, tuple)):
        return False
    return hasattr(entry, "getbands") or np.ndim(entry) in (2, 3)


def _shape(value: Any) -> str:
    return f"one of shape {np.shape(value)}" if hasattr(value, "shape") else type(value).__name__
