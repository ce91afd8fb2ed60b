"""Images and videos that are none, are broken or of the wrong shape, and more or fewer of them than placeholders."""

import base64
import io
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_vlm.utils import estimate_num_image_tokens
from PIL import Image
from support.pictures import MEDIA
from support.refusals import FRAMES, IMAGE, METADATA, PIXELS, VIDEO, refuse
from support.tiny import IMAGE_PAD

from minicpmv46.processing import Processor


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("none.png", "No such file"),
        ("folder.png", "directory"),
        ("empty.png", "cannot identify"),
        ("words.png", "cannot identify"),
        ("half.png", "truncated"),
    ],
)
def test_image_file(ours: Processor, broken: Path, name: str, word: str) -> None:
    """The second image of two, so that the number is worth something; the path is in the message."""
    for source in (str(broken / name), broken / name):
        refuse(lambda source=source: ours(IMAGE * 2, images=[PIXELS, source]), "image 1", name, word)


def test_image_data(ours: Processor) -> None:
    """Open files and data URIs; an error must not repeat the data."""
    data = (MEDIA / "flower.png").read_bytes()
    refuse(lambda: ours(IMAGE, images=io.BytesIO(data[:30_000])), "image 0", "BytesIO", "truncated")
    refuse(lambda: ours(IMAGE, images=Image.open(io.BytesIO(data[:30_000]))), "image 0", "truncated")
    refuse(lambda: ours(IMAGE, images="data:image/png;base64"), "image 0", "comma")
    for content, word in ((data[:30_000], "truncated"), (b"no picture" * 1000, "cannot identify")):
        uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        refuse(lambda uri=uri: ours(IMAGE, images=uri), "image 0", word)


