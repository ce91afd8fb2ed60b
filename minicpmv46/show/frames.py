"""The contact sheet of a video: the pictures that the model sees of it, with their times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..media import open_media
from ..option_names import VideoOptions, naming
from ..options import Options
from ..slicing import Size, grid_cells
from ..video import Clip
from .counts import MediumTokens, SeenPicture, TokenCounts, percent
from .drawing import draw_grid, line_height, scaled, text_width
from .media import one_video, options_for
from .sheet import Part, sheet
from .tokens import count, file_name, plan_medium

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Width of a sheet, and heights of its pictures in pixels: the first at which it is at most HIGH.
WIDTH, HIGH, HEIGHTS = 1400, 1800, (220, 180, 150, 120, 100, 84, 72, 60)
# Letters of captions in pixels; the larger ones from a height of the pictures.
LETTERS, LARGER = (13, 11), 120
GAP = 12
# Most pictures of a sheet.
MOST = 2048


@naming(VideoOptions)
def show_frames(
    video: Any, *, processor: Any = None, video_metadata: Any = None, **given: Unpack[VideoOptions]
) -> Image.Image:
    """A contact sheet of the frames of a video that are used, as the model sees them, with their times.

    With `stack_frames` the composed pictures follow their main frames. Grids are drawn where frames are cut.
    `count_tokens(video).media[0].pictures` has the same as numbers.

    Args:
        video: path, URL, array of frames, list of frames: everything that the processor takes.
        processor: of a loaded checkpoint, whose options and context then hold; None takes the official ones of
            MiniCPM-V 4.6.
        video_metadata: for decoded frames, total_num_frames, fps and duration.
        given: options of videos, see `option_names.VideoOptions`.

    Raises:
        TypeError: an option is unknown, or `processor` is not one of this package's.
        ValueError: the video cannot be read or is larger than the limits, an option has a value that is not
            supported, or there are more than 2,048 pictures.
    """
    options = options_for(processor, "show_frames", VideoOptions.__annotations__, **given)
    return draw_frames(*sample_video(video, file_name(video, "video"), options, video_metadata))


def sample_video(video: Any, name: str, options: Options, metadata: Any = None) -> tuple[Clip, TokenCounts]:
    """A video, the frames of it that are used, and their tokens; raises `ValueError`."""
    opened = open_media([], [one_video(video)], metadata, None, options)
    opened.costs()
    clip = opened.videos[0]
    return clip, count([clip], [plan_medium(clip, options)], [name], options)


def draw_frames(clip: Clip, counts: TokenCounts) -> Image.Image:
    """The contact sheet; raises `ValueError` where a frame cannot be decoded or there are too many."""
    medium = counts.media[0]
    if len(medium.pictures) > MOST:
        raise ValueError(
            f"a sheet has at most {MOST:,} pictures, and of this video {len(medium.pictures):,} are used; "
            "a smaller max_num_frames takes fewer"
        )
    captions = _captions(medium.pictures)
    height, letters, rows = _layout([picture.plan.size for picture in medium.pictures], captions)
    thumbnails: dict[int, Image.Image] = {}
    for i, pixels in clip.pictures():
        plan = medium.pictures[i].plan
        thumbnail = scaled(Image.fromarray(pixels), _fitted(plan.size, height))
        if plan.grid is not None:
            cells = grid_cells((thumbnail.height, thumbnail.width), plan.grid)
            draw_grid(thumbnail, cells, thin=True)
        thumbnails[i] = thumbnail
    parts = [[Part(thumbnails[i], captions[i], letters) for i in row] for row in rows]
    return sheet(medium.name, texts_of(medium, counts), parts, GAP)


def _fitted(size: Size, height: int) -> tuple[int, int]:
    """(width, height) in pixels of a picture on the sheet."""
    factor = min(height / size[0], WIDTH / size[1])
    return max(round(size[1] * factor), 1), max(round(size[0] * factor), 1)


def _layout(sizes: Sequence[Size], captions: Sequence[Sequence[str]]) -> tuple[int, int, list[list[int]]]:
    """Height of the pictures, letters of the captions, and the numbers of the pictures in each row."""
    for height in HEIGHTS:
        letters = LETTERS[0] if height >= LARGER else LETTERS[1]
        texts = [max(text_width(line, letters) for line in caption) for caption in captions]
        widths = [max(_fitted(size, height)[0], text) for size, text in zip(sizes, texts, strict=True)]
        rows = list(_rows(widths))
        if len(rows) * (height + 2 * line_height(letters) + GAP) <= HIGH:
            break
    return height, letters, rows


def _rows(widths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of the pictures in each row, as many as fit."""
    row: list[int] = []
    taken = 0
    for i, width in enumerate(widths):
        if row and taken + width > WIDTH:
            yield row
            row, taken = [], 0
        row.append(i)
        taken += width + GAP
    yield row


def _captions(pictures: Sequence[SeenPicture]) -> list[tuple[str, str]]:
    """Time, or number where no times are known, and slices and tokens of each picture."""
    times = [second for picture in pictures for second in picture.seconds]
    digits = 1 if all(abs(round(second, 1) - second) < 0.01 for second in times) else 2
    return [(_time(picture, digits), _tokens(picture)) for picture in pictures]


def _time(picture: SeenPicture, digits: int) -> str:
    if not picture.seconds:
        return f"frame {picture.frames[0]}"
    first, last = (f"{second:.{digits}f}" for second in (picture.seconds[0], picture.seconds[-1]))
    return f"{first} s" if len(picture.frames) == 1 else f"{first} to {last} s"


def _tokens(picture: SeenPicture) -> str:
    tokens, slices = sum(picture.plan.token_counts), len(picture.plan.slice_sizes)
    return f"{slices} slices, {tokens:,} tokens" if slices else f"{tokens:,} tokens"


def texts_of(medium: MediumTokens, counts: TokenCounts) -> list[str]:
    """What a video is, what is used of it, and what that takes."""
    (height, width), clip = medium.size, medium.metadata
    composed = sum(len(picture.frames) > 1 for picture in medium.pictures)
    length = (
        f", {clip.total_num_frames:,} frames, {clip.fps:.5g} a second, {round(clip.duration, 2):g} s" if clip else ""
    )
    used = f"used: {_of(len(medium.pictures) - composed, 'frame')}"
    used += f" and {_of(composed, 'picture')} composed of frames" if composed else ""
    return [
        f"{width} x {height} pixels{length}",
        f"{used}, {_of(medium.slices, 'slice') if medium.slices else 'no slices'}, mode {medium.mode}",
        f"{counts.visual:,} visual tokens; {counts.prompt:,} with the markers around them, "
        f"{percent(counts.share)} of a context of {counts.context:,}",
    ]


def _of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
