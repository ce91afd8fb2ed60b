"""Pictures and clips for the tests, the same bytes on every machine.

Pixels come from committed PNG files or from integer patterns, never from floating point or a lossy decoder. Nothing
here needs torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MEDIA = Path(__file__).parents[1] / "data" / "media"

# mp4 files for tests that decode: name to (frames, fps, height, width). What they decode to depends on the
# decoder, so no case uses them.
MP4_FILES = {
    "pan_short.mp4": (30, 10.0, 96, 128),
    "pan_long.mp4": (150, 12.5, 90, 160),
    "jump.mp4": (66, 29.97, 144, 112),
}


def pattern(kind: str, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A [height, width, 3] uint8 picture made with integer arithmetic only."""
    y = np.arange(height, dtype=np.int64)[:, None]
    x = np.arange(width, dtype=np.int64)[None, :]
    if kind == "gradient":
        planes = [
            x * 255 // max(width - 1, 1) + 0 * y,
            y * 255 // max(height - 1, 1) + 0 * x,
            (x + y + 31 * seed) % 256,
        ]
    elif kind == "tiles":  # checks of three sizes, so that every resize has edges to blur
        planes = [((x // s + y // s + seed) % 2) * (255 - 10 * s) + s for s in (7, 16, 29)]
    elif kind == "waves":
        planes = [
            (x * x // 97 + y * (3 + seed)) % 256,
            (y * y // 61 + x * 2) % 256,
            (x * y // (53 + seed)) % 256,
        ]
    elif kind == "noise":
        return np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.int64).astype(np.uint8)
    else:
        raise ValueError(f"unknown pattern {kind!r}")
    return np.stack([np.broadcast_to(p, (height, width)) for p in planes], axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class Picture:
    """A still picture: a committed file, or a pattern of size (height, width), converted to a Pillow mode."""

    source: str
    size: tuple[int, int] | None = None
    seed: int = 0
    crop: tuple[int, int, int, int] | None = None  # left, top, right, bottom
    mode: str | None = None

    def load(self) -> Image.Image:
        """The Pillow image, in its own mode."""
        if self.size is not None:
            image = Image.fromarray(pattern(self.source, *self.size, self.seed))
        else:
            image = _open(self.source)
        if self.crop is not None:
            image = image.crop(self.crop)
        if self.mode is not None:
            image = image.convert(self.mode)
        return image


@dataclass(frozen=True)
class Negative(Picture):
    """The same, light for dark."""

    def load(self) -> Image.Image:
        return Image.fromarray(255 - np.asarray(super().load().convert("RGB")))


@dataclass(frozen=True)
class Scan(Picture):
    """The same on greyish paper, with the noise of a scanner; `seed` is the noise's."""

    def load(self) -> Image.Image:
        levels = np.asarray(super().load().convert("RGB")).astype(np.int64)
        noise = np.random.RandomState(self.seed).randint(-9, 10, levels.shape[:2], dtype=np.int64)
        return Image.fromarray(np.clip(levels * 13 // 16 + 24 + noise[..., None], 0, 255).astype(np.uint8))


@cache
def _open(name: str) -> Image.Image:
    with Image.open(MEDIA / name) as image:
        image.load()
        return image.copy()


@dataclass(frozen=True)
class Clip:
    """Decoded frames: a window moving over a committed picture, or a pattern seeded by the frame number."""

    source: str
    frames: int
    fps: float
    size: tuple[int, int]
    duration: float | None = None  # seconds; frames / fps where the container says nothing else

    def load(self) -> np.ndarray:
        """[frames, height, width, 3] uint8."""
        height, width = self.size
        if not self.source.endswith(".png"):
            return np.stack([pattern(self.source, height, width, i) for i in range(self.frames)])
        picture = np.asarray(_open(self.source).convert("RGB"))
        down, right = picture.shape[0] - height, picture.shape[1] - width
        last = max(self.frames - 1, 1)
        tops = [down * i // last for i in range(self.frames)]
        lefts = [right * ((5 * i) % self.frames) // last for i in range(self.frames)]
        return np.stack([picture[t : t + height, s : s + width] for t, s in zip(tops, lefts, strict=True)])

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields of the official `VideoMetadata`."""
        return {
            "total_num_frames": self.frames,
            "fps": self.fps,
            "duration": self.frames / self.fps if self.duration is None else self.duration,
            "height": self.size[0],
            "width": self.size[1],
        }


def media_of(pictures: Sequence[Picture], clips: Sequence[Clip]) -> dict[str, Any]:
    """Pictures and clips as arguments of the processor; none where there are none."""
    arguments: dict[str, Any] = {"images": [picture.load() for picture in pictures]} if pictures else {}
    if clips:
        arguments["videos"] = [clip.load() for clip in clips]
        arguments["video_metadata"] = [clip.metadata for clip in clips]
    return arguments
