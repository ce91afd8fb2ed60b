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


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int = WORKERS) -> Iterator[Result]:
    """`function` of each item on `workers` threads; results and errors come in the order of the items.

    An item is taken, on the caller's thread, when fewer than `workers` wait for their results to be taken; so no more
    than that are in memory beside the one that is handed over.
    """
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        for item in items:
            if len(pending) == workers:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
