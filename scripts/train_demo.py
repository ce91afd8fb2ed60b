"""Train the demo checkpoint with the official implementation of transformers, and write it in the official layout.

    python scripts/train_demo.py RUN

RUN is a folder for the state of the training; the same command goes on where it stopped. From nothing to the end it
takes about two hours and ten minutes on two cores, in runs of at most 115 minutes (`--minutes`). `--export FOLDER`
writes the checkpoint that RUN has reached, in bfloat16. Pictures are drawn as they are needed, questions asked in
several phrasings, short words first. The encoder is trained alone at first; later too, beside the answers, each patch's
class is learned: without that the encoder takes long to see anything. Needs torch (`scripts/live.sh` sets up an
environment that has it).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from minicpmv46.image import PixelOptions, normalize, patchify
from minicpmv46.processing import MiniCPMV46Processor
from minicpmv46.processor_options import with_options
from minicpmv46.slicing import SliceOptions, plan_slices
from scripts.demo_checkpoint import make_tokenizer, write_files
from scripts.demo_model import Batched, Grid, make_model
from scripts.demo_tasks import CLASSES, SKILLS, Case, draw, draw_two, page

IGNORED = -100
# Most patches are background.
CLASS_WEIGHTS = torch.tensor([0.1] + [1.0] * (len(CLASSES) - 1))
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
RATE = 1.2e-3
PATCH = 14
PAGES, PAGE_RATE = 96, 2e-3  # a batch of pages for the encoder alone
BUCKET = 8  # batches that are drawn and sorted by length together


@dataclass
class Row:
    """One request with its answer, as arrays."""

    ids: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    units: list[tuple[Grid, bool, int]]  # grid, whether the window merger runs, tokens
    places: np.ndarray
    classes: np.ndarray  # of each patch


@lru_cache(maxsize=100_000)
def render(processor: MiniCPMV46Processor, images: int, video: bool, question: str) -> str:
    parts = [{"type": "image"}] * images + [{"type": "video"}] * video
    content = [*parts, {"type": "text", "text": question}] if parts else question
    messages = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, enable_thinking=False))


def make_row(processor: MiniCPMV46Processor, case: Case, options: dict[str, Any]) -> Row:
    """Arrays of a case; the processor's are the official one's, bit for bit."""
    prompt = render(processor, len(case.images), case.frames is not None, case.question)
    media: dict[str, Any] = {}
    if case.images:
        media["images"] = list(case.images)
    if case.frames is not None:
        count = len(case.frames)
        media |= {
            "videos": [case.frames],
            "video_metadata": [{"total_num_frames": count, "fps": 1.0, "duration": count}],
        }
    inputs = processor(prompt, **media, **{**case.options, **options})
    start = inputs["input_ids"][0]
    answer = processor.tokenizer.encode(f"{case.answer}<|im_end|>", add_special_tokens=False)
    ids = np.concatenate([start, np.array(answer, dtype=start.dtype)])
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[len(start) - 1 : -1] = answer  # where each is predicted
    units = []
    for rows, cols, tokens, _ in inputs.get("image_units", np.zeros((0, 4), int)).tolist():
        units.append(((rows, cols), tokens * 16 == rows * cols, tokens))
    places = np.flatnonzero((ids == processor.image_token_id) | (ids == processor.video_token_id))
    slicing = with_options(processor.image_processor.slicing, {**case.options, **options})
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


def tensors(batch: dict[str, Any]) -> tuple[Tensor, Tensor, list[tuple[Tensor, Grid, bool, Tensor]]]:
    groups = [(torch.from_numpy(p), grid, merge, torch.from_numpy(t)) for p, grid, merge, t in batch["groups"]]
    return torch.from_numpy(batch["ids"]), torch.from_numpy(batch["labels"]), groups


def options_of(skill: str, random: np.random.Generator) -> dict[str, Any]:
    """Mode and slices of a training request: both modes; small print in slices (16x) or in more tokens (4x)."""
    wide = random.random() < (0.15 if skill == "clip" else 0.35)
    options: dict[str, Any] = {"downsample_mode": "4x" if wide else "16x"}
    if skill == "small" and random.random() < (0.85 if wide else 0.1):
        options["max_slice_nums"] = 1
    return options


def rows_of(processor: MiniCPMV46Processor, random: np.random.Generator, progress: float, count: int) -> list[Row]:
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
    levels, groups = PixelOptions().image_levels(), {}
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


class ClassHeads(torch.nn.Module):
    """What the encoder learns beside the answers, and only while it is trained: the class of each patch.

    It is told from what the encoder has of a patch where the window merger stands, and again from each token of its
    features, for all patches that the token covers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        width, count = model.config.vision_config.hidden_size, len(CLASSES)
        self.inner = torch.nn.Linear(width, count)
        features = model.config.text_config.hidden_size
        self.tokens = torch.nn.ModuleDict({str(n): torch.nn.Linear(features, n * n * count) for n in (2, 4)})

    def loss(self, inner: Tensor, features: Tensor, classes: Tensor, grid: Grid, merge: bool) -> Tensor:
        """Mean loss of units of one grid, classes [units, rows * cols]."""
        n = 4 if merge else 2
        rows, cols = grid[0] // n, grid[1] // n
        covered = classes.view(-1, rows, n, cols, n).transpose(2, 3).reshape(-1)
        told = self.tokens[str(n)](features).view(-1, len(CLASSES))
        own = self.inner(inner).view(-1, len(CLASSES))
        return (
            F.cross_entropy(own, classes.view(-1), weight=CLASS_WEIGHTS)
            + F.cross_entropy(told, covered, weight=CLASS_WEIGHTS)
        ) / 2


