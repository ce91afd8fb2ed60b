"""Requests that ask for too much: refused with the number and the limit, before anything is decoded."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from support.pictures import MEDIA
from support.refusals import IMAGE, VIDEO, refuse

from minicpmv46.image import cut_units
from minicpmv46.limits import VARIABLE, Limits
from minicpmv46.processing import Processor

CLIP = str(MEDIA / "pan_long.mp4")


@pytest.fixture
def ours(processor: Callable[[str], Processor], monkeypatch: pytest.MonkeyPatch) -> Processor:
    """A processor in a process that must not decode: no picture is loaded, resized or composed, no frame is used."""

    def decoded(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr("minicpmv46.media.cut_units", decoded)
    monkeypatch.setattr("minicpmv46.video.cut_units", decoded)
    monkeypatch.setattr("minicpmv46.video.compose", decoded)
    return processor("base")


def png(height: int, width: int) -> io.BytesIO:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("stack_frames", 10**6, "stack = 64"),
        ("max_num_frames", 10**9, "frames = 16,384"),
        ("nframes", 20_000, "frames = 16,384"),
        ("max_frames", 10**5, "frames = 16,384"),
        ("max_slice_nums", 10**6, "slices = 1,024"),
        ("scale_resolution", 10**6, "side = 1,792"),
        ("fps", 1e9, "rate = 1,000"),
        ("fps", [1e9], "rate = 1,000"),
        ("max_length", 10**9, "context = 262,144"),
    ],
)
def test_options_have_ceilings(ours: Processor, name: str, value: Any, limit: str) -> None:
    given: Any = {name: value}
    refuse(lambda: ours(VIDEO, videos=[CLIP], **given), name, limit, VARIABLE)


def test_visual_tokens_fit_the_context(ours: Processor) -> None:
    """Of each prompt, by options that are all below their ceilings."""
    image = png(9000, 9000)
    options: Any = {"downsample_mode": "4x", "max_slice_nums": 1024}
    refuse(lambda: ours(IMAGE * 3, images=[image] * 3, **options), "prompt 0", "visual tokens: 3", "context = 262,144")
    few = ours.with_limits(context=5000)
    images = [[png(900, 900)], [png(900, 900)] * 5]
    refuse(lambda: few([IMAGE, IMAGE * 5], images=images, downsample_mode="4x"), "prompt 1", "visual tokens: 6,4")
    refuse(lambda: few(VIDEO, videos=[CLIP], downsample_mode="4x", fps=30), "prompt 0", "visual tokens", "5,000")
    frames = np.zeros((40, 60, 80, 3), np.uint8)
    refuse(lambda: few(VIDEO, videos=[frames], downsample_mode="4x"), "visual tokens: 10,080", "5,000")


def test_patches_fit_the_memory(ours: Processor) -> None:
    """Of all prompts of a call together."""
    few = ours.with_limits(patches=5000)
    refuse(lambda: few([IMAGE] * 6, images=[png(448, 448)] * 6), "patches: 6,144", "patches = 5,000")
    memory = Limits().patches
    assert 0 < memory < 10**9


def test_pixels_of_a_source(ours: Processor) -> None:
    few = ours.with_limits(pixels=10_000)
    for source in (png(100, 101), Image.new("L", (100, 101)), np.zeros((100, 101), np.uint8)):
        refuse(lambda source=source: few(IMAGE, images=[source]), "image 0", "10,100", "pixels = 10,000")
        refuse(lambda source=source: few(IMAGE, images=[source], resize_shape=(9, 9)), "image 0", "10,100")
    refuse(lambda: few(VIDEO, videos=[CLIP]), "video 0", "pixels = 10,000")


def test_pixels_of_a_composed_picture(ours: Processor) -> None:
    """Each frame is small; the picture of them is not."""
    frames = np.zeros((30, 100, 100, 3), np.uint8)
    metadata = {"total_num_frames": 30, "fps": 10.0, "duration": 3.0}
    few = ours.with_limits(pixels=60_000)
    refuse(
        lambda: few(VIDEO, videos=[frames], video_metadata=metadata, stack_frames=9),
        *("video 0", "100x842", "84,200", "pixels = 60,000"),
    )


def test_counts_and_text(ours: Processor) -> None:
    image = Image.new("L", (2, 2))
    refuse(lambda: ours(IMAGE * 5000, images=[image] * 5000), "5,000", "media = 4,096")
    refuse(lambda: ours("a" * 10**7), "prompt 0", "context = 262,144")
    short = ours.with_limits(context=10)
    refuse(lambda: short(["a", "many words " * 6]), "prompt 1", "tokens", "context = 10")
    assert short("a")["input_ids"].shape == (1, 1)


def test_metadata_does_not_decide_how_much_is_computed(ours: Processor) -> None:
    """A clip that claims to last for ages is sampled without a list of its seconds."""
    frames = np.zeros((4, 20, 20, 3), np.uint8)
    metadata = {"total_num_frames": 4, "fps": 4e-12, "duration": 1e12}
    for stack in (1, 5):
        with pytest.raises((AssertionError, ValueError)):  # as far as decoding, or a contradiction
            ours(VIDEO, videos=[frames], video_metadata=metadata, stack_frames=stack)
    for name in ("fps", "duration"):
        for value in (float("inf"), float("nan")):
            wrong = {"total_num_frames": 4, "fps": 2.0, "duration": 2.0, name: value}
            refuse(lambda wrong=wrong: ours(VIDEO, videos=[frames], video_metadata=wrong), "video 0", name, str(value))


@pytest.mark.parametrize("kind", ["EPS", "PCX", "SGI", "ICNS", "PSD"])
def test_only_named_formats_are_opened(ours: Processor, kind: str, tmp_path: Path) -> None:
    """Whatever the name says; opening an EPS would start Ghostscript."""
    path = tmp_path / "picture.png"
    if kind == "PSD":
        path.write_bytes(b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\2\0\0\0\2\0\10\0\3" + bytes(60))
    else:
        Image.new("RGB", (64, 64), (9, 99, 200)).save(path, kind)
    Image.open(path).close()  # Pillow itself knows it
    for source in (str(path), path, io.BytesIO(path.read_bytes())):
        refuse(lambda source=source: ours(IMAGE, images=[source]), "image 0", "cannot identify", "JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
def test_usual_formats_are_read(processor: Callable[[str], Processor], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.new("RGB", (32, 32), (9, 99, 200)).save(path, kind)
    assert len(processor("base")(IMAGE, images=[path])["image_units"]) == 1


def test_limits_are_raised(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment for what is loaded then, or for one processor; a wrong name or number is told."""
    folder = checkpoint("base")
    monkeypatch.setenv(VARIABLE, " slices=5000, stack=100 ")
    loaded = Processor.from_pretrained(folder)
    assert (loaded.options.limits.slices, loaded.options.limits.stack) == (5000, 100)
    assert loaded.with_defaults(max_slice_nums=4000).options.images.slicing.max_slice_nums == 4000
    for wrong in ("slice=5", "slices", "slices=many", "slices=0"):
        monkeypatch.setenv(VARIABLE, wrong)
        refuse(lambda: Processor.from_pretrained(folder), "slices")
    monkeypatch.delenv(VARIABLE)
    changed = loaded.with_limits(rate=10_000)
    assert changed.with_defaults(fps=9000).options.videos.sampling.fps == 9000
    refuse(lambda: loaded.with_limits(slice=3), "'slice'", "slices", kind=TypeError)
    refuse(lambda: loaded.with_limits(slices=True), "slices")


