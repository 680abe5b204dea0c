"""Work on all cores, in threads, with a progress bar and a time to the end."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    title: str,
    weigh: Callable[[Item], int] = lambda _: 1,
) -> Generator[Result, None, None]:
    """Results in the order of items, computed by a thread per core, with a progress bar on stderr.

    Only a few results wait at any time, so memory is flat; closing the generator stops the work. `weigh` says
    how many images an item stands for. The first exception of `function` is raised here.
    """
    if not items:
        return
    with _progress() as bar, contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(count_cores())
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        task = bar.add_task(title, total=sum(map(weigh, items)))
        todo = ((item, pool.submit(function, item)) for item in items)  # submitted as they are drawn
        waiting = deque(itertools.islice(todo, 4 * count_cores()))
        while waiting:
            item, future = waiting.popleft()
            yield future.result()
            bar.advance(task, weigh(item))
            waiting.extend(itertools.islice(todo, 1))


def count_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True))
