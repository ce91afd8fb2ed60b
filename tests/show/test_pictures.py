"""Pictures of slices and contact sheets: what is where on them, whatever the size; no text is cut off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.drawn_text import drawn_large
from support.pictures import MEDIA, Clip
from support.refusals import refuse

import minicpmv46
from minicpmv46.processing import Processor
from minicpmv46.show import drawing, frames, sheet, slices

GREY = (128, 128, 128)


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def places(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels of a colour, bool [height, width]."""
    return (np.asarray(image) == colour).all(axis=-1)


def starts(marks: np.ndarray) -> list[int]:
    """First position of each run of true values."""
    return np.flatnonzero(marks & ~np.r_[False, marks[:-1]]).tolist()


def assert_margins(image: Image.Image) -> None:
    """Nothing reaches into the margins, as text that is too wide would."""
    pixels, margin = np.asarray(image), sheet.MARGIN - 2
    for edge in (pixels[:margin], pixels[-margin:], pixels[:, :margin], pixels[:, -margin:]):
        assert (edge == 255).all()


SIZES = {
    "photo": (320, 240, {}),
    "crop": (60, 18, {}),
    "one pixel": (1, 1, {}),
    "nine": (1344, 1344, {}),
    "36": (2000, 2000, {"max_slice_nums": 36}),
    "strip": (3000, 180, {}),
    "column": (120, 2600, {}),
    "thin strip": (9000, 60, {"max_slice_nums": 36}),
    "thin column": (60, 9000, {"max_slice_nums": 36, "downsample_mode": "4x"}),
    "100 slices": (700, 700, {"max_slice_nums": 100, "scale_resolution": 70}),
    "no slices": (1344, 1344, {"slice_mode": False}),
}


@pytest.mark.parametrize("name", SIZES)
def test_any_size(name: str) -> None:
    width, height, options = SIZES[name]
    shown = minicpmv46.show_slices(grey(width, height), **options)
    assert_margins(shown)
    assert shown.mode == "RGB" and max(shown.size) < 4200 and min(shown.size) > 180


@pytest.mark.parametrize(("width", "height", "rows", "cols"), [(1344, 1344, 3, 3), (1000, 700, 2, 2), (900, 300, 1, 3)])
def test_lines_of_the_grid(width: int, height: int, rows: int, cols: int) -> None:
    """At the borders of the cells of the picture, which is drawn 1,000 pixels long."""
    assert minicpmv46.plan_slices(height, width).grid == (rows, cols)
    marks = places(minicpmv46.show_slices(grey(width, height)), drawing.LINE)
    down, across = marks.all(axis=0), marks.all(axis=1)
    assert not down.any() and not across.any()  # they end with the picture
    scale = 1000 / max(width, height)
    long_columns = marks.sum(axis=0) > 0.9 * height * scale
    long_rows = marks.sum(axis=1) > 0.9 * width * scale
    lefts, tops = starts(long_columns), starts(long_rows)
    assert lefts == [sheet.MARGIN + round(width * scale * i / cols) - 1 for i in range(1, cols)]
    ends = [round(height * scale * i / rows) for i in range(1, rows)]
    assert [top - tops[0] for top in tops] == [end - ends[0] for end in ends]


def test_overview_alone_has_no_grid() -> None:
    assert not places(minicpmv46.show_slices(grey(300, 200)), drawing.LINE).any()


def test_the_picture_and_the_overview_are_there() -> None:
    """In the image's own colours, once whole and once as large as a slice."""
    shown = minicpmv46.show_slices(grey(1344, 1344))
    marks = places(shown, GREY)
    row = marks.sum(axis=1).max()
    # Cells of 333 pixels, lines and labels between them; the overview beside them is one cell large.
    assert 1000 + 333 - 20 < row <= 1000 + 333
    column = marks.sum(axis=0)
    assert column.max() > 900 and 320 < column[-100] <= 334


def test_own_sizes_are_blue(processor: Callable[[str], Processor]) -> None:
    """Slices that "adaptive" leaves at their own size have labels of another colour, as many as there are."""
    options: dict[str, Any] = {"small_image_upsize": "adaptive", "scale_resolution": 224}
    ours = processor("ocr")
    seen = set()
    for seed in range(8):
        image = drawn_large(seed, 224)
        plan = minicpmv46.count_tokens(image, processor=ours, **options).media[0].pictures[0].plan
        own = any(plan.own_sizes)
        seen.add(own)
        blend = np.asarray(minicpmv46.show_slices(image, processor=ours, **options)).astype(int)
        blue = (blend[..., 2] - blend[..., 0] > 120).sum() > 500
        assert blue == own
    assert seen == {True, False}


