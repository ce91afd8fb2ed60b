"""The state of a training of the demo checkpoint: what it holds, how it is saved and gone on from, and its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, distributed

from scripts.demo.heads import ClassHeads
from scripts.demo.model import Batched, make_model
from scripts.demo.optimization import optimizers
from scripts.demo.stream import stream

SAVE_EVERY = 50  # steps
HEAD_STEPS = 400  # of new heads, after which the features of a written checkpoint tell them most


class Clock:
    """Whether the time of a run is over, for all processes alike."""

    def __init__(self, minutes: float) -> None:
        self.until = time.monotonic() + 60 * minutes

    def over(self) -> bool:
        over = torch.tensor(float(time.monotonic() > self.until))
        distributed.all_reduce(over)
        return bool(over > 0)


def load_written(model: torch.nn.Module, folder: Path) -> None:
    """Load the weights of a written checkpoint, in float32.

    Raises:
        ValueError: if they are those of another model.
    """
    weights = {name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()}
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or missing != ["lm_head.weight"]:  # which is that of the embeddings
        wrong = f"missing {missing[:3]}, unknown {unknown[:3]}"
        raise ValueError(f"{folder} has other weights ({wrong}): give a folder that --export wrote")


class Run:
    """A training's state in a folder: model, heads, optimizers, and how far each stage has come.

    Args:
        start: folder of a written checkpoint whose weights a new training begins with, instead of from nothing.
        steps: of the stages that the checkpoint has had.
        bfloat16: whether the vision side multiplies in bfloat16, as in `Batched`.
        device: "cpu" or "cuda".
        workers, again: processes that draw ahead, and how many drawn steps are kept to be repeated, as in `stream`.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        start: Path | None = None,
        steps: dict[str, int] | None = None,
        bfloat16: bool = False,
        device: str = "cpu",
        workers: int = 0,
        again: int = 0,
    ) -> None:
        self.file, self.device, self.workers, self.again = folder / "state.pt", device, workers, again
        self.model = make_model(folder, seed).to(device)
        self.batched = Batched(self.model, bfloat16)
        torch.manual_seed(seed)
        self.heads = ClassHeads(self.model).to(device)
        self.steps = {"pages": 0, "decoder": 0, "heads": HEAD_STEPS, "answers": 0}  # heads learn with the pages
        inner = self.model.model
        self.steppers = {
            "pages": optimizers([inner.vision_tower, inner.merger, self.heads]),
            "decoder": optimizers([inner.language_model]),
            "heads": optimizers([self.heads]),
            "answers": optimizers([self.model, self.heads]),
        }
        if self.file.is_file():
            saved = torch.load(self.file, map_location=device)
            self.steps = saved["steps"]
            self.model.load_state_dict(saved["model"])
            self.heads.load_state_dict(saved["heads"])
            for stage, steppers in self.steppers.items():
                for stepper, state in zip(steppers, saved["optimizers"][stage], strict=True):
                    stepper.load_state_dict(state)
        elif start is not None:
            load_written(self.model, start)
            self.steps |= {"heads": 0, **(steps or {})}

    def stream(self, make: Callable[[int], Any], steps: range) -> Iterator[Any]:
        """What `make` draws for each of the steps, on the device."""
        return stream(make, steps, self.workers, self.device, self.again)

    def save(self) -> None:
        """Write the state, once for all processes."""
        if distributed.get_rank() > 0:
            return
        new = self.file.with_suffix(".new")
        states = {stage: [s.state_dict() for s in steppers] for stage, steppers in self.steppers.items()}
        parts = {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "optimizers": states}
        torch.save({"steps": self.steps, **parts}, new)
        new.replace(self.file)


class Progress:
    """What follows each step of a stage: means are printed, the state is saved, and the clock is asked.

    Args:
        stage: "pages", "decoder", "heads" or "answers".
        total: its steps, over all runs.
        names: of the values of a step.
        size: pages or requests of a step.
    """

    def __init__(self, run: Run, stage: str, total: int, clock: Clock, names: tuple[str, ...], size: int) -> None:
        self.run, self.stage, self.total, self.clock, self.names, self.size = run, stage, total, clock, names, size
        self.records: list[Tensor] = []
        self.seen = time.monotonic()

    def is_over(self, values: Tensor) -> bool:
        """Whether the time is over, after a step with such values."""
        self.run.steps[self.stage] += 1
        step, first = self.run.steps[self.stage], distributed.get_rank() == 0
        self.records.append(values.detach())
        if step % 50 == 0 and first:
            mean = torch.stack(self.records).mean(0).tolist()
            means = {name: round(value, 4) for name, value in zip(self.names, mean, strict=True)}
            speed = round(len(self.records) * self.size / (time.monotonic() - self.seen), 1)
            print(json.dumps({"stage": self.stage, "step": step, **means, "a second": speed}), flush=True)
            self.records, self.seen = [], time.monotonic()
        over = self.clock.over()
        if over or step == self.total or step % SAVE_EVERY == 0:
            self.run.save()
        if over and first:
            print(f"stopped at step {step} of {self.total} of the {self.stage}", flush=True)
        return over
