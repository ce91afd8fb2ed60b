"""mlx-vlm's frame options, on decoded frames and on files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm import load
from support.asking import prepared
from support.pictures import MEDIA, Clip

FLAGS = ({"fps": 1.0}, {"fps": 3.0}, {"nframes": 2}, {"min_frames": 6}, {"fps": 4.0, "max_frames": 3})


@pytest.fixture(scope="module")
def base(checkpoint: Callable[[str], Path]) -> tuple[Any, Any]:
    """Model and processor as users get them."""
    return load(str(checkpoint("base")))


@pytest.mark.parametrize("options", FLAGS, ids=str)
def test_video_flags_on_frames(base: tuple[Any, Any], options: dict[str, Any]) -> None:
    """mlx-vlm's frame options mean for decoded frames with metadata what they mean in a call of the processor."""
    _, processor = base
    clip = Clip("temple.png", 24, 10, (64, 112))
    videos, metadata = [clip.load()], [clip.metadata]
    expected = processor("<|video_pad|>", videos=videos, video_metadata=metadata, max_slice_nums=1, **options)
    inputs = prepared(processor, "<|video_pad|>", video=videos, video_metadata=metadata, max_slice_nums=1, **options)
    np.testing.assert_array_equal(inputs["image_units"], expected["image_units"])
    places = 2  # columns beside the pixels, see the processor's `with_places`
    np.testing.assert_array_equal(inputs["pixel_values"][:, :-places], expected["pixel_values"])


def test_video_flags_on_files(base: tuple[Any, Any]) -> None:
    """The same for paths, of which the container says how long the clip is: 3 seconds."""
    _, processor = base
    path = str(MEDIA / "pan_short.mp4")
    for options, frames in (
        ({}, 3),
        ({"fps": 1.0}, 3),
        ({"fps": 2.0}, 6),
        ({"fps": 2.0, "nframes": 4}, 4),
        ({"fps": 1.0, "min_frames": 5}, 5),
        ({"fps": 2.0, "max_frames": 2}, 2),
        ({"fps": 1.0, "stack_frames": 2}, 6),
    ):
        for video in (path, [path], [MEDIA / "pan_short.mp4"]):
            inputs = prepared(processor, "<|video_pad|>", video=video, max_slice_nums=1, **options)
            assert inputs["image_units"].shape[0] == frames, options
    inputs = prepared(processor, "<|video_pad|><|video_pad|>", video=[path, path], fps=[1.0, 2.0], max_slice_nums=1)
    assert inputs["image_units"].shape[0] == 9
