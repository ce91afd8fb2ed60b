"""Train the demo checkpoint with the official implementation of transformers, and write it in the official layout.

    python scripts/train_demo.py RUN

RUN is a folder for the state of the training; the same command goes on where it stopped. `--minutes` ends a run
earlier. `--export FOLDER` writes the checkpoint that RUN has reached, in bfloat16. Pictures are drawn as they are
needed, questions asked in several phrasings, short words first. There are three stages: the encoder learns alone what
each patch of a page shows and each token holds; the decoder learns to answer from what the encoder then sees; the whole
model learns to answer, and the encoder goes on with the tasks of the first stage: without them it learns slowly.
Needs torch and matplotlib, whose typefaces are drawn (`scripts/live.sh` sets up an environment that has both).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from minicpmv46.processing import Processor
from scripts.demo.batches import (
    IGNORED,
    PAGES,
    ROWS,
    Batch,
    answers,
    collate,
    make_row,
    pages,
)
from scripts.demo.checkpoint import make_tokenizer, write_files
from scripts.demo.heads import ClassHeads, loss_of_looks
from scripts.demo.model import Batched, Seen, make_model
from scripts.demo.optimization import (
    DECAY,
    DECODER_FALL,
    DECODER_RATES,
    PAGE_FALL,
    PAGE_RATES,
    RATE,
    advance,
    optimizers,
    rate_at,
)
from scripts.demo.varied_tasks import SKILLS, SLICED, draw

SAVE_EVERY = 50  # steps
LOOKS = 0.3  # weight of the loss of the attention


class Clock:
    """Whether the time of a run is over, for all processes alike."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes

    def over(self) -> bool:
        over = torch.tensor(float(time.monotonic() > self.until))
        distributed.all_reduce(over)
        return bool(over > 0)


class Run:
    """A training's state in a folder: model, heads, optimizers, and how far each stage has come."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.file = folder / "state.pt"
        self.model = make_model(folder, seed)
        torch.manual_seed(seed)
        self.heads = ClassHeads(self.model)
        self.steps = {"pages": 0, "decoder": 0, "answers": 0}
        inner = self.model.model
        self.steppers = {
            "pages": optimizers([inner.vision_tower, inner.merger, self.heads]),
            "decoder": optimizers([inner.language_model]),
            "answers": optimizers([self.model, self.heads]),
        }
        if self.file.is_file():
            saved = torch.load(self.file)
            self.steps = saved["steps"]
            self.model.load_state_dict(saved["model"])
            self.heads.load_state_dict(saved["heads"])
            for stage, steppers in self.steppers.items():
                for stepper, state in zip(steppers, saved["optimizers"][stage], strict=True):
                    stepper.load_state_dict(state)

    def save(self, name: str = "state.pt") -> None:
        """Write the state, once for all processes."""
        if distributed.get_rank() > 0:
            return
        new = self.file.with_suffix(".new")
        states = {stage: [s.state_dict() for s in steppers] for stage, steppers in self.steppers.items()}
        parts = {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "optimizers": states}
        torch.save({"steps": self.steps, **parts}, new)
        new.replace(self.file.with_name(name))


class Progress:
    """What follows each step of a stage: means are printed, the state is saved, and the clock is asked.

    Args:
        stage: "pages", "decoder" or "answers".
        total: its steps, over all runs.
        names: of the values of a step.
        size: pages or requests of a step.
    """

    def __init__(self, run: Run, stage: str, total: int, clock: Clock, names: tuple[str, ...], size: int) -> None:
        self.run, self.stage, self.total, self.clock, self.names, self.size = run, stage, total, clock, names, size
        self.records: list[Sequence[float]] = []
        self.seen = time.monotonic()

    def is_over(self, values: Sequence[float]) -> bool:
        """Whether the time is over, after a step with such values."""
        self.run.steps[self.stage] += 1
        step, first = self.run.steps[self.stage], distributed.get_rank() == 0
        self.records.append(values)
        if step % 50 == 0 and first:
            means = dict(zip(self.names, np.mean(self.records, axis=0).round(4).tolist(), strict=True))
            speed = round(len(self.records) * self.size / (time.monotonic() - self.seen), 1)
            print(json.dumps({"stage": self.stage, "step": step, **means, "a second": speed}), flush=True)
            self.records, self.seen = [], time.monotonic()
        over = self.clock.over()
        if over or step == self.total or step % SAVE_EVERY == 0:
            self.run.save()
        if over and first:
            print(f"stopped at step {step} of {self.total} of the {self.stage}", flush=True)
        return over


def train_pages(run: Run, seed: int, total: int, clock: Clock) -> bool:
    """Teach the encoder and the mergers, in both modes, what the points of a page's patches show; False: time is over.

    A page has many letters and costs no decoder, so this is by far the cheapest way to see letters.
    """
    batched, rank, world = Batched(run.model), distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "pages", total, clock, ("classes", "held"), PAGES)
    for step in range(run.steps["pages"], total):
        batch = pages(SLICED, seed, step, rank, world)
        loss, right = run.heads.of_page(batched, batch)
        loss.backward()
        advance(run.steppers["pages"], rate_at(step, PAGE_FALL, PAGE_RATES))
        if progress.is_over((loss.item(), right.item())):
            return False
    return True


def loss_of_answers(run: Run, seen: Seen, batch: Batch) -> tuple[Tensor, Tensor, int]:
    """Summed loss of a batch's answers, the same with that of the attention, and how many rows are right."""
    labels = torch.from_numpy(batch.labels)
    wanted = labels != IGNORED
    logits = run.model.lm_head(seen.hidden[wanted])
    wrong = torch.zeros_like(labels)
    wrong[wanted] = (logits.detach().argmax(-1) != labels[wanted]).long()
    loss = F.cross_entropy(logits, labels[wanted], reduction="sum")
    return loss.detach(), loss + LOOKS * loss_of_looks(seen.attention, batch), int((wrong.sum(1) == 0).sum())


