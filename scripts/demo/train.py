"""Train the demo checkpoint with the official implementation of transformers, and write it in the official layout.

    python scripts/train_demo.py RUN

RUN is a folder for the state of the training; the same command goes on where it stopped. `--minutes` ends a run
earlier. `--export FOLDER` writes the checkpoint that RUN has reached, in bfloat16; with `--average EARLIER`, a written
checkpoint, its weights are the weighted mean of both. `--start minicpmv46/demo/checkpoint`
begins with the weights of a written checkpoint, after the steps that the shipped one has had, instead of from nothing;
`--steps` must be more.

Pictures are drawn as they are needed, questions asked in several phrasings, short words first. There are three stages:
the encoder learns alone what each patch of a page shows and each token holds; the decoder learns to answer from what
the encoder then sees; the whole model learns to answer, and the encoder goes on with the tasks of the first stage:
without them it learns slowly.
Needs torch and matplotlib, whose typefaces are drawn (`scripts/live.sh` sets up an environment that has both).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from minicpmv46.processing import Processor
from scripts.demo.batches import (
    IGNORED,
    ROWS,
    Batch,
    answers,
    collate,
    make_row,
    pages,
)
from scripts.demo.checkpoint import make_tokenizer, write_files
from scripts.demo.heads import loss_of_looks
from scripts.demo.mixture import FEWEST_PAGES, PAGES
from scripts.demo.model import Batched, Seen, make_model
from scripts.demo.optimization import (
    DECODER_FALL,
    DECODER_RATES,
    HEAD_RATE,
    PAGE_FALL,
    PAGE_RATES,
    ROUNDS,
    advance,
    rate_at,
    rate_in_rounds,
)
from scripts.demo.run import HEAD_STEPS, Clock, Progress, Run, load_written
from scripts.demo.varied_tasks import SKILLS, draw

LOOKS = 0.3  # weight of the loss of the attention
EARLIER = 0.35  # share of an earlier checkpoint in a mean of weights


def train_pages(run: Run, seed: int, total: int, clock: Clock) -> bool:
    """Teach the encoder and the mergers, in both modes, what the points of a page's patches show; False: time is over.

    A page has many letters and costs no decoder, so this is by far the cheapest way to see letters.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "pages", total, clock, ("classes", "held"), PAGES)
    for step in range(run.steps["pages"], total):
        batch = pages(seed, step, rank, world)
        loss, right = run.heads.of_page(run.batched, batch)
        loss.backward()
        advance(run.steppers["pages"], rate_at(step, PAGE_FALL, PAGE_RATES))
        if progress.is_over((loss.item(), right.item())):
            return False
    return True