def train_encoder(model: Any, heads: ClassHeads, seed: int, steps: int) -> None:
    """Teach the encoder and the mergers, in both modes, what each patch of a page belongs to.

    A page has some thirty letters and costs no decoder, so this is by far the cheapest way to see letters.
    """
    batched = Batched(model)
    parameters = [*model.model.vision_tower.parameters(), *model.model.merger.parameters(), *heads.parameters()]
    stepper = torch.optim.AdamW(parameters, lr=PAGE_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    losses, seen = [], time.monotonic()
    for step, groups in enumerate(in_background(produce_pages, seed, steps)):
        stepper.param_groups[0]["lr"] = PAGE_RATE * min(1.0, (step + 1) / 100, (1 - step / steps) / 0.4)
        stepper.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for patches, grid, classes in groups:
            merge = step % 3 > 0
            features, inner = batched.features(torch.from_numpy(patches), grid, merge)
            loss = loss + heads.loss(inner, features, torch.from_numpy(classes), grid, merge) / len(groups)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        stepper.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            speed = round(100 * PAGES / (time.monotonic() - seen), 1)
            print(
                json.dumps({"page step": step + 1, "classes": round(np.mean(losses), 4), "pages/s": speed}), flush=True
            )
            losses, seen = [], time.monotonic()
        if step + 1 == steps:
            return


def produce(folder: str, seed: int, start: int, total: int, queue: Any) -> None:
    """Fill `queue` with batches from step `start` on; each bucket has a seed of its own, so runs can be resumed."""
    processor = MiniCPMV46Processor.from_pretrained(folder)
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


def loss_of(model: Any, batched: Batched, heads: ClassHeads, batch: dict[str, Any]) -> tuple[Tensor, ...]:
    """Mean loss of a batch's answers, mean loss of its patches' classes, and the share of answers that are right."""
    ids, labels, groups = tensors(batch)
    hidden, seen = batched.hidden(ids, groups)
    wanted = labels != IGNORED
    logits = model.lm_head(hidden[wanted])
    wrong = torch.zeros_like(labels)
    wrong[wanted] = (logits.detach().argmax(-1) != labels[wanted]).long()
    right = (wrong.sum(1) == 0).float().mean()
    class_loss, patches = torch.zeros(()), sum(group[0].shape[0] * group[0].shape[1] for group in groups)
    for (_, grid, merge, _), (features, inner), classes in zip(groups, seen, batch["classes"], strict=True):
        part = heads.loss(inner, features, torch.from_numpy(classes), grid, merge)
        class_loss = class_loss + part * (classes.size / patches)
    return F.cross_entropy(logits, labels[wanted]), class_loss, right


def check_equal(model: Any, folder: Path) -> float:
    """Largest difference between logits of the batched forward and of the official one, relative to the largest."""
    processor = MiniCPMV46Processor.from_pretrained(folder)
    random = np.random.default_rng(1)
    batched, worst = Batched(model), 0.0
    for mode in ("16x", "4x"):
        cases = [draw(skill, random) for skill in SKILLS]
        rows = [make_row(processor, case, {"downsample_mode": mode}) for case in cases]
        ids, _, groups = tensors(collate(rows))
        with torch.no_grad():
            ours = model.lm_head(batched.hidden(ids, groups)[0])
            for i, (row, case) in enumerate(zip(rows, cases, strict=True)):
                media: dict[str, Any] = {}
                if len(row.patches):
                    pixels = torch.from_numpy(row.patches).view(-1, 14, 14, 3).permute(3, 1, 0, 2).reshape(1, 3, 14, -1)
                    kind = "" if case.frames is None else "_videos"
                    sizes = torch.tensor([grid for grid, _, _ in row.units], dtype=torch.int32)
                    media = {f"pixel_values{kind}": pixels, f"target_sizes{kind}": sizes, "downsample_mode": mode}
                official = model(input_ids=torch.from_numpy(row.ids[None].astype(np.int64)), **media).logits[0]
                difference = (official - ours[i, : len(row.ids)]).abs().max() / official.abs().max()
                worst = max(worst, float(difference))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training's state")
    parser.add_argument("--steps", type=int, default=5400, help="steps of the whole training, over all runs")
    parser.add_argument("--page-steps", type=int, default=1500, help="steps of the encoder alone before them")
    parser.add_argument("--minutes", type=float, default=115.0, help="longest time of this run")
    parser.add_argument("--seed", type=int, default=46)
    parser.add_argument("--start", type=Path, help="checkpoint to start from, in place of first weights and of pages")
    parser.add_argument("--export", type=Path, help="write the checkpoint that the run has reached to this folder")
    arguments = parser.parse_args()
    if arguments.export is not None:
        export(arguments.run, arguments.export)
        return
    train(arguments)


def train(arguments: argparse.Namespace) -> None:
    """Train until `steps` steps or `minutes` have passed; go on from the state in `run` where there is one."""
    run, total, seed = arguments.run, arguments.steps, arguments.seed
    began = time.monotonic()
    if not (run / "tokenizer.json").is_file():
        write_files(run, make_tokenizer())
    model = make_model(run, seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    print(f"batched against official forward: {check_equal(model, run):.1e}", flush=True)
    torch.manual_seed(seed)
    heads = ClassHeads(model)
    batched = Batched(model)
    parameters = [*model.parameters(), *heads.parameters()]
    stepper = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    step, state = 0, run / "state.pt"
    if state.is_file():
        saved = torch.load(state)
        step = saved["step"]
        for name, part in (("model", model), ("heads", heads), ("optimizer", stepper)):
            part.load_state_dict(saved[name])
    elif arguments.start is not None:
        weights = load_file(arguments.start / "model.safetensors")
        model.load_state_dict(weights, strict=False)  # the head is tied to the embeddings

    def save() -> None:
        parts = {"model": model, "heads": heads, "optimizer": stepper}
        torch.save(
            {"step": step, **{name: part.state_dict() for name, part in parts.items()}}, state.with_suffix(".new")
        )
        state.with_suffix(".new").replace(state)

    if not state.is_file() and arguments.start is None and arguments.page_steps:
        train_encoder(model, heads, seed, arguments.page_steps)
        save()
    records: list[tuple[float, ...]] = []
    seen = time.monotonic()
    for batch in in_background(produce, str(run), seed, step, total):
        # A short warm-up; over the second half down to nothing, fast at first: at the full rate reading and sums stand
        # still from a fifth of the training on, and come with the decay.
        decay = 1 - max(2 * step / total - 1, 0) ** 0.5
        stepper.param_groups[0]["lr"] = RATE * min((step + 1) / 100, decay)
        stepper.zero_grad(set_to_none=True)
        loss, class_loss, right = loss_of(model, batched, heads, batch)
        (loss + class_loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        stepper.step()
        step += 1
        records.append((loss.item(), class_loss.item(), right.item()))
        if step % 50 == 0:
            means = dict(zip(("loss", "classes", "right"), np.mean(records, axis=0).round(4).tolist(), strict=True))
            speed = round(len(records) * BATCH / (time.monotonic() - seen), 1)
            print(json.dumps({"step": step, **means, "samples/s": speed}), flush=True)
            records, seen = [], time.monotonic()
        stop = step >= total or time.monotonic() - began > 60 * arguments.minutes
        if step % BUCKET == 0 and (stop or step % (50 * BUCKET) == 0):
            save()
            if stop:
                print(f"stopped at step {step} of {total}", flush=True)
                return


def export(run: Path, folder: Path) -> None:
    """The trained model in bfloat16 in the official layout, as transformers saves it."""
    from transformers import GenerationConfig

    write_files(folder, make_tokenizer())
    model = make_model(run)
    model.load_state_dict(torch.load(run / "state.pt")["model"])
    model.generation_config = GenerationConfig.from_pretrained(folder)  # both stop tokens
    model.to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