def train_decoder(run: Run, folder: Path, seed: int, total: int, clock: Clock) -> bool:
    """Teach the decoder to answer from what the encoder sees; False: time is over."""
    batched, rank, world = Batched(run.model), distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "decoder", total, clock, ("loss", "right"), ROWS)
    processor = Processor.from_pretrained(folder)
    for step in range(run.steps["decoder"], total):
        batches = answers(processor, seed, step, rank, world)
        tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
        record = np.zeros(2)
        for batch in batches:
            loss, whole, right = loss_of_answers(run, batched.hidden(batch, frozen=True), batch)
            (whole / tokens).backward()
            record += (loss.item() / tokens, right * world / ROWS)
        advance(run.steppers["decoder"], rate_at(step, DECODER_FALL, DECODER_RATES))
        if progress.is_over(record.tolist()):
            return False
    return True


def train_answers(run: Run, folder: Path, seed: int, before: tuple[int, int], total: int, clock: Clock) -> None:
    """Teach the whole model to answer, and the encoder with pages beside it.

    Args:
        before: steps of pages and of questions of the stages before.
    """
    batched, rank, world = Batched(run.model), distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "answers", total, clock, ("loss", "classes", "pages", "held", "right"), ROWS)
    processor = Processor.from_pretrained(folder)
    fall = int(total * (1 - DECAY)), total
    for step in range(run.steps["answers"], total):
        batches = answers(processor, seed, before[1] + step, rank, world)
        tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
        patches = sum(len(batch.patches) for batch in batches)
        record = np.zeros(5)
        for batch in batches:
            seen = batched.hidden(batch)
            loss, whole, right = loss_of_answers(run, seen, batch)
            classes = loss.new_tensor(0.0)
            if seen.features is not None and seen.encoded is not None:  # there may be questions without pictures only
                classes = run.heads.loss(seen.encoded, seen.features, batch)[0] * len(batch.patches) / patches
            (whole / tokens + classes).backward()
            record += (loss.item() / tokens, classes.item(), 0, 0, right * world / ROWS)
        page = pages(SLICED, seed, before[0] + step, rank, world)
        loss, right_share = run.heads.of_page(batched, page)
        loss.backward()
        record += (0, 0, loss.item(), right_share.item(), 0)
        if step == fall[0]:
            run.save("plateau.pt")  # to go on from, if the training is made longer
        advance(run.steppers["answers"], rate_at(step, fall, (RATE, 0.0)))
        if progress.is_over(record.tolist()):
            return


