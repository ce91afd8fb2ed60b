"""What the demo's training is told about its pictures: labels of pixels, patches and tokens; no answers of a model."""

import json
import math
import re
import shutil
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_vlm import load
from PIL import Image

from minicpmv46 import demo
from minicpmv46.processing import Processor
from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo.batches import CPU, CUDA, Unit, pages, parts_of_rows, view_of
from scripts.demo.cases import Wanted
from scripts.demo.drawing import CHARACTERS, COLOURS, ELSEWHERE, KINDS, SHAPES, parts_of
from scripts.demo.labels import CELL_SLOTS, IGNORED, PATCH, POINTS, SLOTS, patch_classes
from scripts.demo.mixture import FEWEST_PAGES, options_of
from scripts.demo.order import token_order
from scripts.demo.plain_tasks import DIRECTIONS, draw_plain
from scripts.demo.questions import FURTHER
from scripts.demo.rows import make_row
from scripts.demo.slices import FRAME, UNIT, UNITS
from scripts.demo.varied_print import across_a_border
from scripts.demo.varied_tasks import SKILLS, draw

Loaded = tuple[Any, Any]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(demo.path())


@pytest.mark.parametrize("size", [(112, 112), (56, 224), (98, 112), (230, 221), (112, 336), (350, 170), (640, 430)])
def test_training_knows_where_patches_are(loaded: Loaded, size: tuple[int, int]) -> None:
    """Labels that grow with the rows, then with the columns, against the grey that the processor gives each patch."""
    processor = loaded[1]
    for axis in range(2):
        steps = (np.arange(size[axis]) * 255 // (size[axis] - 1)).astype(np.uint8)
        labels = np.broadcast_to(steps[:, None] if axis == 0 else steps, size)
        inputs = processor("<|image_pad|>", images=[Image.fromarray(np.stack([labels] * 3, axis=-1))])
        grey = (inputs["pixel_values"].reshape(-1, POINTS, 14 // POINTS, POINTS, 14 // POINTS, 3) + 1) * 127.5
        told = patch_classes(labels, processor.image_processor.slicing).reshape(-1, POINTS, POINTS)
        # A point and the mean of what is around it are half a pixel apart.
        np.testing.assert_allclose(told, grey.mean(axis=(2, 4, 5)), atol=3)


@pytest.mark.parametrize("skill", SKILLS)
def test_training_labels_what_it_draws(skill: str) -> None:
    """Each picture and frame has labels of its size, which name kinds and colours that there are."""
    for seed in range(20):
        case = draw(skill, np.random.default_rng(seed))
        pictures = case.images if case.frames is None else tuple(Image.fromarray(frame) for frame in case.frames)
        assert [labels.shape for labels in case.labels] == [(p.height, p.width) for p in pictures]
        for labels in case.labels:
            kinds, colours, places = parts_of(labels)
            assert kinds.max() < len(KINDS) and colours.max() <= len(COLOURS)
            for kind, place in set(zip(kinds.flat, places.flat, strict=True)):
                if 0 < place < ELSEWHERE and KINDS[kind] not in SHAPES:
                    assert KINDS[kind] == case.answer[place - 1]
                assert place > 0 or KINDS[kind] not in (*CHARACTERS, *SHAPES)
        if case.skill in ("read", "small") and not case.answer.startswith(("I ", "the ")):
            [labels] = case.labels
            kinds, _, places = parts_of(labels)
            assert {KINDS[kind] for kind in np.unique(kinds)} - {"background"} == set(case.answer) - set(" \n")
            assert set(np.unique(places)) == {
                0,
                *(i + 1 for i, letter in enumerate(case.answer) if letter not in " \n"),
            }


@pytest.mark.parametrize("skill", ["read", "plain"])
@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_training_knows_which_token_holds_a_character(loaded: Loaded, mode: str, skill: str) -> None:
    """Where a character is predicted, the tokens to look at hold it, and their patches show it."""
    processor, n = loaded[1], 4 if mode == "16x" else 2
    for seed in range(20):
        random = np.random.default_rng(seed)
        case = draw("read", random) if skill == "read" else draw_plain("read", random)
        row = make_row(processor, case, {"downsample_mode": mode})
        covered, patch = [], 0
        for rows, cols in row.units:
            patches = np.arange(patch, patch + rows * cols).reshape(rows // n, n, cols // n, n).swapaxes(1, 2)
            covered += list(patches.reshape(-1, n * n))
            patch += rows * cols
        assert len(row.told) == len(row.places) == len(covered)
        for at, token in row.looks:
            letter = processor.tokenizer.decode([int(row.labels[at])])[-1]
            [i] = np.flatnonzero(row.places == token)
            assert KINDS.index(letter) in row.told[i, :SLOTS] or (row.told[i, :SLOTS] > 0).all()
            if skill == "plain":  # whose characters are large enough for a point to be on each
                assert KINDS.index(letter) in parts_of(row.classes[covered[i]])[0]
        if skill == "plain":  # whose tokens have a character each
            assert set(row.looks[:, 0]) == set(np.flatnonzero(row.labels != IGNORED)[:-1])


def test_training_reads_a_token_in_order(loaded: Loaded) -> None:
    """What tokens hold, read one after the other, is the text, where one row of tokens has it."""
    for seed in range(20):
        case = draw_plain("read", np.random.default_rng(seed))
        row = make_row(loaded[1], case, {})
        slots, rank, count = row.told[:, :SLOTS], row.told[:, SLOTS], row.told[:, SLOTS + 1]
        filled = np.flatnonzero(slots[:, 0])
        assert set(np.flatnonzero(rank != IGNORED)) == set(filled) and set(count) == {len(case.answer)}
        in_order = filled[np.argsort(rank[filled], kind="stable")]
        if len(set(filled // (row.units[0][1] // 4))) == 1:
            assert "".join(KINDS[kind] for kind in slots[slots > 0]) == case.answer
            assert list(in_order) == list(filled)
        for token in filled:
            assert KINDS[slots[token, 0]] == case.answer[rank[token] - 1]
        ends = (slots > 0).sum(1)  # a 0 follows what a token holds, and then nothing
        told = np.where(np.arange(SLOTS) == ends[:, None], 0, IGNORED)
        np.testing.assert_array_equal(np.where(np.arange(SLOTS) < ends[:, None], slots, told), slots)


@pytest.mark.parametrize("mode", ["16x", "4x"])
@pytest.mark.parametrize("skill", ["read", "count", "clip"])
def test_training_knows_what_cells_hold(loaded: Loaded, skill: str, mode: str) -> None:
    """The four cells of a token hold together what it holds."""
    for seed in range(10):
        row = make_row(loaded[1], draw(skill, np.random.default_rng(seed)), {"downsample_mode": mode})
        n, first = 4 if mode == "16x" else 2, 0
        for rows, cols in row.units:
            high, wide = rows // n, cols // n
            tokens = row.told[first : first + high * wide, :SLOTS]
            cells = row.cells[4 * first : 4 * (first + high * wide), :CELL_SLOTS]
            joined = cells.reshape(high, 2, wide, 2, -1).swapaxes(1, 2).reshape(high * wide, -1)
            for token, four in zip(tokens, joined, strict=True):
                told = sorted(four[four > 0])
                if (token > 0).sum() < SLOTS and ((four > 0).reshape(4, -1).sum(1) < CELL_SLOTS).all():
                    assert sorted(token[token > 0]) == told
            first += high * wide
        assert first == len(row.told)


@pytest.mark.parametrize("skill", ["read", "object", "plain", "clip"])
def test_training_has_units_of_all_sides(loaded: Loaded, skill: str) -> None:
    """A request's units are of the side that its picture was drawn for, frames of the one that the checkpoint has."""
    sides: Counter[int] = Counter()
    for seed in range(30):
        random = np.random.default_rng(seed)
        case = draw(skill, random)
        options = options_of(random, skill, case)
        row = make_row(loaded[1], case, options)
        largest = max(rows * cols for rows, cols in row.units) * PATCH**2
        side = {**case.options, **options}.get("scale_resolution", UNIT if case.frames is None else FRAME)
        assert (0.6 * side) ** 2 < largest < (1.15 * side) ** 2 and len(row.classes) == len(row.patches)
        sides[side] += 1
    assert set(sides) == ({FRAME} if skill == "clip" else {FRAME, UNIT} if skill == "plain" else set(UNITS))


def test_training_labels_frames_in_units_of_their_own(tmp_path: Path) -> None:
    """A checkpoint may see frames of clips in other units than pictures."""
    folder = Path(shutil.copytree(demo.path(), tmp_path / "checkpoint"))
    file = folder / "processor_config.json"
    options = json.loads(file.read_text(encoding="utf-8"))
    options["image_processor"]["scale_resolution"] = 2 * FRAME
    file.write_text(json.dumps(options), encoding="utf-8")
    processor = Processor.from_pretrained(folder)
    for skill, side in (("clip", FRAME), ("plain", 2 * FRAME)):
        case = draw(skill, np.random.default_rng(4))
        row = make_row(processor, case, {})
        assert (case.frames is not None) == (skill == "clip")
        assert len(row.classes) == len(row.patches) and len(row.told) == len(row.places)
        assert all(0.6 * side < math.sqrt(rows * cols) * PATCH < 1.15 * side for rows, cols in row.units)


@pytest.mark.parametrize("n", [2, 4])
def test_training_orders_patches_by_tokens(n: int) -> None:
    """Those of a token follow each other, and in them those of a window; tokens come in reading order."""
    rows, cols = grid = (8, 12)
    order = token_order(grid, n)
    assert sorted(order) == list(range(rows * cols))
    row, col = np.divmod(order.reshape(-1, n * n), cols)
    tokens = (row // n) * (cols // n) + col // n
    np.testing.assert_array_equal(tokens, np.arange(len(tokens))[:, None] + np.zeros_like(tokens))
    row, col = np.divmod(order.reshape(-1, 4), cols)
    assert (np.ptp(row // 2, axis=1) == 0).all() and (np.ptp(col // 2, axis=1) == 0).all()
    np.testing.assert_array_equal(row % 2 * 2 + col % 2, np.arange(4) + np.zeros_like(row))


def test_training_computes_together_what_it_drew(loaded: Loaded) -> None:
    """Texts and views have all that the rows have, and each token of a picture stands where its row has it."""
    rows = [
        make_row(loaded[1], draw(skill, np.random.default_rng(seed)), {"downsample_mode": mode})
        for seed, (skill, mode) in enumerate(product(SKILLS, ("16x", "4x")))
    ]
    for most in (CPU, CUDA):
        parts = parts_of_rows(rows, most)
        texts = [text for part in parts for text in part.texts]
        assert (len(parts) == 1) == (most is CUDA)
        assert sum(len(text.asked) for text in texts) == sum((row.labels != IGNORED).sum() for row in rows)
        assert sum(len(view.patches) for part in parts for view in part.views) == sum(len(row.patches) for row in rows)
        for part in parts:
            told = np.concatenate([view.told for view in part.views])
            for text in part.texts:
                length = text.ids.shape[1]
                told_at = dict(zip(text.places.tolist(), told[text.tokens].tolist(), strict=True))
                for i, ids in enumerate(text.ids):
                    [row] = [
                        row for row in rows if np.array_equal(ids, np.pad(row.ids, (0, max(length - len(row.ids), 0))))
                    ]
                    assert [told_at[i * length + place] for place in row.places] == row.told.tolist()


def test_training_shares_pages() -> None:
    """As many pages however many processes share them, at least one for each, in units of all sides."""
    seen = set()
    for step in range(23000, 23012):
        one, many = (pages(46, step, 0, parts) for parts in (1, FEWEST_PAGES))
        [(all_of_them, size)], [(share, same)] = one.groups, many.groups
        assert size == same and share == -(-all_of_them // FEWEST_PAGES) >= 1 and all_of_them >= FEWEST_PAGES
        assert len(one.patches) < 1.3 * 32 * (UNITS[0] // PATCH) ** 2
        seen.add(min(UNITS, key=lambda side: abs(side**2 - size * PATCH**2)))
    assert seen == set(UNITS)


@pytest.mark.parametrize("skill", ["count", "plain count"])
def test_training_holds_each_object_once(loaded: Loaded, skill: str) -> None:
    """In the overview, whose tokens also know how many there are; tokens of slices do not."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        case = draw_plain("count", random) if skill == "plain count" else draw("count", random)
        row = make_row(loaded[1], case, {"max_slice_nums": 9})
        first = row.units[0][0] * row.units[0][1] // 16
        slots, ranks, counts = row.told[:, :SLOTS], row.told[:, SLOTS], row.told[:, SLOTS + 1]
        assert (slots[:first] > 0).sum() == int(case.answer.split()[0]) >= ranks.max()
        assert set(counts[:first]) == {int(case.answer.split()[0])}
        assert set(counts[first:]) <= {IGNORED}
        if len(row.units) > 1:
            assert (slots[first:] > 0).sum() == int(case.answer.split()[0])


def test_training_asks_further_questions(loaded: Loaded) -> None:
    """They follow in the same conversation, and every answer is learned."""
    processor = loaded[1]
    for skill in ("read", "count", "two", "clip", "text"):
        case = next(case for case in (draw(skill, np.random.default_rng(seed)) for seed in range(20)) if case.more)
        row = make_row(processor, case, {})
        answers = (case.answer, *(answer for _, answer in case.more))
        assert processor.tokenizer.decode(row.labels[row.labels != IGNORED]) == "<|im_end|>".join((*answers, ""))
        text = processor.tokenizer.decode(row.ids)
        assert all(question in text for question, _ in case.more)
        predicted = np.flatnonzero(row.labels != IGNORED)
        np.testing.assert_array_equal(row.ids[predicted + 1], row.labels[predicted])


def test_training_draws_lines_in_slices() -> None:
    """Where it is asked for: pictures have slices, most lines are across their borders, and print is of any size."""
    found = {}
    for share in (0.0, 1.0):
        sliced, across, heights = 0, 0, []
        for seed in range(60):
            case = draw("read", np.random.default_rng(seed), Wanted(sliced=share))
            [labels] = case.labels
            plan = plan_slices(*labels.shape, SliceOptions(**{"scale_resolution": UNIT, **case.options}))
            if plan.grid is None or plan.refined is None:
                continue
            sliced += 1
            places = parts_of(labels)[2]
            tall = max(np.ptp(np.nonzero(places == place)[0]) for place in np.unique(places[places > 0]))
            heights.append(tall * plan.refined[0] / labels.shape[0])
            at = zip(np.nonzero(places), plan.grid, labels.shape, strict=True)
            across += max(len(set(pixels * count // side)) for pixels, count, side in at) > 1
        found[share] = sliced, across
    assert found[1.0][0] == 60 > 2 * found[0.0][0]
    assert found[1.0][1] >= 45 > 2 * found[0.0][1]
    assert min(heights) < 15 and max(heights) > 100


def test_training_cuts_print_at_any_border() -> None:
    """Where there is room, the border goes through the print, and it stays in the picture."""
    slicing = SliceOptions(scale_resolution=112)
    size = width, height = 400, 300
    rows, cols = plan_slices(height, width, slicing).grid or (1, 1)
    borders = {(0, width * i / cols) for i in range(1, cols)} | {(1, height * i / rows) for i in range(1, rows)}
    cut = set()
    for seed in range(200):
        x, y = across_a_border(np.random.default_rng(seed), (90.0, 60.0), (160.0, 40.0), size, slicing)
        assert 80 <= x <= width - 80 and 20 <= y <= height - 20 and (x == 90 or y == 60)
        cut |= {(axis, at) for axis, at in borders if abs((x, y)[axis] - at) <= (80, 20)[axis]}
    assert cut == borders and len(borders) == rows + cols - 2 > 2


@pytest.mark.parametrize("n", [2, 4])
def test_training_keeps_labels_with_what_they_label(n: int) -> None:
    """Whatever is told of a patch, a cell or a token stands where it stands."""
    grid = rows, cols = 8, 12
    unit = np.arange(rows * cols)
    cells = np.arange(4 * rows * cols // n**2)  # in reading order, twice as many rows and columns as tokens
    tokens = np.arange(rows * cols // n**2)
    drawn = Unit(grid, unit[:, None].astype(np.uint8), unit[:, None], tokens[:, None], cells[:, None], 0, tokens)
    view = view_of([drawn, drawn], n == 4)
    assert view.groups == [(2, rows * cols)]
    patch = view.patches[:, 0].astype(np.int64)
    row, col = np.divmod(patch, cols)
    np.testing.assert_array_equal(view.classes[:, 0], patch)
    np.testing.assert_array_equal(view.positions, row * 32 // rows * 32 + col * 32 // cols)
    of_cell = (row // (n // 2) * (2 * cols // n) + col // (n // 2)).reshape(len(view.cells), -1)
    np.testing.assert_array_equal(of_cell, np.broadcast_to(view.cells, of_cell.shape))
    of_token = (row // n * (cols // n) + col // n).reshape(len(view.told), -1)
    np.testing.assert_array_equal(of_token, np.broadcast_to(view.told, of_token.shape))
    y, x = ((part + 0.5) / side for part, side in ((row, rows), (col, cols)))
    middles = np.stack([y, x], axis=1).reshape(len(view.told), -1, 2).mean(axis=1)
    np.testing.assert_allclose(view.middles, middles, atol=1e-6)


def test_training_tells_where_an_object_moves() -> None:
    """Its columns and rows, frame by frame, are where its labels are, and go the way that the answer says."""
    told = 0
    for seed in range(60):
        case = draw("clip", np.random.default_rng(seed))
        if case.answer not in DIRECTIONS:
            continue
        right, down = DIRECTIONS[case.answer]
        for words, axis, way in ((("column", "left"), 1, right), (("row", "top"), 0, down)):
            [answer] = [text for asked, text in case.more if "frame" in asked and any(word in asked for word in words)]
            places = [int(place) for place in answer.split()]
            for place, labels in zip(places, case.labels, strict=True):
                at, side = np.nonzero(parts_of(labels)[0])[axis], labels.shape[axis]
                assert abs((at.min() + at.max()) / 2 / side * 9 - (place - 0.5)) < 1
            assert places == sorted(places, reverse=way < 0) and (way or len(set(places)) == 1)
            told += 1
    assert told > 20


def test_training_tells_where_objects_are() -> None:
    """The columns of all objects of a picture, from left to right."""
    told = 0
    for seed in range(40):
        case = draw("count", np.random.default_rng(seed))
        for _, answer in ((asked, text) for asked, text in case.more if "each" in asked):
            columns = [int(column) for column in answer.split()]
            assert len(columns) == int(case.answer.split()[0]) and columns == sorted(columns)
            kinds, _, places = parts_of(case.labels[0])
            for place, column in enumerate(columns, 1):
                middle = np.nonzero(places == place)[1].mean() / kinds.shape[1]
                assert abs(9 * middle - (column - 0.5)) < 0.6
            told += 1
    assert told > 10


def asked_as(question: str) -> tuple[str, list[int]]:
    """The name that a further question has, and the numbers in it."""
    for name, phrasings in FURTHER.items():
        for phrasing in phrasings:
            found = re.fullmatch(re.escape(phrasing).replace(r"\{\}", "(.*)"), question)
            if found:
                return name, [int(number) for number in re.findall(r"\d+", " ".join(found.groups()))]
    raise AssertionError(f"{question!r} is not a further question")


def test_training_asks_about_lines() -> None:
    """Further questions about lines: their answers are found again in the answer or in the labels of the picture."""
    told: Counter[str] = Counter()
    for seed in range(60):
        case = draw("read", np.random.default_rng(seed))
        if case.answer.startswith(("I only", "the text")):
            continue
        lines = case.answer.split("\n")
        for question, answer in case.more:
            name, numbers = asked_as(question)
            if name == "character":
                place, row = (*numbers, 1)[:2]
                assert answer == lines[row - 1][place - 1]
            elif name == "line":
                assert answer == lines[numbers[0] - 1]
            elif name == "lengths":
                assert [int(n) for n in answer.split()] == [len(line) for line in lines]
            elif name == "backwards":
                assert answer.split("\n") == [line[::-1] for line in lines[::-1]]
            else:
                assert name == "character columns"
                _, _, places = parts_of(case.labels[0])
                shown = [place for place, character in enumerate(case.answer, 1) if character not in " \n"]
                for place, column in zip(shown, answer.split(), strict=True):
                    middle = np.nonzero(places == place)[1].mean() / places.shape[1]
                    assert abs(9 * middle - (int(column) - 0.5)) < 0.6
            told[name] += 1
    assert len(told) == 5 and min(told.values()) > 2
