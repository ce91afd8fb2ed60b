"""What a training draws, ahead of time: worker processes draw the next steps while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def on_device(item: Any, device: str) -> Any:
    """What is drawn with its arrays as tensors on a device, those in lists and named tuples too."""
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(item)
    if isinstance(item, Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, list):
        return [on_device(part, device) for part in item]
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(on_device(part, device) for part in item))
    return item


class Steps(Dataset):  # type: ignore[type-arg]
    """What `make` draws for each step, as tensors, which need no copy on their way to another process."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Any:
        return on_device(self.make(step), "cpu")


def as_drawn(item: Any) -> Any:
    return item


def stream(make: Callable[[int], Any], steps: range, workers: int, device: str, again: int = 0) -> Iterator[Any]:
    """What `make` draws for each of the steps, in their order, on a device.

    Args:
        make: gives what `on_device` takes.
        workers: processes that draw; with 0 this one does.
        again: how many drawn steps are kept on the device; with any, each third step is one of them, the oldest, once
            there are so many. A GPU can be faster than its machine draws.
    """
    if not steps:
        return
    loader = DataLoader(
        Steps(make),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=as_drawn,
        pin_memory=device != "cpu",
    )
    kept: deque[Any] = deque()
    for i, item in enumerate(loader):
        drawn = on_device(item, device)
        yield drawn
        if again and i % 2:
            kept.append(drawn)
            if len(kept) > again:
                yield kept.popleft()
