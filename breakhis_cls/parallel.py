"""Threads on all cores, with a progress bar and the remaining time."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], title: str
) -> Generator[Result, None, None]:
    """Results in the order of items, computed by one thread per core, with a progress bar on stderr.

    Closing the generator cancels items that were not started. The first exception of `function` is raised here.
    """
    if not items:
        return
    from rich.console import Console
    from rich.progress import track

    pool = ThreadPoolExecutor(count_cores())  # Pillow and NumPy release the GIL: threads use all cores
    try:
        # Results are small here (a row of a table, or nothing), so that any number may wait.
        yield from track(pool.map(function, items), title, len(items), console=Console(stderr=True))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def count_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    # macOS and Windows have no sched_getaffinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
