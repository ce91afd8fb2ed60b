"""Videos from files: the frames that are named, no others, whatever the container."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.pictures import MEDIA, MP4_FILES

from minicpmv46.frames import FileFrames, FrameSource, open_video
from minicpmv46.image import PixelOptions, VisualUnits
from minicpmv46.sampling import SamplingOptions, VideoMetadata, sample_units
from minicpmv46.slicing import SliceOptions
from minicpmv46.video import choose_frames, compose

FILES = sorted(MEDIA.glob("*.mp4"))


def all_frames(path: Path) -> np.ndarray:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, frame = capture.read()
        if not ok:
            return np.stack(frames)
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reads_exactly_the_frames_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walking and seeking give the same pixels."""
    frames = all_frames(path)
    source = FileFrames(str(path), "video 0", sample=True)
    assert len(source) == len(frames)
    for distance in (1000, 1):
        monkeypatch.setattr("minicpmv46.frames.SEEK_DISTANCE", distance)
        indices = sorted({0, 1, len(frames) // 3, len(frames) // 2, len(frames) - 2, len(frames) - 1})
        read = dict(source.read(indices))
        assert list(read) == indices
        for index, frame in read.items():
            np.testing.assert_array_equal(frame, frames[index])


@pytest.mark.parametrize("options", [SamplingOptions(4), SamplingOptions(3, stack_frames=3), SamplingOptions(128)])
def test_file_equals_its_frames(options: SamplingOptions) -> None:
    for path in FILES:
        frames = all_frames(path)
        file = FileFrames(str(path), "video 0", sample=True)
        assert file.metadata is not None
        decoded = open_video(frames, vars(file.metadata), "video 0", sample=True)
        common = (options, SliceOptions(max_slice_nums=2), PixelOptions(), "video 0")
        for a, b in zip(video_units(file, *common), video_units(decoded, *common), strict=True):
            np.testing.assert_array_equal(a.patches, b.patches)


def video_units(
    source: FrameSource, sampling: SamplingOptions, slicing: SliceOptions, pixels: PixelOptions, name: str
) -> list[VisualUnits]:
    return choose_frames(source, sampling, name).cut(slicing, pixels, 10**8)


class Counting:
    """A clip of a million frames that are made when they are read."""

    def __init__(self) -> None:
        self.metadata = VideoMetadata(1_000_000, 25.0, 40_000.0)
        self.read_indices: list[int] = []
        self.alive = 0

    def __len__(self) -> int:
        return self.metadata.total_num_frames

    def size(self, index: int) -> tuple[int, int]:
        return 20, 30

    def read(self, indices: Any) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            self.read_indices.append(index)
            yield index, np.full((20, 30, 3), index % 251, np.uint8)


@pytest.mark.parametrize("stack", [1, 3])
def test_only_used_frames_are_decoded(stack: int) -> None:
    source = Counting()
    options = SamplingOptions(max_num_frames=5, stack_frames=stack)
    units = video_units(source, options, SliceOptions(), PixelOptions(), "video 0")
    used = sorted({index for unit in sample_units(source.metadata, options) for index in unit})
    assert source.read_indices == used
    assert len(used) <= 5 * stack
    assert len(units) == (5 if stack == 1 else len(sample_units(source.metadata, options)))


def test_rates_and_counts() -> None:
    """mlx-vlm's flags: another rate spaces the main frames, counts are taken as they are."""
    metadata = VideoMetadata(100, 10.0, 10.0)

    def main(**options: Any) -> list[int]:
        return [unit[0] for unit in sample_units(metadata, SamplingOptions(**options))]

    assert main() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert main(fps=2.0)[:4] == [0, 5, 10, 15] and len(main(fps=2.0)) == 20
    assert main(fps=0.5) == [0, 20, 40, 60, 80]
    assert main(nframes=3) == [0, 50, 99]
    assert main(nframes=50, max_num_frames=4) == main(nframes=50) and len(main(nframes=50)) == 50
    assert len(main(fps=0.1, min_frames=6)) == 6
    assert main(fps=30.0, min_frames=100) == list(range(100))
    assert main(fps=30.0) == main(fps=10.0) == list(range(100))
    ntsc = VideoMetadata(90, 30000 / 1001, 90 * 1001 / 30000)
    assert [unit[0] for unit in sample_units(ntsc, SamplingOptions(fps=30000 / 1001))] == list(range(90))
    with pytest.raises(ValueError, match="nframes = 101 is more than the 100 frames"):
        main(nframes=101)


def test_composition() -> None:
    """Frames lie in reading order on black with lines of six pixels, nearest to a square."""
    frames = [np.full((40, 60, 3), 50 + i, np.uint8) for i in range(5)]
    four = compose(frames[:4])
    assert four.shape == (86, 126, 3)
    assert (four[40:46] == 0).all() and (four[:, 60:66] == 0).all()
    assert [four[y, x, 0] for y, x in ((0, 0), (0, 66), (46, 0), (46, 66))] == [50, 51, 52, 53]
    assert compose(frames[:3]).shape == (132, 60, 3)
    assert compose(frames[:2]).shape == (86, 60, 3)
    assert compose(frames[:1]).shape == (40, 60, 3)
    assert compose(frames).shape == (40, 324, 3)


@pytest.mark.parametrize("surplus", [3, 400])
def test_container_with_a_wrong_count(surplus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is a little off is replaced by counting; a file without its end is refused with both counts."""
    path = FILES[0]
    real = cv2.VideoCapture

    class Lying:
        def __init__(self, name: str) -> None:
            self.capture = real(name)

        def get(self, what: int) -> float:
            value = self.capture.get(what)
            return value + surplus if what == cv2.CAP_PROP_FRAME_COUNT else value

        def __getattr__(self, name: str) -> Any:
            return getattr(self.capture, name)

    count = len(all_frames(path))
    monkeypatch.setattr(cv2, "VideoCapture", Lying)
    if surplus == 3:
        assert len(FileFrames(str(path), "video 0", sample=True)) == count
    else:
        with pytest.raises(ValueError, match=f"states {count + surplus} frames, but only {count} can"):
            FileFrames(str(path), "video 0", sample=True)


def test_case_files_exist() -> None:
    assert {path.name for path in FILES} == set(MP4_FILES)


@pytest.mark.parametrize("stack", [1, 3])
@pytest.mark.parametrize(("total", "fps"), [(10, 2.5e-9), (1, 1e-12), (10**6, 1e-3), (10**9, 1e-6)])
def test_a_stated_duration_costs_nothing(total: int, fps: float, stack: int) -> None:
    """A clip that claims to last for ages: no list of its seconds is made."""
    metadata = VideoMetadata(total, fps, total / fps)
    tracemalloc.start()
    units = sample_units(metadata, SamplingOptions(stack_frames=stack))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len([unit for unit in units if len(unit) == 1]) <= 128 * stack
    assert peak < 2_000_000


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0])
def test_metadata_are_finite(value: float) -> None:
    for numbers in ((10, value, 1.0), (10, 1.0, value)):
        with pytest.raises(ValueError, match=r"fps|duration"):
            VideoMetadata(*numbers)
