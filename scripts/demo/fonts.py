"""The typefaces that the demo model is trained and evaluated on: Pillow's own and those that matplotlib ships."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

PILLOW = "Pillow"
# Weights of the typefaces in training; a name is a file of matplotlib's. Every one has A to Z and 0 to 9.
FONTS = {
    PILLOW: 4.0,
    "DejaVuSans": 4.0,
    "DejaVuSans-Bold": 4.0,
    "DejaVuSans-Oblique": 1.0,
    "DejaVuSans-BoldOblique": 0.5,
    "DejaVuSansMono": 4.0,
    "DejaVuSansMono-Bold": 1.5,
    "DejaVuSansMono-Oblique": 0.5,
    "DejaVuSerif": 3.0,
    "DejaVuSerif-Bold": 1.5,
    "DejaVuSerif-Italic": 0.5,
    "STIXGeneral": 3.0,
    "STIXGeneralBol": 1.5,
    "STIXGeneralItalic": 0.5,
    "cmr10": 4.0,
    "cmb10": 0.5,
    "cmss10": 3.5,
    "cmtt10": 1.5,
}


@cache
def folder() -> Path:
    """Where matplotlib keeps its fonts. Raises ImportError without matplotlib (the extra `demo` brings it)."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=2048)
def font(name: str, size: int) -> Any:
    """A typeface of `FONTS` with `size` pixels to the em."""
    if name == PILLOW:
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(folder() / f"{name}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def cap_height(name: str) -> float:
    """Height of a capital H in ems."""
    _, top, _, bottom = font(name, 200).getbbox("H", anchor="ls")
    return float(bottom - top) / 200
