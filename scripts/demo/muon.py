"""The Muon optimizer (Jordan et al., 2024) for matrices: steps along momentum that is made orthogonal.

torch has one that works in bfloat16, which CPUs are slow at, and takes matrices one by one. This one works in float32,
takes matrices of one shape together, and shares them among the processes of a training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # of the Newton-Schulz iteration, from the paper
ITERATIONS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest orthogonal matrices, [count, rows, cols]."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.transpose(1, 2)
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(ITERATIONS):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x if wide else x.transpose(1, 2)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum; its steps are as large as AdamW's of the same rate (Liu et al., 2025).

    Args:
        params: matrices, the same in each process, with the same gradients.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step, computed by all processes together."""
        for group in self.param_groups:
            self.step_of(group)

    def step_of(self, group: dict[str, Any]) -> None:
        params, momentum = group["params"], group["momentum"]
        changes = params[0].new_zeros(sum(p.numel() for p in params))
        places = changes.split([p.numel() for p in params])
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        rank, world = distributed.get_rank(), distributed.get_world_size()
        for i, (p, place) in enumerate(zip(params, places, strict=True)):
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - momentum)
            if i % world == rank:
                alike[p.shape].append((place, p.grad.lerp(state["momentum"], momentum)))
        for pairs in alike.values():
            found = orthogonal(torch.stack([change for _, change in pairs]))
            for (place, _), change in zip(pairs, found, strict=True):
                place.copy_(change.flatten())
        if world > 1:
            distributed.all_reduce(changes)
        for p, place in zip(params, places, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(place.view_as(p), alpha=-0.2 * group["lr"] * max(p.shape) ** 0.5)
