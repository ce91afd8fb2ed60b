"""Batches for training the demo checkpoint, as numpy arrays: the mixture of skills, and pages for the encoder alone.

What is drawn depends on the seed and on the step alone, so a training that goes on where it stopped sees what it would
have seen, however many processes share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minicpmv46.image import PixelOptions, normalize, patchify
from minicpmv46.processing import Processor
from minicpmv46.slicing import SliceOptions
from scripts.demo.cases import Case
from scripts.demo.labels import (
    CELL_SLOTS,
    IGNORED,
    PATCH,
    POINTS,
    SLOTS,
    contents,
    joined,
    middles,
    of_patches,
    patch_classes,
    picture_contents,
)
from scripts.demo.mixture import (
    PAGES_OF_STEPS,
    PAGES_OF_UNITS,
    WIDE_PAGES,
    at_step,
    longest_at,
    options_of,
    sides_of,
    skill_of,
)
from scripts.demo.pages import page, page_size
from scripts.demo.slices import UNITS
from scripts.demo.varied_tasks import draw

Grid = tuple[int, int]

ROWS = 32  # requests of a step
EASE = 300, 1500  # steps between which pages become harder
PATCHES, TOKENS = 6000, 6000  # at most, of the requests that are computed together


@dataclass
class Row:
    """One conversation, as arrays; the first question has the media."""

    ids: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    units: list[Grid]
    places: np.ndarray
    classes: np.ndarray  # [patches, POINTS * POINTS]
    told: np.ndarray  # what the units' tokens must tell, as in `labels.Held`
    cells: np.ndarray  # the same of cells
    merge: bool  # whether the window merger runs: 16x
    looks: np.ndarray  # [pairs, 2]: where a character of the first answer is predicted, and a token that holds it


@dataclass
class Batch:
    """Requests that are computed together, right-padded.

    Attributes:
        ids, labels: [rows, length]; a label stands where its token is predicted.
        patches: [patches of all units, 14 * 14 * 3], units of one grid one after the other.
        groups: how many units of which grid, in the order of `patches`.
        places: where the units' tokens stand in `ids.flatten()`, in the order of `patches`.
        classes: labels of points of each patch, [patches, POINTS * POINTS].
        told, cells: what the units' tokens and cells must tell, as in `labels.Held`, in the order of `patches`.
        merge: whether the window merger runs (16x), for all.
        looks: [pairs, 3] of a row, where a character is predicted, and where a token of a picture stands that holds it.
    """

    ids: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    groups: list[tuple[int, Grid]]
    places: np.ndarray
    classes: np.ndarray
    told: np.ndarray
    cells: np.ndarray
    merge: bool
    looks: np.ndarray


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
    ids, labels = turn(processor, inputs["input_ids"][0], case.answer)
    for question, text in case.more:
        asked = [{"role": "user", "content": question}]
        header = processor.apply_chat_template(asked, add_generation_prompt=True, enable_thinking=False)
        start = np.array(processor.tokenizer.encode(f"\n{header}", add_special_tokens=False))
        parts = zip((ids, labels), turn(processor, start, text), strict=True)
        ids, labels = (np.concatenate(pair) for pair in parts)
    units = [(rows, cols) for rows, cols, _, _ in inputs.get("image_units", np.zeros((0, 4), int)).tolist()]
    places = np.flatnonzero((ids == processor.image_token_id) | (ids == processor.video_token_id))
    wanted = processor.options.updated(**options)
    slicing = (wanted.images if case.frames is None else wanted.videos).slicing
    classes = [patch_classes(picture, slicing) for picture in case.labels]
    pixels = inputs.get("pixel_values", np.zeros((0, 588), np.float32))
    seen = np.concatenate(classes) if classes else np.zeros((0, POINTS * POINTS), np.int64)
    merge = options.get("downsample_mode", "16x") == "16x"
    held = [picture_contents(picture, slicing, 4 if merge else 2) for picture in case.labels]
    tokens, cells = joined([pair[0] for pair in held]), joined([pair[1] for pair in held], CELL_SLOTS)
    first = np.flatnonzero(labels != IGNORED)
    ends = np.cumsum([len(processor.tokenizer.decode([token])) for token in labels[first]])
    predicted = {int(end): at for end, at in zip(ends, first, strict=True) if end <= len(case.answer)}
    pairs = [(predicted[place], places[token]) for token, place in tokens.read.tolist() if place in predicted]
    looks = np.array(pairs, np.int64).reshape(-1, 2)
    return Row(ids, labels, pixels, units, places, seen, tokens.told, cells.told, merge, looks)


def turn(processor: Processor, start: np.ndarray, answer: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a question that end where the answer begins, with the answer, and the labels of both."""
    wanted = processor.tokenizer.encode(f"{answer}<|im_end|>", add_special_tokens=False)
    ids = np.concatenate([start, np.array(wanted, dtype=start.dtype)])
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[len(start) - 1 : -1] = wanted  # where each is predicted
    return ids, labels


