"""Options of the processor: values that cannot be, names that do not exist."""

from typing import Any

import pytest
from support.refusals import FOREIGN, FRAMES, IMAGE, METADATA, PIXELS, VIDEO, refuse

from minicpmv46.processing import Processor


@pytest.mark.parametrize("value", ["2x", "16", "", 16, True, ["4x"]], ids=repr)
def test_downsample_mode(ours: Processor, value: Any) -> None:
    refuse(lambda: ours(IMAGE, images=PIXELS, downsample_mode=value), "downsample_mode", "'4x', '16x'", repr(value))
    refuse(lambda: ours(VIDEO, videos=FRAMES, videos_kwargs={"downsample_mode": value}), "downsample_mode", repr(value))


@pytest.mark.parametrize("value", [0, -1, 2.5, 9.0, True, "9", [9]], ids=repr)
@pytest.mark.parametrize("name", ["max_slice_nums", "scale_resolution"])
def test_image_numbers(ours: Processor, name: str, value: Any) -> None:
    """Also where the option is not used: a video without frames to slice, a text."""
    words = (name, "integer of at least 1", repr(value))
    refuse(lambda: ours(IMAGE, images=PIXELS, **{name: value}), *words)
    refuse(lambda: ours(IMAGE, images=PIXELS, images_kwargs={name: value}), *words)
    refuse(lambda: ours(VIDEO, videos=FRAMES, **{name: value}), *words)
    refuse(lambda: ours("text", **{name: value}), *words)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"], ids=repr)
@pytest.mark.parametrize("name", ["stack_frames", "max_num_frames", "nframes", "min_frames"])
def test_video_numbers(ours: Processor, name: str, value: Any) -> None:
    refuse(
        lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, **{name: value}),
        name,
        "integer of at least 1",
        repr(value),
    )


@pytest.mark.parametrize("name", ["nframes", "min_frames"])
def test_more_frames_than_there_are(ours: Processor, name: str) -> None:
    refuse(
        lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, **{name: 7}), "video 0", f"{name} = 7", "6 frames"
    )


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1", True], ids=repr)
def test_fps(ours: Processor, value: Any) -> None:
    words = ("fps", "positive", repr(value))
    refuse(lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, fps=value), *words)
    refuse(lambda: ours(VIDEO * 2, videos=[FRAMES] * 2, video_metadata=[METADATA] * 2, fps=[1.0, value]), *words)


def test_fps_of_another_number_of_videos(ours: Processor) -> None:
    refuse(lambda: ours(VIDEO, videos=FRAMES, video_metadata=METADATA, fps=[1.0, 2.0]), "fps has 2", "1 video")


@pytest.mark.parametrize("name", ["slice_mode", "use_image_id"])
@pytest.mark.parametrize("value", [1, "yes"], ids=repr)
def test_switches(ours: Processor, name: str, value: Any) -> None:
    refuse(lambda: ours(IMAGE, images=PIXELS, **{name: value}), name, repr(value))


def test_unknown_options(ours: Processor) -> None:
    """A misspelt option must not be passed over."""
    refuse(lambda: ours(IMAGE, images=PIXELS, max_slice_num=36), "'max_slice_num'", kind=TypeError)
    for argument, own, unknown in (
        ("images_kwargs", "max_slice_nums", ("max_slice_num", "stack_frames", "nframes")),
        ("videos_kwargs", "stack_frames", ("stack_frame", "size")),
    ):
        for name in unknown:
            refuse(
                lambda argument=argument, name=name: ours("text", **{argument: {name: 1}}),
                *(argument, name, own),
                kind=TypeError,
            )


@pytest.mark.parametrize("argument", ["images_kwargs", "videos_kwargs"])
def test_options_that_are_no_mapping(ours: Processor, argument: str) -> None:
    with pytest.raises((ValueError, TypeError), match=argument):
        ours("text", **{argument: 5})


def test_return_tensors(ours: Processor) -> None:
    refuse(lambda: ours("text", return_tensors="pt"), "return_tensors", "'mlx'", "'pt'")


@pytest.mark.parametrize("text", [None, 5, [None], ["a", 5], b"text", []], ids=repr)
def test_text(ours: Processor, text: Any) -> None:
    """Prompts are strings, at least one."""
    with pytest.raises((ValueError, TypeError), match=r"(?i)text|prompt") as caught:
        ours(text)
    assert not [word for word in FOREIGN if word in str(caught.value) and word != "NoneType"], caught.value