def train_heads(run: Run, seed: int, before: int, total: int, clock: Clock) -> bool:
    """Teach new heads what the features of a written checkpoint tell, which has none; False: time is over.

    A training from nothing has had all these steps.

    Args:
        before: steps of pages that the checkpoint has had.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "heads", total, clock, ("classes", "held"), PAGES)
    for step in range(run.steps["heads"], total):
        loss, right = run.heads.of_page(run.batched, pages(seed, before + step, rank, world), frozen=True)
        loss.backward()
        advance(run.steppers["heads"], rate_at(step, (total // 2, total), (HEAD_RATE, HEAD_RATE / 10)))
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
    rank, world = distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "decoder", total, clock, ("loss", "right"), ROWS)
    processor = Processor.from_pretrained(folder)
    for step in range(run.steps["decoder"], total):
        batches = answers(processor, seed, step, rank, world)
        tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
        record = np.zeros(2)
        for batch in batches:
            loss, whole, right = loss_of_answers(run, run.batched.hidden(batch, frozen=True), batch)
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
    rank, world = distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "answers", total, clock, ("loss", "classes", "pages", "held", "right"), ROWS)
    processor = Processor.from_pretrained(folder)
    for step in range(run.steps["answers"], total):
        batches = answers(processor, seed, before[1] + step, rank, world)
        tokens = sum(int((batch.labels != IGNORED).sum()) for batch in batches)
        patches = sum(len(batch.patches) for batch in batches)
        record = np.zeros(5)
        for batch in batches:
            seen = run.batched.hidden(batch)
            loss, whole, right = loss_of_answers(run, seen, batch)
            classes = loss.new_tensor(0.0)
            if seen.features is not None and seen.encoded is not None:  # there may be questions without pictures only
                classes = run.heads.loss(seen.encoded, seen.features, batch)[0] * len(batch.patches) / patches
            (whole / tokens + classes).backward()
            record += (loss.item() / tokens, classes.item(), 0, 0, right * world / ROWS)
        page = pages(seed, before[0] + step, rank, world)
        loss, right_share = run.heads.of_page(run.batched, page)
        loss.backward()
        record += (0, 0, loss.item(), right_share.item(), 0)
        advance(run.steppers["answers"], rate_in_rounds(step, total))
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
    parser.add_argument(
        "--steps", type=int, default=ROUNDS[-1], help="steps of the whole model after them, over all runs"
    )
    parser.add_argument("--minutes", type=float, default=600.0, help="longest time of this run")
    processes = min(os.cpu_count() or 1, FEWEST_PAGES)
    parser.add_argument("--processes", type=int, default=processes, help="of one thread each")
    parser.add_argument("--seed", type=int, default=46)
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="multiply in bfloat16 on the vision side; faster on CPUs with bfloat16 instructions",
    )
    parser.add_argument("--start", type=Path, help="written checkpoint to begin with")
    parser.add_argument("--export", type=Path, help="write the checkpoint that the run has reached to this folder")
    parser.add_argument(
        "--average", type=Path, help=f"with --export: written checkpoint that makes up {EARLIER} of its weights"
    )
    arguments = parser.parse_args()
    if arguments.average is not None and arguments.export is None:
        parser.error(f"--average {arguments.average}: give --export too")
    if not 1 <= arguments.processes <= FEWEST_PAGES:
        least = f"a step has at least {FEWEST_PAGES} pages to share"
        parser.error(f"--processes {arguments.processes}: {least}, so give 1 to {FEWEST_PAGES}")
    if arguments.start is not None and arguments.steps <= ROUNDS[-1]:
        parser.error(f"--steps {arguments.steps}: a written checkpoint has had {ROUNDS[-1]} steps, so give more")
    if arguments.export is not None:
        export(arguments.run, arguments.export, arguments.average)
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
    seed, before, clock = arguments.seed, (arguments.page_steps, arguments.decoder_steps), Clock(arguments.minutes)
    steps = {"pages": before[0], "decoder": before[1], "answers": ROUNDS[-1]}
    run = Run(arguments.run, seed, arguments.start, steps, arguments.bfloat16)
    if rank == 0:
        print(f"{sum(p.numel() for p in run.model.parameters()):,} parameters", flush=True)
        print(f"batched against official forward: {check_equal(run.model, arguments.run):.1e}", flush=True)
    distributed.barrier()
    ready = train_heads(run, seed, before[0], HEAD_STEPS, clock) and train_pages(run, seed, before[0], clock)
    if ready and train_decoder(run, arguments.run, seed, before[1], clock):
        train_answers(run, arguments.run, seed, before, arguments.steps, clock)
    distributed.barrier()  # the first process may still be writing; one that ended before it was seen to abort
    distributed.destroy_process_group()


def export(run: Path, folder: Path, average: Path | None = None) -> None:
    """The trained model in bfloat16 in the official layout, as transformers saves it.

    Args:
        average: written checkpoint that makes up `EARLIER` of the weights.
    """
    from transformers import GenerationConfig

    write_files(folder, make_tokenizer())
    model = make_model(run)
    model.load_state_dict(torch.load(run / "state.pt")["model"])
    if average is not None:
        earlier = make_model(run)
        load_written(earlier, average)
        with torch.no_grad():
            for weight, other in zip(model.parameters(), earlier.parameters(), strict=True):
                weight.lerp_(other, EARLIER)
    model.generation_config = GenerationConfig.from_pretrained(folder)  # both stop tokens
    model.to(torch.bfloat16).save_pretrained(folder)
