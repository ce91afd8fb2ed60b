"""A question with its pictures or its clip, and the answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from scripts.demo.slices import ALIKE, Shares

Turns = tuple[tuple[str, str], ...]  # questions with their answers


class Wanted(NamedTuple):
    """What a drawn case should have; a skill that has none of it draws as it would without.

    Attributes:
        longest: limits the length of lines to read.
        sides: shares of the sides of units that pictures are drawn for; plain ones and clips are seen as the checkpoint
            sees them.
        sliced: share of lines to read in pictures that have slices, often in small print or across their borders.
    """

    longest: int = 7
    sides: Shares = ALIKE
    sliced: float = 0.0


ANY = Wanted()


@dataclass(frozen=True)
class Case:
    """One question with its media and its answer.

    Attributes:
        skill: what is asked for.
        images: pictures in their order.
        frames: uint8 [frames, height, width, 3] of a clip, or None.
        options: processor options that the question needs.
        rate: frames a second of the clip.
        labels: for each picture, or each frame, the labels of its pixels (`drawing.label`), int32 [height, width].
        more: further questions about the same pictures or clip, with their answers, for training.
    """

    skill: str
    question: str
    answer: str
    images: tuple[Image.Image, ...] = ()
    frames: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    labels: tuple[np.ndarray, ...] = ()
    more: Turns = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation for a chat template, media before the question."""
        parts = [{"type": "image"}] * len(self.images) + [{"type": "video"}] * (self.frames is not None)
        content = [*parts, {"type": "text", "text": self.question}] if parts else self.question
        return [{"role": "user", "content": content}]

    @property
    def video_metadata(self) -> dict[str, Any]:
        """Of the clip."""
        count = len(self.frames) if self.frames is not None else 0
        indices = list(range(count))  # mlx-vlm's own port wants them
        return {
            "total_num_frames": count,
            "fps": self.rate,
            "duration": count / self.rate,
            "frames_indices": indices,
        }
