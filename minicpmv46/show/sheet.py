"""A sheet of pictures: a heading, some lines of text, and the pictures with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .drawing import FAINT, FRAME, INK, PAPER, font, line_height, printable, shortened, text_width, wrapped

MARGIN, GAP = 24, 20
# Letters in pixels: the heading, text below it, captions.
HEADING, TEXT, CAPTION = 22, 16, 14
# Narrowest sheet, for its text.
NARROWEST = 620


@dataclass(frozen=True)
class Part:
    """A picture and the lines of its caption, in letters of a size; `framed` draws a line around it."""

    image: Image.Image
    caption: Sequence[str] = ()
    letters: int = CAPTION
    framed: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels with the caption."""
        text = max((text_width(line, self.letters) for line in self.caption), default=0)
        below = len(self.caption) * line_height(self.letters) + 6 * bool(self.caption)
        return max(self.image.width, text), self.image.height + below


def sheet(heading: str, texts: Sequence[str], rows: Sequence[Sequence[Part]], gap: int = GAP) -> Image.Image:
    """Rows of parts below a heading and texts, as wide and high as they need."""
    widths = [sum(part.size[0] for part in row) + gap * (len(row) - 1) for row in rows]
    heights = [max(part.size[1] for part in row) for row in rows]
    inner = max(*widths, NARROWEST)
    lines = [line for text in texts for line in wrapped(printable(text), TEXT, inner)]
    top = MARGIN + line_height(HEADING) + 4 + len(lines) * line_height(TEXT) + GAP
    canvas = Image.new("RGB", (inner + 2 * MARGIN, top + sum(heights) + gap * (len(rows) - 1) + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN), shortened(printable(heading), HEADING, inner), font=font(HEADING), fill=INK)
    for i, line in enumerate(lines):
        place = MARGIN, MARGIN + line_height(HEADING) + 4 + i * line_height(TEXT)
        draw.text(place, line, font=font(TEXT), fill=FAINT)
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for part in row:
            _draw_part(canvas, (left, top), part)
            left += part.size[0] + gap
        top += height + gap
    return canvas


def _draw_part(canvas: Image.Image, place: tuple[int, int], part: Part) -> None:
    left, top = place
    draw = ImageDraw.Draw(canvas)
    canvas.paste(part.image, place)
    if part.framed:  # so that a white page is seen on the white sheet
        draw.rectangle((left - 1, top - 1, left + part.image.width, top + part.image.height), outline=FRAME)
    for i, line in enumerate(part.caption):
        below = top + part.image.height + 6 + i * line_height(part.letters)
        draw.text((left, below), line, font=font(part.letters), fill=FAINT if i else INK)
