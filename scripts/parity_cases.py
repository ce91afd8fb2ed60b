"""The requests that `parity.py` asks of both implementations. Needs neither torch nor MLX.

Pictures are committed files of the tests, parts of them, and integer patterns: the same bytes on every machine. Clips
are given as decoded frames, since video decoders differ in their last bits.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.case import Case, OcrOptions, Options, Turn, ask  # noqa: E402
from support.pictures import Clip, Picture  # noqa: E402

NEW_TOKENS = 32
QUICK = ("text", "photo")

_CHAT = (
    Turn("system", "You are a helpful assistant."),
    Turn("user", "Write the numbers from 1 to 5."),
    Turn("assistant", "<think>\nEasy.\n</think>\n\n1 2 3 4 5"),
    Turn("user", "And now back?"),
)
_DENSE_LINES = Picture("page.png", crop=(55, 560, 355, 700))
_CLIP = Clip("temple.png", 40, 10, (224, 336))
_VIDEO = Options("16x", max_slice_nums=1, use_image_id=False)


def cases(model_type: str) -> dict[str, Case]:
    """Cases of a model by name, the cheap ones first. The token mode is said wherever something is shown."""
    temple, page = Picture("temple.png"), Picture("page.png")
    found = [
        Case("text", (Turn("user", "Why is the sky blue?"),)),
        Case("chat", _CHAT, enable_thinking=True),
        Case("photo", ask(temple, "Describe this image"), Options("16x")),
        Case("crop", ask(_DENSE_LINES, "Read all visible text."), Options("4x")),
        Case("strip", ask(Picture("waves", (40, 900)), "What is this?"), Options("16x")),
        Case("two_images", ask(Picture("roof.png"), Picture("flower.png"), "Compare the two images"), Options("16x")),
        Case("page", ask(page, "Read all visible text."), Options("4x", max_slice_nums=36)),
        Case("clip", ask(_CLIP, "Describe what happens in this video."), _VIDEO),
        Case("clip_stacked", ask(_CLIP, "Describe what happens in this video."), replace(_VIDEO, stack_frames=3)),
    ]
    if model_type == "minicpm_ocr":
        adaptive = OcrOptions("4x", small_image_upsize="adaptive")
        found.append(Case("crop_adaptive", ask(_DENSE_LINES, "Read all visible text."), adaptive))
    return {case.name: replace(case, new_tokens=NEW_TOKENS) for case in found}
