"""Train the demo checkpoint with the official implementation of transformers, and write it in the official layout.

    python scripts/train_demo.py RUN

RUN is a folder for the state of the training; the same command goes on where it stopped. From nothing to the end it
takes an hour and three quarters on two cores; `--minutes` ends a run earlier. `--export FOLDER` writes the checkpoint
that RUN has reached, in bfloat16. Pictures are drawn as they are needed, questions asked in several phrasings, short
words first. The encoder is trained alone at first; later too, beside the answers, each patch's class is learned:
without that the encoder takes long to see anything. Needs torch (`scripts/live.sh` sets up an environment that has it).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from minicpmv46.processing import Processor
from scripts.demo_batches import (
    BATCH,
    BUCKET,
    IGNORED,
    PAGES,
    Grid,
    collate,
    in_background,
    make_row,
    produce,
    produce_pages,
)
from scripts.demo_checkpoint import make_tokenizer, write_files
from scripts.demo_drawing import CLASSES
from scripts.demo_model import Batched, make_model
from scripts.demo_tasks import SKILLS, draw

# Most patches are background.
CLASS_WEIGHTS = torch.tensor([0.1] + [1.0] * (len(CLASSES) - 1))
RATE = 1.2e-3
PAGE_RATE = 2e-3


def tensors(batch: dict[str, Any]) -> tuple[Tensor, Tensor, list[tuple[Tensor, Grid, bool, Tensor]]]:
    groups = [(torch.from_numpy(p), grid, merge, torch.from_numpy(t)) for p, grid, merge, t in batch["groups"]]
    return torch.from_numpy(batch["ids"]), torch.from_numpy(batch["labels"]), groups


def covered(classes: Tensor, grid: Grid, n: int) -> Tensor:
    """Classes of the n * n patches of each token, [units, rows * cols] to [units, tokens, n * n]."""
    squares = classes.view(-1, grid[0] // n, n, grid[1] // n, n).transpose(2, 3)
    return squares.reshape(len(classes), -1, n * n)


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
        told = self.tokens[str(n)](features).view(-1, len(CLASSES))
        own = self.inner(inner).view(-1, len(CLASSES))
        return (
            F.cross_entropy(own, classes.view(-1), weight=CLASS_WEIGHTS)
            + F.cross_entropy(told, covered(classes, grid, n).flatten(), weight=CLASS_WEIGHTS)
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
    processor = Processor.from_pretrained(folder)
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
