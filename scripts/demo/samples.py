"""Sample pictures and clips of the demo model, drawn as its training data are, from seeds that training never uses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from scripts.demo.drawing import SIDE, draw_shape, paper, single, written

RATE = 10  # frames a second of the sample clips; the model sees one of them a second


def write_clip(path: Path, seconds: list[np.ndarray]) -> None:
    """A clip in which each picture stands for a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), RATE, (SIDE, SIDE))
    for picture in seconds:
        for _ in range(RATE):
            writer.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
    writer.release()


def write_samples(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([46, 4601])
    pictures = {
        "read": written(random, "K7RM2", 42, 56, 224, (30, 6, 200, 50)),
        "small": written(np.random.default_rng([46, 4600]), "T5X", 18, 672, 672, (360, 360, 645, 645)),
        "star": single(random, "star", "blue"),
        "circle": single(random, "circle", "red"),
        "three": paper(random, SIDE, SIDE),
    }
    for shape, x, y in (("square", 28, 30), ("triangle", 82, 40), ("diamond", 48, 84)):
        draw_shape(random, pictures["three"], shape, "green", x, y, 13)
    for name, picture in pictures.items():
        picture.picture.save(folder / f"{name}.png")

    background = paper(random, SIDE, SIDE)
    frames = []
    for x in (20, 44, 68, 92):
        frame = background.copy()
        draw_shape(random, frame, "circle", "red", x, 60, 15)
        frames.append(np.asarray(frame.picture))
    write_clip(folder / "right.mp4", frames)
    write_clip(
        folder / "colours.mp4",
        [np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in ((40, 75, 215), (240, 210, 30), (215, 35, 35))],
    )
    write_clip(folder / "flashes.mp4", [np.full((SIDE, SIDE, 3), level, np.uint8) for level in (20, 245, 20, 240, 25)])


if __name__ == "__main__":
    write_samples(Path(__file__).parents[2] / "minicpmv46" / "demo" / "samples")
