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
import signal
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing

from minicpmv46.processing import Processor
from scripts.demo.batches import (
    CPU,
    CUDA,
    Limits,
    answers,
    answers_and_page,
    collate,
    pages,
)
from scripts.demo.checkpoint import make_tokenizer, write_files
from scripts.demo.losses import loss_of_page, loss_of_part, loss_of_text
from scripts.demo.mixture import FEWEST_PAGES, PAGES, ROWS, at_step
from scripts.demo.model import Batched, lengthen_chunks, make_model
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
from scripts.demo.rows import make_row
from scripts.demo.run import HEAD_STEPS, Clock, Progress, Run, load_written
from scripts.demo.stream import on_device
from scripts.demo.varied_tasks import SKILLS, draw

EARLIER = 0.35  # share of an earlier checkpoint in a mean of weights


def train_pages(run: Run, seed: int, total: int, clock: Clock) -> bool:
    """Teach the encoder and the mergers, in both modes, what the points of a page's patches show; False: time is over.

    A page has many letters and costs no decoder, so this is by far the cheapest way to see letters.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "pages", total, clock, ("classes", "held"), PAGES)
    steps = range(run.steps["pages"], total)
    drawn = run.stream(partial(pages, seed, part=rank, parts=world), steps)
    for step, page in zip(steps, drawn, strict=False):
        loss, right = loss_of_page(run, page)
        loss.backward()
        advance(run.steppers["pages"], rate_at(step, PAGE_FALL, PAGE_RATES))
        if progress.is_over(torch.stack([loss, right])):
            return False
    return True


def train_heads(run: Run, seed: int, before: int, total: int, clock: Clock) -> bool:
    """Teach new heads what the features of a written checkpoint tell, which has none; False: time is over.

    A training from nothing has had all these steps.

    Args:
        before: steps of pages that the checkpoint has had, those beside the requests too.
    """
    rank, world = distributed.get_rank(), distributed.get_world_size()
    progress = Progress(run, "heads", total, clock, ("classes", "held"), PAGES)
    steps = range(run.steps["heads"], total)
    drawn = run.stream(partial(pages, seed, part=rank, parts=world), range(before + steps.start, before + total))
    for step, page in zip(steps, drawn, strict=False):
        loss, right = loss_of_page(run, page, frozen=True)
        loss.backward()
        advance(run.steppers["heads"], rate_at(step, (total // 2, total), (HEAD_RATE, HEAD_RATE / 10)))
        if progress.is_over(torch.stack([loss, right])):
            return False
    return True


def train_decoder(run: Run, folder: Path, seed: int, total: int, clock: Clock) -> bool:
    """Teach the decoder to answer from what the encoder sees; False: time is over."""
    rank, world, most = distributed.get_rank(), distributed.get_world_size(), limits(run)
    progress = Progress(run, "decoder", total, clock, ("loss", "right"), ROWS[0])
    processor, steps = Processor.from_pretrained(folder), range(run.steps["decoder"], total)
    drawn = run.stream(partial(answers, processor, seed, part=rank, parts=world, most=most), steps)
    for step, parts in zip(steps, drawn, strict=False):
        tokens, rows = sum(len(text.asked) for part in parts for text in part.texts), at_step(ROWS, step) / world
        record = torch.zeros(2, device=run.device)
        for part in parts:
            with torch.no_grad():
                features = run.batched.joined(run.batched.features(part.views))
            for text in part.texts:
                loss, whole, right = loss_of_text(run, text, features)
                (whole / tokens).backward()
                record += torch.stack([loss / tokens, right / rows])
        advance(run.steppers["decoder"], rate_at(step, DECODER_FALL, DECODER_RATES))
        if progress.is_over(record):
            return False
    return True


def train_answers(run: Run, folder: Path, seed: int, before: tuple[int, int], total: int, clock: Clock) -> None:
    """Teach the whole model to answer, and the encoder with pages beside it.

    Args:
        before: steps of pages and of questions of the stages before.
    """
    rank, world, most = distributed.get_rank(), distributed.get_world_size(), limits(run)
    processor, steps = Processor.from_pretrained(folder), range(run.steps["answers"], total)
    drawn = run.stream(partial(answers_and_page, processor, seed, before, part=rank, parts=world, most=most), steps)
    size = at_step(ROWS, before[1] + steps.start)
    progress = Progress(run, "answers", total, clock, ("loss", "right", "classes", "pages", "held"), size)
    for step, parts in zip(steps, drawn, strict=False):
        tokens = sum(len(text.asked) for part in parts for text in part.texts)
        patches = sum(len(view.patches) for part in parts for view in part.views)
        rows = at_step(ROWS, before[1] + step) / world
        record = torch.zeros(5, device=run.device)
        for part in parts:
            whole, values = loss_of_part(run, part, tokens, patches)
            whole.backward()
            record += values
        record[1] /= rows
        advance(run.steppers["answers"], rate_in_rounds(step, total))
        if progress.is_over(record):
            return


def limits(run: Run) -> Limits:
    return CPU if run.device == "cpu" else CUDA


def check_equal(model: Any, folder: Path, bfloat16: bool = False) -> float:
    """Largest difference of a request's logits between the batched forward and the official one, relative to them.

    Differences and logits are measured by their norms. Random weights make more of rounding than trained ones.
    """
    processor = Processor.from_pretrained(folder)
    random = np.random.default_rng(1)
    device = str(model.device)
    batched, worst = Batched(model, bfloat16), 0.0
    for mode in ("16x", "4x"):
        cases = [draw(skill, random) for skill in SKILLS]
        made = [(make_row(processor, case, {"downsample_mode": mode}), case) for case in cases]
        made.sort(key=lambda pair: len(pair[0].ids))  # as they come in texts
        part = on_device(collate([row for row, _ in made]), device)
        with torch.no_grad():
            features = batched.joined(batched.features(part.views))
            ours = [out for text in part.texts for out in model.lm_head(batched.hidden(text, features).hidden)]
            for (row, case), logits in zip(made, ours, strict=True):
                media: dict[str, Any] = {}
                if len(row.patches):
                    pixels = torch.from_numpy(row.patches).to(device).float() / 127.5 - 1
                    pixels = pixels.view(-1, 14, 14, 3).permute(3, 1, 0, 2).reshape(1, 3, 14, -1)
                    kind = "" if case.frames is None else "_videos"
                    sizes = torch.tensor(row.units, dtype=torch.int32, device=device)
                    media = {f"pixel_values{kind}": pixels, f"target_sizes{kind}": sizes, "downsample_mode": mode}
                ids = torch.from_numpy(row.ids[None].astype(np.int64)).to(device)
                official = model(input_ids=ids, **media).logits[0]
                difference = (official - logits[: len(row.ids)]).norm() / official.norm()
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
    parser.add_argument("--processes", type=int, help=f"of one thread each ({processes}; 1 on CUDA)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the model is (cpu)")
    parser.add_argument(
        "--again", type=int, default=0, help="drawn steps to keep; each third step is one of them once more (0)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that draw pictures ahead, for each process (0)"
    )
    parser.add_argument("--seed", type=int, default=46)
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="multiply in bfloat16 on the vision side, and in TF32 elsewhere on CUDA; faster on GPUs and on CPUs with "
        "bfloat16 instructions",
    )
    parser.add_argument("--start", type=Path, help="written checkpoint to begin with")
    parser.add_argument("--export", type=Path, help="write the checkpoint that the run has reached to this folder")
    parser.add_argument(
        "--average", type=Path, help=f"with --export: written checkpoint that makes up {EARLIER} of its weights"
    )
    arguments = parser.parse_args()
    if arguments.processes is None:
        arguments.processes = processes if arguments.device == "cpu" else 1
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; leave the option out to train on the CPU")
    if arguments.device == "cuda" and arguments.processes > 1:
        parser.error(f"--processes {arguments.processes}: on CUDA one computes; give --workers to draw with more")
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
    # torch sends SIGINT when the parent ends. A shell that runs a command in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=arguments.processes)
    seed, before, clock = arguments.seed, (arguments.page_steps, arguments.decoder_steps), Clock(arguments.minutes)
    steps = {"pages": before[0], "decoder": before[1], "answers": ROUNDS[-1]}
    run = Run(
        arguments.run,
        seed,
        arguments.start,
        steps,
        arguments.bfloat16,
        arguments.device,
        arguments.workers,
        arguments.again,
    )
    if rank == 0:
        print(f"{sum(p.numel() for p in run.model.parameters()):,} parameters", flush=True)
        print(f"batched against official forward: {check_equal(run.model, arguments.run):.1e}", flush=True)
        if arguments.bfloat16:
            worst = check_equal(run.model, arguments.run, True)
            print(f"in bfloat16 against official forward: {worst:.1e}", flush=True)
    torch.backends.cuda.matmul.allow_tf32 = arguments.bfloat16
    if arguments.device == "cuda":
        lengthen_chunks()
    distributed.barrier()
    had = before[0] + run.steps["answers"]
    ready = train_heads(run, seed, had, HEAD_STEPS, clock) and train_pages(run, seed, before[0], clock)
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
    model.load_state_dict(torch.load(run / "state.pt", map_location="cpu")["model"])
    if average is not None:
        earlier = make_model(run)
        load_written(earlier, average)
        with torch.no_grad():
            for weight, other in zip(model.parameters(), earlier.parameters(), strict=True):
                weight.lerp_(other, EARLIER)
    model.generation_config = GenerationConfig.from_pretrained(folder)  # both stop tokens
    model.to(torch.bfloat16).save_pretrained(folder)
