"""How the demo checkpoint slices pictures."""

from __future__ import annotations

from typing import Any

from minicpmv46.slicing import SliceOptions

UNIT = 224  # scale_resolution
ONE: dict[str, Any] = {"max_slice_nums": 1}  # options of a request without slices
SLICED, WHOLE = SliceOptions(scale_resolution=UNIT), SliceOptions(scale_resolution=UNIT, **ONE)
