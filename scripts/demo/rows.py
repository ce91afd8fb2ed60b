"""A case as arrays, as the official processor makes them, with what is learned from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minicpmv46.processing import Processor
from scripts.demo.cases import Case
from scripts.demo.labels import CELL_SLOTS, IGNORED, POINTS, joined, patch_classes, picture_contents
from scripts.demo.order import Grid


@dataclass
class Row:
    """One conversation, as arrays; the first question has the media."""

    ids: np.ndarray
    labels: np.ndarray
    patches: np.ndarray  # bytes, [patches, 14 * 14 * 3]
    units: list[Grid]
    places: np.ndarray
    classes: np.ndarray  # [patches, POINTS * POINTS]
    told: np.ndarray  # what the units' tokens must tell, as in `labels.Held`
    cells: np.ndarray  # the same of cells
    merge: bool  # whether the window merger runs: 16x
    looks: np.ndarray  # [pairs, 2]: where a character of the first answer is predicted, and a token that holds it


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
    pixels = np.rint((inputs.get("pixel_values", np.zeros((0, 588), np.float32)) + 1) * 127.5).astype(np.uint8)
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
