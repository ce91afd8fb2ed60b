"""Text, labels and lines on pictures, with Pillow's own font: letters of a size that fits, and nothing cut off."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from ..slicing import Box

Colour = tuple[int, int, int]
# Lines of text that belong together.
Label = tuple[str, ...]

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 36, 42)
FAINT: Colour = (92, 99, 108)
FRAME: Colour = (198, 203, 209)
LINE: Colour = (230, 74, 25)
LABEL: Colour = (32, 36, 42)
OWN: Colour = (21, 101, 192)  # slices that have a size of their own

# Letters of a label in pixels, from the largest down to the smallest that can be read.
LETTERS = tuple(range(16, 9, -1))
PADDING = 4
# Pixels between a cell's corner and its label.
INSET = 5
# Parts of a cell's width and height that a label covers at most.
COVERED = (0.75, 0.35)
# How much of the black of a label's box hides the picture, of 255.
OPACITY = 225


@cache
def font(letters: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's font with letters of a size in pixels."""
    return ImageFont.load_default(letters)


def text_width(text: str, letters: int) -> int:
    return int(font(letters).getlength(text)) + 1


def line_height(letters: int) -> int:
    return round(letters * 1.3)


def printable(text: str) -> str:
    """A text in letters that the font has: accents are left out, and what it cannot write is `?`."""
    face = font(LETTERS[0])
    unknown = bytes(face.getmask("\uffff"))

    def known(letter: str) -> bool:
        return letter == " " or (letter.isprintable() and bytes(face.getmask(letter)) != unknown)

    plain = (c if known(c) else unicodedata.normalize("NFKD", c)[0] for c in text)
    return "".join(c if known(c) else "?" for c in plain)


def shortened(text: str, letters: int, width: int) -> str:
    """A text that is at most `width` pixels wide: its middle is left out where it is wider."""
    for kept in range(len(text), 1, -1):
        cut = len(text) - kept
        shown = text if not cut else f"{text[: kept // 2]}...{text[kept // 2 + cut :]}"
        if text_width(shown, letters) <= width:
            return shown
    return text[:1]


def wrapped(text: str, letters: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a wider word is shortened."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", letters) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, letters, width))
    return lines


def label_extent(label: Label, letters: int) -> tuple[int, int]:
    """Width and height in pixels of a label with its padding."""
    return max(text_width(line, letters) for line in label) + 2 * PADDING, len(label) * line_height(letters) + PADDING


def letters_for(labels: Sequence[Label], sides: Sequence[tuple[int, int]]) -> int | None:
    """Largest letters at which each label fits into its cell (width, height); None where none do.

    A label covers at most a part of its cell, except with the smallest letters.
    """
    for letters in LETTERS:
        last = letters == LETTERS[-1]
        for label, (width, height) in zip(labels, sides, strict=True):
            across, down = (length + 2 * INSET for length in label_extent(label, letters))
            if across > width * (1 if last else COVERED[0]) or down > height * (1 if last else COVERED[1]):
                break
        else:
            return letters
    return None


def draw_label(image: Image.Image, place: tuple[int, int], label: Label, letters: int, colour: Colour) -> None:
    """Lines of white text on a box; `place` is its left top corner."""
    width, height = label_extent(label, letters)
    box = Image.new("RGBA", (width, height), (*colour, 0))
    draw = ImageDraw.Draw(box)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), radius=PADDING, fill=(*colour, OPACITY))
    for i, line in enumerate(label):
        draw.text((PADDING, PADDING // 2 + i * line_height(letters)), line, font=font(letters), fill=PAPER)
    image.paste(box, place, box)


def draw_grid(image: Image.Image, cells: Sequence[Box], thin: bool) -> None:
    """Lines between cells, with a white edge so that they are seen on any picture."""
    draw = ImageDraw.Draw(image)
    half = 0 if thin else 1
    xs = {left for _, _, left, _ in cells if left}
    ys = {top for top, _, _, _ in cells if top}
    for colour, wide in ((PAPER, half + 1), (LINE, half)):
        for x in xs:
            draw.rectangle((x - wide, 0, x + wide, image.height - 1), fill=colour)
        for y in ys:
            draw.rectangle((0, y - wide, image.width - 1, y + wide), fill=colour)


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGB image at (width, height) in pixels, for looking at; always a copy."""
    smaller = size[0] <= image.width and size[1] <= image.height
    return image.resize(size, Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC)
