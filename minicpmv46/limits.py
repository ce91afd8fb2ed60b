"""Ceilings of a request: what the model can take, and what this machine's memory holds.

Sizes and counts are compared with them before anything is decoded. `MINICPMV46_LIMITS="slices=2000,context=500000"`
in the environment changes them for all processors that are loaded, `processor.with_limits(slices=2000)` for one.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from .checks import integer, names, quote
from .files import read_json

VARIABLE = "MINICPMV46_LIMITS"

# Bytes that a patch takes while a request is prepared: its levels, its numbers as numpy's array and as MLX's.
BYTES_PER_PATCH = 588 + 2 * 4 * 590
# Text is tokenized only up to so many characters for each token of the context; English has four.
CHARACTERS_PER_TOKEN = 16


def _patches_in_memory() -> int:
    """Patches that fill half of this machine's memory."""
    memory: int = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory // 2 // BYTES_PER_PATCH


@dataclass(frozen=True)
class Limits:
    """The largest values of a request; each at least 1.

    Attributes:
        context: tokens of a prompt, visual ones included; the checkpoint's `max_position_embeddings`.
        patches: patches of all media of a call; half of the memory.
        pixels: pixels of an image, of a frame, or of a picture composed of frames; where Pillow stops too.
        together: pixels of images, or of frames, that are worked on at a time; a larger one alone.
        media: images and videos of a call.
        slices: largest `max_slice_nums`.
        side: largest `scale_resolution`: a unit of this side has 16,384 patches, which attend to each other.
        frames: largest `max_num_frames`, `nframes`, `min_frames` and `max_frames`.
        stack: largest `stack_frames`.
        rate: largest `fps`.
    """

    context: int = 262_144
    patches: int = _patches_in_memory()
    pixels: int = 178_956_970
    together: int = 100_000_000
    media: int = 4096
    slices: int = 1024
    side: int = 1792
    frames: int = 16_384
    stack: int = 64
    rate: int = 1000

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, integer(f"limit {f.name}", getattr(self, f.name)))

    @classmethod
    def of_checkpoint(cls, folder: Path) -> Limits:
        """Limits for a checkpoint folder, with the changes that `MINICPMV46_LIMITS` asks for.

        Raises:
            ValueError: the variable names no limit, or `config.json` is not JSON.
        """
        limits = cls()
        if (folder / "config.json").is_file():
            text = read_json(folder / "config.json").get("text_config")
            if isinstance(text, dict) and "max_position_embeddings" in text:
                limits = replace(limits, context=text["max_position_embeddings"])
        return limits.changed(**_from_environment())

    @classmethod
    def of_environment(cls) -> Limits:
        """The official limits with the changes that `MINICPMV46_LIMITS` asks for; raises `ValueError` likewise."""
        return cls().changed(**_from_environment())

    def changed(self, **changes: int) -> Limits:
        """These limits with other values; raises `TypeError` for an unknown name, `ValueError` for a wrong value."""
        known = [f.name for f in fields(self)]
        if unknown := changes.keys() - known:
            raise TypeError(f"no limits are called {names(unknown)}; known: {', '.join(known)}")
        return replace(self, **changes)

    def check(self, ceiling: str, what: str, number: int | float) -> None:
        """Raise `ValueError` where `number`, of which `what` speaks, is above a ceiling."""
        highest = getattr(self, ceiling)
        if number > highest:
            shown = f"{number:,}" if number < 10**15 else f"about 1e{int(math.log10(number))}"
            raise ValueError(
                f"{what} {shown}, more than the limit {ceiling} = {highest:,} ({VARIABLE}={ceiling}=N raises it)"
            )

    def check_options(self, options: Any) -> None:
        """The same for all fields of an options object that have a ceiling."""
        for f in fields(options):
            value = getattr(options, f.name)
            if f.metadata.get("ceiling") and value is not None:
                self.check(f.metadata["ceiling"], f"{f.name} is", value)


def _from_environment() -> dict[str, Any]:
    """Limits in the environment variable, as `name=number` with commas between."""
    changes: dict[str, Any] = {}
    for entry in filter(None, os.environ.get(VARIABLE, "").replace(" ", "").split(",")):
        name, _, number = entry.partition("=")
        if name not in {f.name for f in fields(Limits)} or not number.isdecimal():
            known = ", ".join(f.name for f in fields(Limits))
            raise ValueError(f"{VARIABLE} has {quote(entry)}; it takes NAME=NUMBER,… with the names {known}")
        changes[name] = int(number)
    return changes
