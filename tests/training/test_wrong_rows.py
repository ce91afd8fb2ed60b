"""Rows that cannot be trained on: one error, before anything is trained or saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.training_rows import CLIPS, IMAGE, ROWS, Run, row, text


def causes(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


VIDEO_ROW = ROWS["video"][0]
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]] = {
    "fewer images than places": (
        row([IMAGE, text("and"), IMAGE], "Yes.", images=["one.png"]),
        (),
        ("2 <|image_pad|> placeholders", "1 image"),
    ),
    "no images for a place": (row([IMAGE, text("?")], "Yes."), (), ("1 <|image_pad|> placeholder", "0 images")),
    "video without a place": (row("?", "Yes.", videos=[CLIPS[0]]), (), ("0 <|video_pad|> placeholders", "1 video")),
    "missing file": (row("?", "Yes.", images=["none.png"]), (), ("none.png",)),
    "not an image": (row("?", "Yes.", images=["train.jsonl"]), (), ("image 0", "train.jsonl")),
    "audio": (row("?", "Yes.", audio=["a.wav", "b.wav"]), (), ("a.wav",)),
    "cut image": (ROWS["one unit and slices"][1], ("--max-seq-length", "12"), ("max_seq_length=12", "image")),
    "cut video": (VIDEO_ROW, ("--max-seq-length", "12"), (f"tokens of id {tiny.VIDEO_PAD}", "raise --max-seq-length")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows(base: Any, data: Any, tmp_path: Path, case: str) -> None:
    """A clear error, before anything is trained or saved."""
    entry, flags, words = WRONG[case]
    with pytest.raises((ValueError, OSError)) as caught:
        Run(base(), data([entry]), tmp_path / "out", "--batch-size", "1", *flags)
    found = " <- ".join(causes(caught.value))
    assert all(word in found for word in words), found
    assert not (tmp_path / "out").exists()
