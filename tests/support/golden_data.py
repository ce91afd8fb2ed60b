"""Reader of the recorded answers in `tests/golden/`, for tests without torch; the recorder shares its types.

Pixels are exact but large: a file keeps some rows as grey levels, a CRC for each unit and a SHA-256 of all
float32 bytes. Features and hidden states keep some rows with their indices. A file that was recorded for
other inputs than today's case or checkpoint raises instead of failing a comparison for the wrong reason.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from support import cases, tiny

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Geometry:
    """What the official code does to one picture or frame: sizes are (height, width) in pixels."""

    overview: tuple[int, int]
    grid: tuple[int, int]  # (rows, columns) of slices, (0, 0) without slices
    refined: tuple[int, int] | None  # size that is cut into slices
    unit_tokens: tuple[int, ...]  # of the overview, then of each slice in row order


@dataclass(frozen=True)
class GeometryInput:
    """Arguments of the official sizing: sides in pixels and processor options."""

    height: int
    width: int
    downsample_mode: str
    max_slice_nums: int
    slice_mode: bool


@dataclass(frozen=True)
class Units:
    """What the official code of MiniCPM-OCR makes of one picture; sizes are (rows, columns) of patches."""

    grid: tuple[int, int]  # (rows, columns) of slices, (0, 0) without slices
    overview: tuple[int, int]
    slice_size: tuple[int, int] | None  # of each slice
    tokens: int  # of all units


@dataclass(frozen=True)
class UnitsInput:
    """Arguments of that: sides in pixels and processor options."""

    height: int
    width: int
    downsample_mode: str
    max_slice_nums: int
    slice_mode: bool
    small_image_upsize: str
    scale_resolution: int


@dataclass(frozen=True)
class SlicesInput:
    """A drawn picture (`drawn_text.drawn_large`) and options; "adaptive" decides about each of its slices."""

    seed: int
    downsample_mode: str
    max_slice_nums: int
    slice_mode: bool
    scale_resolution: int


@dataclass(frozen=True)
class SamplingInput:
    """Arguments of the official frame sampling; `duration` in seconds."""

    total_num_frames: int
    fps: float
    duration: float
    max_num_frames: int
    stack_frames: int


def sha256(x: np.ndarray) -> str:
    """Digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()


def unit_crc(pixel_values: np.ndarray, target_sizes: np.ndarray) -> np.ndarray:
    """[units] uint32: CRC-32 of each unit's float32 pixel bytes, to say which unit differs."""
    ends = np.cumsum(target_sizes.prod(axis=-1))
    units = np.split(np.ascontiguousarray(pixel_values, dtype=np.float32), ends[:-1]) if len(ends) else []
    return np.array([zlib.crc32(unit.tobytes()) for unit in units], dtype=np.uint32)


@cache
def checkpoint_digest(variant: str) -> str:
    """Sha256 of a small checkpoint's weights, configuration, tokenizer and template."""
    digest = hashlib.sha256(json.dumps([tiny.config(variant), tiny.processor_config(variant)], sort_keys=True).encode())
    for name in ("tokenizer.json", "chat_template.jinja"):
        digest.update((tiny.DATA / name).read_bytes())
    for name, value in sorted(tiny.weights(variant).items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


@cache
def manifest() -> dict[str, Any]:
    """Versions the files were recorded with, digests of the checkpoints, and one entry a case."""
    content: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_text())
    return content


@cache
def level_tables() -> dict[str, np.ndarray]:
    """`images`, `videos` and `ocr_images`: [256] float32, the official pixel value of each grey level."""
    with np.load(GOLDEN / "level_tables.npz") as file:
        return dict(file)


def image_table(case: cases.Case) -> str:
    """The table that holds the pixel values of a case's images."""
    return "ocr_images" if tiny.VARIANTS[case.variant].model_type == "minicpm_ocr" else "images"


def load(name: str) -> dict[str, Any]:
    """The recorded answer of a case.

    - whole: `input_ids`, `attention_mask`, `target_sizes`, `tokens`, `logits` (last positions), `greedy`,
      `greedy_margin` (how far each greedy token was ahead of the second)
    - rows: `pixel_values`, `vision_features`, `hidden_states` at the indices `pixel_rows`, `vision_rows`,
      `hidden_rows` of arrays of shape `pixel_shape`, `vision_shape`, `hidden_shape`
    - all pixels: `pixel_sha256`, and `unit_crc` per unit
    """
    case, entry = cases.BY_NAME[name], manifest()["cases"].get(name)
    if entry is None:
        raise ValueError(f"case {name!r} was never recorded: run scripts/record_golden.py")
    if entry["inputs"] != case.digest():
        raise ValueError(f"case {name!r} has changed since it was recorded: run scripts/record_golden.py")
    if manifest()["checkpoints"][case.variant] != checkpoint_digest(case.variant):
        raise ValueError(f"checkpoint {case.variant!r} has changed since {name!r} was recorded")
    with np.load(GOLDEN / f"{name}.npz") as file:
        golden: dict[str, Any] = dict(file)
    of_images = golden["pixel_rows"][:, None] < entry["image_patches"]
    levels, tables = golden.pop("pixel_levels"), level_tables()
    images = tables[image_table(case)]
    golden["pixel_values"] = np.where(of_images, images[levels], tables["videos"][levels])
    for key in ("pixel_shape", "vision_shape", "hidden_shape"):
        golden[key] = tuple(entry[key])
    golden["pixel_sha256"] = entry["pixel_sha256"]
    return golden


def geometry() -> list[tuple[GeometryInput, Geometry]]:
    """Recorded sizes, grids and token counts."""
    rows = json.loads((GOLDEN / "geometry.json").read_text())["rows"]
    return [
        (
            GeometryInput(*arguments),
            Geometry(tuple(overview), tuple(grid), tuple(refined) if refined else None, tuple(tokens)),
        )
        for arguments, overview, grid, refined, tokens in rows
    ]


def units() -> list[tuple[UnitsInput, Units]]:
    """Recorded sizes, grids and token counts of MiniCPM-OCR, "always" and "never"."""
    rows = json.loads((GOLDEN / "geometry_ocr.json").read_text())["rows"]
    return [
        (UnitsInput(*arguments), Units(tuple(grid), tuple(overview), tuple(slice_size) if slice_size else None, tokens))
        for arguments, grid, overview, slice_size, tokens in rows
    ]


def upsizes() -> list[tuple[int | str, int | None]]:
    """Recorded decisions of "adaptive": a seed of `drawn_text.drawn` or a name in `edges`, and the side or None."""
    return [(picture, side) for picture, side in json.loads((GOLDEN / "adaptive.json").read_text())["rows"]]


def adaptive_slices() -> list[tuple[SlicesInput, list[tuple[int, int]]]]:
    """Recorded sizes of units with "adaptive": patch rows and columns of each."""
    rows = json.loads((GOLDEN / "adaptive_slices.json").read_text())["rows"]
    return [(SlicesInput(*arguments), [(rows, cols) for rows, cols in sizes]) for arguments, sizes in rows]


def sampling() -> list[tuple[SamplingInput, list[int]]]:
    """Recorded frame indices: main frames, then sub-frames."""
    rows = json.loads((GOLDEN / "sampling.json").read_text())["rows"]
    return [(SamplingInput(*arguments), indices) for arguments, indices in rows]
