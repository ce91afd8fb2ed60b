"""Batches for training the demo checkpoint, as numpy arrays: the mixture of skills, and pages for the encoder alone.

`in_background` makes them in another process. What is drawn depends on the seed, on the step and on the length of the
whole training alone, so a training that goes on where it stopped sees what it would have seen.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minicpmv46.image import PixelOptions, normalize, patchify
from minicpmv46.processing import Processor
from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo_drawing import page
from scripts.demo_tasks import Case, draw, draw_two

Grid = tuple[int, int]

IGNORED = -100  # a label that is not learned, as torch has it
# Shares of the skills at first, once the encoder sees, and at last, when the hard ones get more; "same" is a part of
# "two" and the hardest of it.
EARLY = {"read": 0.30, "small": 0.00, "object": 0.22, "count": 0.10, "two": 0.14, "clip": 0.14, "text": 0.10}
LATE = {"read": 0.23, "small": 0.12, "object": 0.04, "count": 0.17, "two": 0.18, "clip": 0.10, "text": 0.16}
LAST = {
    **{"read": 0.22, "small": 0.28, "object": 0.03, "count": 0.25, "two": 0.05, "clip": 0.04, "text": 0.05},
    "same": 0.08,
}
EARLY_UNTIL, LONGEST_FROM, LAST_FROM = 0.2, 0.4, 0.65  # of the training; words reach their full length at the second
BATCH = 48
BUCKET = 8  # batches that are drawn and sorted by length together
PATCH = 14
PAGES = 96  # a batch of pages for the encoder alone


@dataclass
class Row:
    """One request with its answer, as arrays."""

    ids: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    units: list[tuple[Grid, bool, int]]  # grid, whether the window merger runs, tokens
    places: np.ndarray
    classes: np.ndarray  # of each patch


def make_row(processor: Processor, case: Case, options: dict[str, Any]) -> Row:
    """Arrays of a case; the processor's are the official one's, bit for bit."""
    options = {**case.options, **options}
    prompt = processor.apply_chat_template(case.messages, add_generation_prompt=True, enable_thinking=False)
    media: dict[str, Any] = {}
    if case.images:
        media["images"] = list(case.images)
    if case.frames is not None:
        media |= {"videos": [case.frames], "video_metadata": [case.video_metadata]}
    inputs = processor(prompt, **media, **options)
    start = inputs["input_ids"][0]
    answer = processor.tokenizer.encode(f"{case.answer}<|im_end|>", add_special_tokens=False)
    ids = np.concatenate([start, np.array(answer, dtype=start.dtype)])
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[len(start) - 1 : -1] = answer  # where each is predicted
    units = []
    for rows, cols, tokens, _ in inputs.get("image_units", np.zeros((0, 4), int)).tolist():
        units.append(((rows, cols), tokens * 16 == rows * cols, tokens))
    places = np.flatnonzero((ids == processor.image_token_id) | (ids == processor.video_token_id))
    slicing = processor.options.updated(**options).images.slicing
    classes = [patch_classes(picture, slicing) for picture in case.labels]
    pixels = inputs.get("pixel_values", np.zeros((0, 588), np.float32))
    return Row(ids, labels, pixels, units, places, np.concatenate(classes) if classes else np.zeros(0, np.int64))


def patch_classes(labels: np.ndarray, slicing: SliceOptions) -> np.ndarray:
    """Class of the pixel in the middle of each patch of a picture, overview first, then slices."""
    plan, p = plan_slices(*labels.shape, slicing), slicing.patch_size

    def centres(size: tuple[int, int]) -> np.ndarray:
        rows, cols = ((np.arange(n // p) * p + p // 2) * m // n for n, m in zip(size, labels.shape, strict=True))
        return labels[rows[:, None], cols]

    parts = [centres(plan.overview).ravel()]
    if plan.grid is not None and plan.refined is not None:
        whole, (rows, cols) = centres(plan.refined), plan.grid
        height, width = whole.shape[0] // rows, whole.shape[1] // cols
        tiles = whole.reshape(rows, height, cols, width).swapaxes(1, 2)
        parts.append(tiles.ravel())
    return np.concatenate(parts).astype(np.int64)


def collate(rows: list[Row]) -> dict[str, Any]:
    """Right-padded ids and labels, and units in groups of one grid and mode, as numpy arrays."""
    length = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    groups: dict[tuple[Grid, bool], tuple[list[np.ndarray], ...]] = {}
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], labels[i, : len(row.ids)] = row.ids, row.labels
        patch = place = 0
        for grid, merge, tokens in row.units:
            patches, places, classes = groups.setdefault((grid, merge), ([], [], []))
            size = grid[0] * grid[1]
            classes.append(row.classes[patch : patch + size])
            patches.append(row.patches[patch : patch + size])
            places.append(i * length + row.places[place : place + tokens])
            patch, place = patch + size, place + tokens
    return {
        "ids": ids,
        "labels": labels,
        "groups": [(np.stack(p), grid, merge, np.stack(t)) for (grid, merge), (p, t, _) in groups.items()],
        "classes": [np.stack(c) for _, _, c in groups.values()],
    }


def options_of(skill: str, random: np.random.Generator) -> dict[str, Any]:
    """Mode and slices of a training request: both modes; small print in slices (16x) or in more tokens (4x)."""
    wide = random.random() < (0.15 if skill == "clip" else 0.35)
    options: dict[str, Any] = {"downsample_mode": "4x" if wide else "16x"}
    if skill == "small" and random.random() < (0.85 if wide else 0.1):
        options["max_slice_nums"] = 1
    return options


def rows_of(processor: Processor, random: np.random.Generator, progress: float, count: int) -> list[Row]:
    """Rows of the mixture at a point of the training, from 0 to 1."""
    shares = EARLY if progress < EARLY_UNTIL else LATE if progress < LAST_FROM else LAST
    longest = min(6, 1 + int(6 * progress / LONGEST_FROM))
    rows = []
    for _ in range(count):
        skill = str(random.choice(list(shares), p=list(shares.values())))
        limit = longest if random.random() < 0.95 else 6
        case = draw_two(random, ("same",)) if skill == "same" else draw(skill, random, limit)
        rows.append(make_row(processor, case, options_of(skill, random)))
    return rows


def pages(seed: int, step: int) -> list[tuple[np.ndarray, Grid, np.ndarray]]:
    """Patches, grids and classes of pages, in groups of one grid."""
    random = np.random.default_rng([seed, 1, step])
    levels, groups = PixelOptions().levels("pil"), {}
    for _ in range(PAGES):
        drawn = page(random)
        grid = drawn.picture.height // PATCH, drawn.picture.width // PATCH
        patches, classes = groups.setdefault(grid, ([], []))
        patches.append(normalize(patchify(np.asarray(drawn.picture), PATCH), levels))
        classes.append(drawn.labels[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].reshape(-1).astype(np.int64))
    return [(np.stack(p), grid, np.stack(c)) for grid, (p, c) in groups.items()]


def produce_pages(seed: int, steps: int, queue: Any) -> None:
    for step in range(steps):
        queue.put(pages(seed, step))


def produce(folder: str, seed: int, start: int, total: int, queue: Any) -> None:
    """Fill `queue` with batches from step `start` on; each bucket has a seed of its own, so runs can be resumed."""
    processor = Processor.from_pretrained(folder)
    step = start
    while step < total:
        random = np.random.default_rng([seed, step])
        rows = rows_of(processor, random, step / total, BATCH * BUCKET)
        rows.sort(key=lambda row: len(row.ids))
        batches = [collate(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
        for index in random.permutation(len(batches)):
            queue.put(batches[index])
        step += BUCKET


def in_background(work: Any, *arguments: Any) -> Iterator[Any]:
    """What `work(*arguments, queue)` puts into its queue, in another process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(maxsize=16)
    worker = context.Process(target=work, args=(*arguments, queue), daemon=True)
    worker.start()
    try:
        while True:
            yield queue.get()
    finally:
        worker.terminate()