def check_equal(model: Any, folder: Path) -> float:
    """Largest difference of a request's logits between the batched forward and the official one, relative to them.

    Differences and logits are measured by their norms. Random weights make more of rounding than trained ones.
    """
    processor = Processor.from_pretrained(folder)
    random = np.random.default_rng(1)
    batched, worst = Batched(model), 0.0
    for mode in ("16x", "4x"):
        cases = [draw(skill, random) for skill in SKILLS]
        rows = [make_row(processor, case, {"downsample_mode": mode}) for case in cases]
        batch = collate(rows)
        with torch.no_grad():
            ours = model.lm_head(batched.hidden(batch).hidden)
            for i, (row, case) in enumerate(zip(rows, cases, strict=True)):
                media: dict[str, Any] = {}
                if len(row.patches):
                    pixels = torch.from_numpy(row.patches).view(-1, 14, 14, 3).permute(3, 1, 0, 2).reshape(1, 3, 14, -1)
                    kind = "" if case.frames is None else "_videos"
                    sizes = torch.tensor(row.units, dtype=torch.int32)
                    media = {f"pixel_values{kind}": pixels, f"target_sizes{kind}": sizes, "downsample_mode": mode}
                official = model(input_ids=torch.from_numpy(row.ids[None].astype(np.int64)), **media).logits[0]
                difference = (official - ours[i, : len(row.ids)]).norm() / official.norm()
                worst = max(worst, float(difference))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training's state")
    parser.add_argument("--page-steps", type=int, default=15300, help="steps of the encoder alone, over all runs")
    parser.add_argument("--decoder-steps", type=int, default=4250, help="steps of the decoder alone, over all runs")
    parser.add_argument("--steps", type=int, default=3320, help="steps of the whole model after them, over all runs")
    parser.add_argument("--minutes", type=float, default=600.0, help="longest time of this run")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, PAGES), help="of one thread each")
    parser.add_argument("--seed", type=int, default=46)
    parser.add_argument("--export", type=Path, help="write the checkpoint that the run has reached to this folder")
    arguments = parser.parse_args()
    if not 1 <= arguments.processes <= PAGES:
        parser.error(f"--processes {arguments.processes}: a step has {PAGES} pages to share, so give 1 to {PAGES}")
    if arguments.export is not None:
        export(arguments.run, arguments.export)
        return
    if not (arguments.run / "tokenizer.json").is_file():
        write_files(arguments.run, make_tokenizer())
    with tempfile.TemporaryDirectory() as meeting:
        multiprocessing.spawn(train, (arguments, f"file://{meeting}/processes"), arguments.processes)


def train(rank: int, arguments: argparse.Namespace, meeting: str) -> None:
    """One of the processes of a run: train until all steps are done or `minutes` have passed.

    It goes on from the state in `run` where there is one.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=arguments.processes)
    clock, run = Clock(arguments.minutes), Run(arguments.run, arguments.seed)
    if rank == 0:
        print(f"{sum(p.numel() for p in run.model.parameters()):,} parameters", flush=True)
        print(f"batched against official forward: {check_equal(run.model, arguments.run):.1e}", flush=True)
    distributed.barrier()
    seed, before = arguments.seed, (arguments.page_steps, arguments.decoder_steps)
    if train_pages(run, seed, before[0], clock) and train_decoder(run, arguments.run, seed, before[1], clock):
        train_answers(run, arguments.run, seed, before, arguments.steps, clock)
    distributed.destroy_process_group()


def export(run: Path, folder: Path) -> None:
    """The trained model in bfloat16 in the official layout, as transformers saves it."""
    from transformers import GenerationConfig

    write_files(folder, make_tokenizer())
    model = make_model(run)
    model.load_state_dict(torch.load(run / "state.pt")["model"])
    model.generation_config = GenerationConfig.from_pretrained(folder)  # both stop tokens
    model.to(torch.bfloat16).save_pretrained(folder)
