"""Which frames of a video the model sees: main frames, and sub-frames stacked into one picture a second.

Arithmetic on indices only. With the default rate of one main frame a second it gives the result of
the official video processors; other rates and frame counts (mlx-vlm's `--fps`, `--video-num-frames`, …) replace
the second by the interval between main frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .checks import check_options, integer, option, optional, positive

# Clips that are too long are sampled on this grid of seconds, which is then thinned evenly.
LONG_CLIP_GRID = 0.1


@dataclass(frozen=True)
class VideoMetadata:
    """What a file (or the caller) says of a clip.

    Attributes:
        total_num_frames: frames in the clip, at least 1.
        fps: frames a second, positive.
        duration: seconds.
    """

    total_num_frames: int
    fps: float
    duration: float

    def __post_init__(self) -> None:
        known = math.isfinite(self.fps) and math.isfinite(self.duration)
        if not known or self.total_num_frames < 1 or not self.fps > 0 or not self.duration > 0:
            raise ValueError(
                f"a video needs frames, a frame rate and a duration; this one has total_num_frames="
                f"{self.total_num_frames}, fps={self.fps}, duration={self.duration}"
            )


@dataclass(frozen=True)
class SamplingOptions:
    """How many frames to take.

    Attributes:
        max_num_frames: largest number of main frames.
        stack_frames: pictures a second: 1 takes main frames only, N adds N-1 sub-frames composed into one picture.
        fps: main frames a second; 1 is the official rate.
        nframes: exact number of main frames, evenly spaced; overrides `fps`.
        min_frames: take this many main frames, evenly spaced, where `fps` would give fewer.
        max_frames: mlx-vlm's name of `max_num_frames`; the smaller of both holds.
    """

    max_num_frames: int = option(128, integer, "frames")
    stack_frames: int = option(1, integer, "stack")
    fps: float = option(1.0, positive, "rate")
    nframes: int | None = option(None, optional(integer), "frames")
    min_frames: int | None = option(None, optional(integer), "frames")
    max_frames: int | None = option(None, optional(integer), "frames")

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def most_frames(self) -> int:
        """Main frames that a rate may give."""
        return min(self.max_num_frames, self.max_frames or self.max_num_frames)


def sample_units(metadata: VideoMetadata, options: SamplingOptions) -> list[tuple[int, ...]]:
    """Frame indices of each visual unit, in the order the model sees them.

    A unit of one index is a frame as it is, a unit of several is a picture composed of them. With stacking, the
    composed pictures follow their main frames.

    Raises:
        ValueError: `nframes` or `min_frames` asks for more frames than there are, or the metadata contradict
            each other.
    """
    main, interval = _main_indices(metadata, options)
    # The cap holds for main frames that `fps` gives; an exact number of frames is taken as it is.
    limit = max(options.most_frames, len(main))
    stacks = _sub_indices(metadata, options.stack_frames, interval, limit) if options.stack_frames > 1 else {}
    units: list[tuple[int, ...]] = []
    for i, index in enumerate(main):
        units.append((index,))
        # The i-th main frame is followed by the i-th second's sub-frames, also where long clips thin the main frames.
        if i in stacks:
            units.append(tuple(stacks[i]))
    last = max(index for unit in units for index in unit)
    if last >= metadata.total_num_frames:
        raise ValueError(
            f"the video has {metadata.total_num_frames} frames, but its duration of {metadata.duration} s at "
            f"{metadata.fps} frames a second asks for frame {last}"
        )
    return units


def _thinned(length: int, count: int) -> Sequence[int]:
    """At most `count` indices of a list of `length`, evenly spaced, first and last included."""
    return range(length) if length <= count else np.linspace(0, length - 1, count, dtype=int).tolist()


def _main_indices(metadata: VideoMetadata, options: SamplingOptions) -> tuple[list[int], float]:
    """Indices of the main frames and the seconds between them."""
    total, fps, duration = metadata.total_num_frames, metadata.fps, metadata.duration
    rate = min(options.fps, max(fps, 1.0))  # a rate above the clip's own would only repeat frames
    exact = options.nframes
    if exact is None and options.min_frames is not None and math.ceil(duration * rate) < options.min_frames:
        exact = options.min_frames
    if exact is not None:
        if exact > total:
            name = "nframes" if options.nframes is not None else "min_frames"
            raise ValueError(f"{name} = {exact} is more than the {total} frames of the video")
        indices = np.linspace(0, total - 1, exact).round().astype(int)
        return indices.tolist(), duration / exact

    interval = 1 / rate
    if duration * rate > options.most_frames:
        step = min(LONG_CLIP_GRID, interval)
        chosen = _thinned(int(duration / step), options.most_frames)
        timestamps = [round(i * step, 1) if step == LONG_CLIP_GRID else i * step for i in chosen]
        return [min(int(t * fps), total - 1) for t in timestamps], interval
    count = math.ceil(duration * rate)
    if rate == 1:
        return [int(i * fps) for i in range(count)], interval
    # At the clip's own rate every frame should come once, so the quotient's last bit must not take one away.
    return [min(int(round(i * fps / rate, 6)), total - 1) for i in range(count)], interval


def _sub_indices(metadata: VideoMetadata, stacked: int, interval: float, limit: int) -> dict[int, list[int]]:
    """Indices of the sub-frames by the number of their interval (a second at the official rate)."""
    each = stacked - 1

    def position(k: int) -> float:
        """Place of the k-th sub-frame, in intervals."""
        return k // each + (k % each + 1) / stacked

    count = math.ceil(metadata.duration / interval) * each
    while count and not position(count - 1) * interval < metadata.duration:
        count -= 1
    groups: dict[int, list[int]] = {}
    for k in _thinned(count, limit * each):
        p = position(k)
        groups.setdefault(int(p), []).append(min(int(p * interval * metadata.fps), metadata.total_num_frames - 1))
    return groups