def test_context_is_the_checkpoints(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoint("base")
    assert Limits.of_checkpoint(folder).context == 262_144
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 900}}')
    assert Limits.of_checkpoint(tmp_path).context == 900


@pytest.mark.parametrize("kind", ["images", "videos"])
def test_large_pictures_wait_for_each_other(
    processor: Callable[[str], Processor], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels that are cut at a time stay below the limit, of images and of frames; the result is the same."""
    running: list[int] = []
    most: list[int] = []
    module = "media" if kind == "images" else "video"

    def counted(picture: Any, *args: Any) -> Any:
        pixels = 60 * 100
        running.append(pixels)
        most.append(sum(running))
        time.sleep(0.02)
        running.remove(pixels)
        return cut_units(picture, *args)

    ours = processor("base")
    pictures = np.random.RandomState(2).randint(0, 256, (6, 60, 100, 3)).astype(np.uint8)
    given: Any = {"images": list(pictures)} if kind == "images" else {"videos": [pictures]}
    text = IMAGE * 6 if kind == "images" else VIDEO
    expected = ours(text, **given)["pixel_values"]
    monkeypatch.setattr(f"minicpmv46.{module}.cut_units", counted)
    made = ours.with_limits(together=6000)(text, **given)["pixel_values"]
    np.testing.assert_array_equal(made, expected)
    assert max(most) <= 6000 and len(most) == 6


def test_sizes_of_frames_cost_no_conversion(
    processor: Callable[[str], Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame with transparency is made RGB once, when it is used."""
    seen: list[tuple[int, ...]] = []

    def counted(array: np.ndarray) -> np.ndarray:
        seen.append(array.shape)
        return array[..., :3]

    monkeypatch.setattr("minicpmv46.decoding._rgb_from_array", counted)
    processor("base")(VIDEO, videos=[np.zeros((3, 20, 30, 4), np.uint8)])
    assert seen == [(20, 30, 4)] * 3