@pytest.mark.parametrize(
    ("value", "word"),
    [(5, "int"), (2.5, "float"), ({"url": "a.png"}, "dict"), (object(), "object"), (b"\x89PNG", "bytes")],
    ids=lambda value: type(value).__name__,
)
def test_not_an_image(ours: Processor, value: Any, word: str) -> None:
    refuse(lambda: ours(IMAGE, images=value), "image 0", word)
    refuse(lambda: ours(IMAGE * 2, images=[PIXELS, value]), "image 1", word)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (PIXELS.astype(np.float32) / 255, ("float32", "uint8")),
        (PIXELS.astype(np.int64), ("int64", "uint8")),
        (PIXELS > 9, ("bool", "uint8")),
        (PIXELS[..., :2], ("(20, 30, 2)",)),
        (PIXELS[0, 0], ("(3,)",)),
        (np.stack([PIXELS, PIXELS]), ("(2, 20, 30, 3)",)),
        (PIXELS[:0], ("no pixels", "0x30")),
        (PIXELS[:, :0], ("no pixels", "20x0")),
        (Image.new("RGB", (0, 7)), ("no pixels", "7x0")),
        (mx.zeros((9, 9, 3)), ("float32", "uint8")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_image_array(ours: Processor, value: Any, words: tuple[str, ...]) -> None:
    """Arrays of pixels are uint8 with one, three or four channels, and hold a pixel."""
    refuse(lambda: ours(IMAGE, images=[value]), "image 0", *words)


def test_images_as_mlx_arrays(ours: Processor) -> None:
    """Arrays that are not evaluated yet, which only this thread can do."""
    expected = ours(IMAGE * 2, images=[PIXELS, 255 - PIXELS])
    inputs = ours(IMAGE * 2, images=[mx.array(PIXELS) * 1, 255 - mx.array(PIXELS)])
    np.testing.assert_array_equal(inputs["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize(
    ("size", "mode", "grid", "tokens"),
    [
        ((1, 1), "16x", (32, 32), 64),
        ((1, 10_000), "16x", (4, 2856), 714),
        ((10_000, 1), "16x", (3200, 4), 800),
        ((1, 10_000), "4x", (2, 2858), 1429),
    ],
)
def test_extreme_images_follow_the_rule(
    ours: Processor, size: tuple[int, int], mode: str, grid: tuple[int, int], tokens: int
) -> None:
    """As many pixels as 448x448 has, in the image's shape, however long that gets; worked out by hand."""
    height, width = size
    inputs = ours(IMAGE, images=Image.new("RGB", (width, height), (9, 200, 60)), downsample_mode=mode)
    np.testing.assert_array_equal(inputs["image_units"], [[*grid, tokens, IMAGE_PAD]])
    assert (inputs["input_ids"] == IMAGE_PAD).sum() == tokens
    assert inputs["pixel_values"].shape == (grid[0] * grid[1], 588)
    assert estimate_num_image_tokens(ours, height, width, downsample_mode=mode) == tokens


def test_sizes_without_pixels(ours: Processor) -> None:
    refuse(lambda: estimate_num_image_tokens(ours, 0, 20), "0x20")
    refuse(lambda: estimate_num_image_tokens(ours, 20, -1), "20x-1")
    refuse(lambda: estimate_num_image_tokens(ours, 20, 20, max_slice_nums=0), "max_slice_nums", "0")
    refuse(lambda: estimate_num_image_tokens(ours, 20, 20, max_slices=9), "'max_slices'", kind=TypeError)


# Videos


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("none.mp4", "no file"),
        ("empty.mp4", "open"),
        ("words.mp4", "open"),
        ("half.mp4", "open"),
        ("folder.png", "no file"),
    ],
)
def test_video_file(ours: Processor, broken: Path, name: str, word: str) -> None:
    refuse(lambda: ours(VIDEO * 2, videos=[FRAMES, str(broken / name)]), "video 1", name, word)


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ([], ("videos", "empty")),
        ([[]], ("empty",)),
        (FRAMES[:0], ("video 0", "no frames")),
        ([FRAMES[:0]], ("video 0", "no frames")),
        (5, ("video", "int")),
        ([5], ("video", "int")),
        ({"a": 1}, ("video", "dict")),
        (FRAMES[0], ("video", "(28, 36, 3)")),
        (FRAMES[0, 0], ("video", "(36, 3)")),
        (FRAMES.astype(np.float32), ("video 0", "frame 0", "float32", "uint8")),
        ([[FRAMES[0], FRAMES[1].astype(np.float64)]], ("video 0", "frame 1", "float64")),
        ([[FRAMES[0], FRAMES[1, :, :, :2]]], ("video 0", "frame 1", "(28, 36, 2)")),
        ([[FRAMES[0], None, FRAMES[1]]], ("video 0", "frame 1", "None")),
        ([[FRAMES[0], 7]], ("video 0", "frame 1", "int")),
    ],
    ids=range(14),
)
def test_video_frames(ours: Processor, videos: Any, words: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        ours(VIDEO, videos=videos)
    assert not [word for word in words if word not in str(caught.value)], f"{words}: {caught.value}"


def test_frames_of_different_sizes(ours: Processor) -> None:
    """They cannot be composed into one picture; one by one they are as good as any."""
    frames = [*FRAMES[:5], FRAMES[5][:20]]
    refuse(
        lambda: ours(VIDEO, videos=[frames], video_metadata=METADATA, stack_frames=3),
        "video 0",
        "differ in size",
        "4, 5",
    )
    assert len(ours(VIDEO, videos=[frames], video_metadata=METADATA)["image_units"]) == 3


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([METADATA, METADATA], ("video_metadata", "2", "1")),
        ([], ("video_metadata", "0", "1")),
        ({**METADATA, "total_num_frames": 9}, ("video 0", "video_metadata", "9", "6")),
        ({**METADATA, "total_num_frames": 0}, ("video 0", "total_num_frames=0")),
        ({**METADATA, "fps": -2.0}, ("video 0", "fps=-2.0")),
        ({**METADATA, "fps": "fast"}, ("video 0", "fps", "fast")),
        ({**METADATA, "duration": -1.0}, ("video 0", "duration=-1.0")),
        ({**METADATA, "duration": 30.0}, ("video 0", "30.0", "6 frames")),
        ("2 fps", ("video 0", "video_metadata", "str")),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else str(value)[:60],
)
def test_video_metadata(ours: Processor, metadata: Any, words: tuple[str, ...]) -> None:
    refuse(lambda: ours(VIDEO, videos=[FRAMES], video_metadata=metadata), *words)


def test_one_metadata_for_two_videos(ours: Processor) -> None:
    refuse(lambda: ours(VIDEO * 2, videos=[FRAMES, FRAMES], video_metadata=METADATA), "video_metadata", "2 videos")


def test_stacking_needs_a_frame_rate(ours: Processor) -> None:
    refuse(lambda: ours(VIDEO, videos=FRAMES, stack_frames=3), "video 0", "stack_frames = 3", "video_metadata")


# Counts


@pytest.mark.parametrize(("token", "argument", "kind"), [(IMAGE, "images", "image"), (VIDEO, "videos", "video")])
def test_placeholders_and_media(ours: Processor, token: str, argument: str, kind: str) -> None:
    """Both numbers are in the message, whichever is larger; over all prompts of a call."""
    one = PIXELS if kind == "image" else FRAMES
    for text, media, found, given in (
        (token * 3, [one, one], "3", "2"),
        (token, [one, one, one, one], "1", "4"),
        ("none", [one], "0", "1"),
        ([token, token * 2], [one, one], "3", "2"),
    ):
        message = refuse(lambda text=text, media=media: ours(text, **{argument: media}), token, f"{given} {kind}")
        assert message.startswith(f"the prompt has {found} "), message
    refuse(lambda: ours(token), f"1 {token} placeholder,", f"0 {kind}s")


def test_image_for_a_video_placeholder(ours: Processor) -> None:
    refuse(lambda: ours(VIDEO, images=PIXELS), "0 <|image_pad|>", "1 image")
    refuse(lambda: ours(IMAGE, videos=FRAMES), "1 <|image_pad|>", "0 images")
