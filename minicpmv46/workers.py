"""Work on threads: Pillow, OpenCV and numpy release the interpreter lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads of one call. Each holds a decoded picture, and more of them than processors only wait for each other.
WORKERS = min(os.cpu_count() or 1, 8)


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int = WORKERS,
    *,
    weight: Callable[[Item], int] = lambda _: 0,
    most: int = 0,
) -> Iterator[Result]:
    """`function` of each item on `workers` threads; results and errors come in the order of the items.

    An item is taken, on the caller's thread, when fewer than `workers` wait for their results to be taken; so no more
    than that are in memory beside the one that is handed over.

    Args:
        weight, most: items whose weights are more than `most` in sum do not run together; one alone may be heavier.
    """
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[tuple[Future[Result], int]] = deque()
        for item in items:
            heavy = weight(item)
            while len(pending) == workers or (pending and heavy + sum(w for _, w in pending) > most > 0):
                yield pending.popleft()[0].result()
            pending.append((pool.submit(function, item), heavy))
        while pending:
            yield pending.popleft()[0].result()
