"""Work on threads keeps the order, the errors and the bound on what is in memory."""

import threading
import time
from collections.abc import Iterator

import pytest

from minicpmv46.workers import map_ahead


def test_order_and_bound() -> None:
    """Later items are done first, none is taken too early, and all are taken on the caller's thread."""
    taken: list[int] = []
    takers = set()
    done = [threading.Event() for _ in range(20)]

    def items() -> Iterator[int]:
        for i in range(20):
            taken.append(i)
            takers.add(threading.get_ident())
            yield i

    def work(i: int) -> int:
        if i % 3 < 2:  # waits for its successor
            assert done[i + 1].wait(60) if i < 19 else True
        done[i].set()
        return i * i

    for count, result in enumerate(map_ahead(work, items(), workers=3)):
        assert result == count * count
        assert len(taken) <= count + 4  # the one handed over, three that wait, and the one that made room
    assert taken == list(range(20)) and takers == {threading.get_ident()}


def test_first_error_in_order() -> None:
    """An error is that of the first item that fails, and nothing is taken after it was seen."""
    taken: list[int] = []
    failed = threading.Event()

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        if i == 3:
            failed.wait(60)
        if i == 4:
            failed.set()
        if i >= 3:
            raise ValueError(f"item {i}")
        return i

    results = []
    with pytest.raises(ValueError, match="item 3"):
        for result in map_ahead(work, items(), workers=2):
            results.append(result)
    assert results == [0, 1, 2] and len(taken) <= 7


def test_nothing_to_do() -> None:
    assert list(map_ahead(str, [])) == []


def test_heavy_items_wait_for_each_other() -> None:
    """No more than `most` run together, and one that is heavier alone runs alone; order and results stay."""
    running: list[int] = []
    seen: list[int] = []
    lock = threading.Lock()

    def work(item: int) -> int:
        with lock:
            running.append(item)
            seen.append(sum(running))
        time.sleep(0.01)
        with lock:
            running.remove(item)
        return item

    items = [3, 4, 5, 20, 1, 1, 1, 9, 2]
    assert list(map_ahead(work, items, 4, weight=lambda item: item, most=10)) == items
    assert max(total for total in seen if total != 20) <= 10 and 20 in seen
    assert max(seen) == 20