def collate(rows: list[Row]) -> Batch:
    """Requests of one mode, computed together."""
    length = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    labels = np.full((len(rows), length), IGNORED, dtype=np.int64)
    merge = rows[0].merge
    groups: dict[Grid, tuple[list[np.ndarray], ...]] = {}
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)], labels[i, : len(row.ids)] = row.ids, row.labels
        patch = place = 0
        for grid in row.units:
            patches, places, classes, told, cells = groups.setdefault(grid, ([], [], [], [], []))
            size = grid[0] * grid[1]
            tokens = size // (16 if merge else 4)
            patches.append(row.patches[patch : patch + size])
            classes.append(row.classes[patch : patch + size])
            places.append(i * length + row.places[place : place + tokens])
            told.append(row.told[place : place + tokens])
            cells.append(row.cells[4 * place : 4 * (place + tokens)])
            patch, place = patch + size, place + tokens
    looks = np.concatenate([np.insert(row.looks, 0, i, axis=1) for i, row in enumerate(rows)])
    nothing = (np.zeros((0, PATCH * PATCH * 3), np.float32), np.zeros(0, np.int64), np.zeros((0, POINTS**2), np.int64))
    nothing += (np.zeros((0, SLOTS + 2), np.int64), np.zeros((0, CELL_SLOTS + 2), np.int64))
    patches, places, classes, told, cells = (
        np.concatenate([none, *(part for group in groups.values() for part in group[i])])
        for i, none in enumerate(nothing)
    )
    units = [(len(group[0]), grid) for grid, group in groups.items()]
    return Batch(ids, labels, patches, units, places, classes, told, cells, merge, looks)


def batches_of(rows: list[Row]) -> list[Batch]:
    """Rows in batches of one mode and alike lengths."""
    rows = sorted(rows, key=lambda row: (row.merge, len(row.ids)))
    parts: list[list[Row]] = []
    patches = 0
    for row in rows:
        part = parts[-1] if parts else []
        full = patches + len(row.patches) > PATCHES or (len(part) + 1) * len(row.ids) > TOKENS
        if not part or full or part[0].merge != row.merge or len(row.ids) > 2 * len(part[0].ids):
            parts.append([])
            patches = 0
        parts[-1].append(row)
        patches += len(row.patches)
    return [collate(part) for part in parts]


def answers(processor: Processor, seed: int, step: int, part: int, parts: int) -> list[Batch]:
    """The batches of one of the processes that share a step."""
    rows = []
    for i in range(part, ROWS, parts):
        random = np.random.default_rng([seed, 2, step, i])
        skill = skill_of(step, (i + 0.5) / ROWS)
        longest = longest_at(step) if random.random() < 0.9 else 7
        case = draw(skill, random, longest, sides_of(step, skill))
        rows.append(make_row(processor, case, options_of(random, skill, case)))
    return batches_of(rows)


def pages(seed: int, step: int, part: int, parts: int) -> Batch:
    """One process's share of a step's pages, all of one size, without ids; most steps in 16x."""
    ease = float(np.clip((EASE[1] - step) / (EASE[1] - EASE[0]), 0, 1))
    random = np.random.default_rng([seed, 0, step])
    side = int(random.choice(UNITS, p=at_step(PAGES_OF_UNITS, step)))
    slicing = SliceOptions(scale_resolution=side)
    unit = (slicing.scale_resolution,) * 2 if random.random() < ease else page_size(random, slicing)
    count = round(at_step(PAGES_OF_STEPS, step) * (UNITS[0] / side) ** 2)
    drawn = [page(np.random.default_rng([seed, 1, step, i]), unit, slicing, ease) for i in range(part, count, parts)]
    half = PATCH // POINTS
    patches = np.concatenate([patchify(np.asarray(picture), PATCH) for picture, _ in drawn])
    classes = np.concatenate([of_patches(labels[half // 2 :: half, half // 2 :: half]) for _, labels in drawn])
    merge = step % at_step(WIDE_PAGES, step) > 0
    held = [contents(middles(labels), unit, 4 if merge else 2) for _, labels in drawn]
    tokens, cells = joined([pair[0] for pair in held]), joined([pair[1] for pair in held], CELL_SLOTS)
    none = np.zeros((0, 0), np.int64)
    groups = [(len(drawn), (unit[0] // PATCH, unit[1] // PATCH))]
    patches = normalize(patches, PixelOptions().levels("pil"))
    classes = classes.astype(np.int64)
    return Batch(none, none, patches, groups, none, classes, tokens.told, cells.told, merge, none)
