"""Threads on all cores, progress, and what operating systems say of cores and memory in different ways."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
LINE_EVERY_S, SHOWN_FROM_S = 60.0, 3.0  # progress in a log: how often, and of what takes how long


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], title: str
) -> Generator[Result, None, None]:
    """Results in the order of items, computed by one thread per core, with a progress bar on stderr.

    Closing the generator cancels items that were not started. The first exception of `function` is raised here.
    """
    if not items:
        return
    pool = ThreadPoolExecutor(count_cores())  # Pillow and NumPy release the GIL: threads use all cores
    try:
        # Results are small here (a row of a table, or nothing), so that any number may wait.
        yield from show_progress(pool.map(function, items), title, len(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def show_progress(items: Iterable[Item], title: str, n: int) -> Iterator[Item]:
    """The n items, and on stderr how many are done: a bar in a terminal or notebook, else a line a minute."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal or console.is_jupyter:
        yield from track(items, title, n, console=console)
        return
    started = printed = time.monotonic()
    for n_done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if n_done < n and now > printed + LINE_EVERY_S:
            left = format_duration((now - started) / n_done * (n - n_done))
            print(f"{title}: {100 * n_done // n} %, {left} left", file=sys.stderr)
            printed = now
    if time.monotonic() > started + SHOWN_FROM_S:
        print(f"{title}: done in {format_duration(time.monotonic() - started)}", file=sys.stderr)


def format_duration(seconds: float) -> str:
    """`12 s`, `3 min`, `2.5 h`."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def count_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    # macOS and Windows have no sched_getaffinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory of this machine, or of the container where that is less."""
    if hasattr(os, "sysconf"):
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        import psutil  # a dependency on Windows alone

        n_bytes = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no such file outside Linux, or "max"
        n_bytes = min(n_bytes, int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))  # cgroup v2
    return n_bytes


def reset_peak_memory() -> None:
    """Let `peak_memory_bytes` count from now on, which only Linux can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "utf-8")  # resets VmHWM, see proc(5)


def peak_memory_bytes() -> int:
    """The most memory that this process had resident."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    if sys.platform == "win32":
        import psutil

        memory: Any = psutil.Process().memory_info()
        return memory.peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
