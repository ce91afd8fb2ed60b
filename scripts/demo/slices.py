"""How the demo checkpoint slices pictures and frames, and at which sizes of a unit it is trained."""

from __future__ import annotations

from typing import Any

UNIT, FRAME = 448, 224  # scale_resolution of the checkpoint: of pictures, and of frames of clips
UNITS = (224, 336, 448)  # scale_resolution of pictures in training, the smallest first
Shares = tuple[float, float, float]  # of the sides of `UNITS`
ALIKE: Shares = (1 / 3, 1 / 3, 1 / 3)
ONE: dict[str, Any] = {"max_slice_nums": 1}  # options of a request without slices
