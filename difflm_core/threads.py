"""Threads that change no bit of a result: each piece of work is computed by one thread.

Sums over several threads round differently with another number of them. So work is cut into
batches instead, and several batches are computed at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def map_in_order(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    num_threads: int | None = None,
) -> Generator[ResultT]:
    """Yield `function(item)` for every item, in order, a few at a time.

    Args:
        function: Computes one item; runs with one thread of torch.
        items: Taken one by one, as results are taken away: at most `2 * num_threads` results or
            items are in memory.
        num_threads: Items computed at the same time; None: as many as torch would use here.
    """
    before = torch.get_num_threads()
    num_threads = num_threads or before
    left = iter(items)
    pending: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            pending.extend(pool.submit(function, item) for item in islice(left, 2 * num_threads))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(left, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(before)
