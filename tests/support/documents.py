"""Forty crops of documents, no two of one size, and what `small_image_upsize` makes of each.

As people send them who read documents: lines, paragraphs, cells of tables, prices, icons, pieces of a page. The
numbers of tokens are the official processor's, for units of `SMALL` and in its own mode, 4x.
"""

from dataclasses import dataclass
from typing import Any

from support.pictures import Negative, Picture, Scan

# A unit has a seventh of the usual pixels, so that forty crops cost little, and crops of 28,224 pixels are sliced.
SMALL = {"scale_resolution": 168}
UPSIZES = ("always", "never", "adaptive")


@dataclass(frozen=True)
class Crop:
    """A picture and the tokens of its units, overview first, for each value of `small_image_upsize`."""

    picture: Picture
    always: tuple[int, ...]
    never: tuple[int, ...]
    adaptive: tuple[int, ...]

    def tokens(self, upsize: str) -> tuple[int, ...]:
        found: tuple[int, ...] = getattr(self, upsize)
        return found


CROPS: tuple[Crop, ...] = (
    # Small letters close together: "adaptive" enlarges them
    Crop(Picture("page.png", crop=(55, 560, 235, 640)), (36,), (18,), (36,)),
    Crop(Picture("page.png", crop=(300, 705, 445, 790)), (40,), (15,), (40,)),
    Crop(Picture("page.png", crop=(60, 99, 230, 180)), (36,), (18,), (36,)),
    Crop(Picture("page.png", crop=(55, 800, 200, 877)), (32,), (15,), (32,)),
    Crop(Negative("page.png", crop=(55, 640, 215, 702)), (40,), (12,), (40,)),
    Crop(Negative("page.png", crop=(60, 320, 200, 380)), (36,), (10,), (36,)),
    Crop(Scan("page.png", crop=(60, 180, 205, 258), seed=4), (32,), (15,), (32,)),
    Crop(Scan("page.png", crop=(58, 600, 258, 690), seed=5), (36,), (21,), (36,)),
    Crop(Picture("receipt_l.png", crop=(8, 70, 120, 200)), (36,), (20,), (36,)),
    Crop(Negative("receipt_l.png", crop=(8, 200, 110, 330)), (35,), (20,), (35,)),
    Crop(Picture("receipt_l.png", crop=(170, 70, 230, 180)), (32,), (8,), (32,)),
    Crop(Negative("receipt_l.png", crop=(170, 180, 226, 300)), (36,), (8,), (36,)),
    # The same below 6,272 pixels
    Crop(Picture("page.png", crop=(58, 561, 200, 576)), (36,), (5,), (36,)),
    Crop(Picture("page.png", crop=(58, 579, 140, 594)), (42,), (3,), (42,)),
    Crop(Negative("page.png", crop=(60, 103, 180, 119)), (32,), (4,), (32,)),
    Crop(Scan("page.png", crop=(60, 123, 150, 138), seed=6), (30,), (3,), (30,)),
    Crop(Picture("receipt_l.png", crop=(8, 70, 120, 92)), (39,), (4,), (39,)),
    # Large or far apart: "adaptive" keeps their size
    Crop(Picture("page.png", crop=(50, 40, 430, 80)), (36,), (14,), (14,)),
    Crop(Negative("page.png", crop=(50, 40, 250, 82)), (39,), (14,), (14,)),
    Crop(Picture("slide.png", crop=(0, 0, 300, 60)), (39,), (22,), (22,)),
    Crop(Negative("slide.png", crop=(0, 5, 240, 55)), (39,), (18,), (18,)),
    Crop(Picture("slide.png", crop=(21, 81, 170, 124)), (33,), (10,), (10,)),
    Crop(Negative("slide.png", crop=(21, 125, 320, 168)), (32,), (22,), (22,)),
    Crop(Picture("slide.png", crop=(171, 81, 321, 256)), (36,), (30,), (30,)),
    Crop(Picture("receipt_l.png", crop=(40, 15, 200, 55)), (36,), (6,), (6,)),
    Crop(Picture("page.png", crop=(55, 385, 200, 545)), (36,), (30,), (30,)),
    Crop(Scan("page.png", crop=(300, 400, 470, 520), seed=7), (35,), (24,), (24,)),
    # Photographs and patterns
    Crop(Picture("flower.png", crop=(20, 20, 150, 170)), (36,), (25,), (25,)),
    Crop(Picture("officer.png", crop=(0, 0, 120, 150)), (35,), (20,), (20,)),
    Crop(Picture("waves", (90, 91), 3), (36,), (9,), (9,)),
    # Icons below 6,272 pixels
    Crop(Picture("gift_rgba.png", crop=(30, 30, 90, 100), mode="RGB"), (36,), (4,), (9,)),
    Crop(Picture("logo_la.png", crop=(0, 0, 60, 61), mode="RGB"), (36,), (4,), (9,)),
    Crop(Picture("flower.png", crop=(20, 20, 70, 90)), (35,), (4,), (8,)),
    Crop(Picture("gradient", (70, 80)), (36,), (6,), (9,)),
    Crop(Picture("noise", (1, 1), 5), (36,), (1,), (9,)),
    # Sliced; with "adaptive" some slices come from the crop itself
    Crop(Picture("page.png", crop=(50, 30, 450, 240)), (32, 36, 36), (32, 36, 36), (32, 36, 36)),
    Crop(Picture("slide.png", crop=(0, 30, 400, 245)), (32, 40, 40, 40), (32, 40, 40, 40), (32, 40, 40, 40)),
    Crop(
        Scan("page.png", crop=(55, 370, 355, 630), seed=9),
        (36, 36, 36, 36, 36),
        (36, 36, 36, 36, 36),
        (36, 25, 25, 36, 36),
    ),
    Crop(Negative("page.png", crop=(55, 430, 265, 600)), (35, 40, 40), (35, 40, 40), (35, 24, 24)),
    Crop(Picture("receipt_l.png", crop=(0, 0, 240, 200)), (35, 40, 40), (35, 40, 40), (35, 40, 28)),
)


def options(upsize: str) -> dict[str, Any]:
    return {**SMALL, "small_image_upsize": upsize}