def clip_of(frames: int, size: tuple[int, int] = (36, 64)) -> dict[str, Any]:
    clip = Clip("noise", frames, 4.0, size)
    return {"video": clip.load(), "video_metadata": clip.metadata}


def framed(shown: Image.Image) -> int:
    """Pictures of a sheet, by the left upper corners of the lines around them."""
    line = places(shown, drawing.FRAME)
    right, below = np.zeros_like(line), np.zeros_like(line)
    right[:, :-8] = np.logical_and.reduce([line[:, i : line.shape[1] - 8 + i] for i in range(8)])
    below[:-8] = np.logical_and.reduce([line[i : line.shape[0] - 8 + i] for i in range(8)])
    return int((right & below).sum())


@pytest.mark.parametrize(
    ("length", "options"), [(1, {}), (23, {}), (23, {"stack_frames": 3}), (23, {"stack_frames": 5})]
)
def test_contact_sheet_has_all_pictures(length: int, options: dict[str, Any]) -> None:
    given = clip_of(length)
    shown = minicpmv46.show_frames(**given, **options)
    counts = minicpmv46.count_tokens(given["video"], video_metadata=given["video_metadata"], **options)
    assert framed(shown) == len(counts.media[0].pictures)
    assert_margins(shown)


def test_128_frames() -> None:
    """Fit a sheet that can be looked at."""
    shown = minicpmv46.show_frames(**clip_of(128, (18, 32)), nframes=128)
    assert framed(shown) == 128
    assert 1000 < shown.width <= frames.WIDTH + 2 * sheet.MARGIN and 600 < shown.height < 2200
    assert_margins(shown)


def test_the_frames_that_are_used_are_shown() -> None:
    """Each frame has a level of its own; a second has four frames."""
    levels = np.arange(20, 260, 20, dtype=np.uint8)  # three seconds
    video = np.broadcast_to(levels[:, None, None, None], (12, 30, 40, 3))
    shown = minicpmv46.show_frames(video, video_metadata={"total_num_frames": 12, "fps": 4.0, "duration": 3.0})
    areas = [int(places(shown, (int(level),) * 3).sum()) for level in levels]
    largest = max(areas)
    assert [i for i, area in enumerate(areas) if area > 0.8 * largest] == [0, 4, 8]


def test_files_and_paths() -> None:
    shown = minicpmv46.show_frames(MEDIA / "pan_short.mp4", max_slice_nums=1)
    assert framed(shown) == len(minicpmv46.count_tokens(MEDIA / "pan_short.mp4", max_slice_nums=1).media[0].pictures)
    assert minicpmv46.show_slices(str(MEDIA / "page.png")).width > 400


def test_more_pictures_than_a_sheet_has() -> None:
    video = np.zeros((2049, 2, 2, 3), np.uint8)
    refuse(lambda: minicpmv46.show_frames(video), "2,048", "2,049", "max_num_frames")


@given(st.text(max_size=60), st.integers(40, 400))
@settings(deadline=None, max_examples=60)
def test_text_stays_within_a_width(text: str, width: int) -> None:
    text = drawing.printable(text)
    assert drawing.text_width(drawing.shortened(text, 14, width), 14) <= width
    assert all(drawing.text_width(line, 14) <= width for line in drawing.wrapped(text, 14, width))


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 300)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_labels_fit_their_cells(sides: list[tuple[int, int]]) -> None:
    labels = [("1234 x 56", "1,024 tokens")] * len(sides)
    letters = drawing.letters_for(labels, sides)
    if letters is None:
        width, height = drawing.label_extent(labels[0], drawing.LETTERS[-1])
        assert any(w < width + 2 * drawing.INSET or h < height + 2 * drawing.INSET for w, h in sides)
    else:
        width, height = drawing.label_extent(labels[0], letters)
        assert all(width <= w and height <= h for w, h in sides)


def test_names_that_the_font_cannot_write(tmp_path: Path) -> None:
    """Become question marks; very long ones are shortened."""
    assert drawing.printable("é\n漢 a") == "e?? a"
    path = tmp_path / ("漢字 " + "long name " * 15 + ".png")
    grey(20, 20).save(path)
    assert_margins(minicpmv46.show_slices(path))


def test_labels_of_a_thin_strip_are_below_it() -> None:
    """They would hide it."""
    counts = minicpmv46.count_tokens(grey(20000, 120), max_slice_nums=36)
    part = slices._grid(grey(20000, 120), counts.media[0].pictures[0].plan)
    assert not part.framed and part.image.height > 40
    dark = places(part.image, GREY).any(axis=1)
    assert dark[1:5].all() and not dark[-20:].any()
