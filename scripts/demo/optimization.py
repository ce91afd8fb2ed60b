"""How a step of the demo's training changes the weights: optimizers, rates, and the gradient of all processes."""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import distributed

from scripts.demo.muon import Muon

# The rate of the pages falls slowly between two steps and then stays. The decoder's falls at one step: on the same
# questions its loss fell as fast at the lower rate and was 0.1 lower. The whole model learns in rounds: in each its
# rate falls to 0 over a share of the steps. ROUNDS are the steps that the checkpoints which shipped have had; what is
# trained after them is one more round. The third begins at half the rate: after 400 steps of pages alone, with a fall
# to 0, the loss of unseen pages was 0.03 lower from 3e-4, 0.07 higher from 1e-3, and 0.5 higher from 3e-3. The fourth
# had units of another side to learn, and a higher rate. The sixth began with the mean that shipped before it. The
# seventh had six times the requests in a step, on a GPU, and units and layers to learn that were new; the eighth had 32
# again, and the ninth, a fifth of it without a picture, 40.
PAGE_RATES, PAGE_FALL = (6e-3, 1e-3), (2400, 12000)
DECODER_RATES, DECODER_FALL = (2e-3, 1e-3), (999, 1000)
ROUNDS = (3320, 5350, 6830, 9350, 10320, 11330, 12942, 13452, 13702)
RATES = 1e-3, 1e-3, 5e-4, 7e-4, 5e-4, 6e-4, 1.2e-3, 5e-4, 5e-4, 5e-4
FALLS = 0.31, 0.6, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9
HEAD_RATE = 3e-3


def optimizers(parts: list[torch.nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for all else: the mergers' matrices would take Muon too long."""
    layers, rest = [], []
    for part in parts:
        for name, p in part.named_parameters():
            (layers if ".layers." in f".{name}" and p.ndim == 2 else rest).append(p)
    others = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(layers), others] if layers else [others]


def advance(steppers: list[torch.optim.Optimizer], rate: float) -> None:
    """One step at a rate, with the mean gradient of all processes, which is never longer than 1."""
    parameters = [p for stepper in steppers for group in stepper.param_groups for p in group["params"]]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    gradients = torch.cat([p.grad.flatten() for p in parameters])
    world = distributed.get_world_size()
    if world > 1:
        distributed.all_reduce(gradients)
    gradients /= gradients.norm().clamp_min(world)
    for p, gradient in zip(parameters, gradients.split([p.numel() for p in parameters]), strict=True):
        p.grad = gradient.view_as(p)
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
        stepper.zero_grad(set_to_none=True)


def rate_at(step: int, fall: tuple[int, int], rates: tuple[float, float]) -> float:
    """A short warm-up, a plateau, and down to the second rate between the two steps of `fall`."""
    (start, end), (rate, last) = fall, rates
    share = min(max((end - step) / (end - start), 0.0), 1.0)
    return min((step + 1) / 100, 1.0) * (last + (rate - last) * share)


def rate_in_rounds(step: int, total: int) -> float:
    """The whole model's rate at one of its `total` steps."""
    i = bisect_right(ROUNDS, step)
    begin, end = (0, *ROUNDS)[i], min((*ROUNDS, total)[i], total)
    length = end - begin
    return rate_at(step - begin, (int(length * (1 - FALLS[i])), length), (RATES[i], 0.0))
