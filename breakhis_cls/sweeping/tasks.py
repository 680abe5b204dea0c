"""Runs as processes: what a task is, the processes of this machine, and the loop that no failed run can stop."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BAD_INPUT, DONE, INTERRUPTED
from ..modeling import devices
from ..parallel import count_cores, memory_bytes, show_progress
from . import worker

if TYPE_CHECKING:
    from .ray_cluster import RayCluster

LAST_LINES = 8  # of a failed run's log that are shown
SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang


class Resources(NamedTuple):
    """What one run needs. `cores` says only how many runs are worth having side by side: every run has the threads
    of a lone one, since another number of threads within an operation changes the last bits of its result."""

    cores: int
    gib: float


# Measured at 230x350 px: a frozen head is start-up of one thread and 0.9 GiB; conv5 in batches of 16 took 1.8 GiB.
HEAD, TUNE = Resources(cores=1, gib=1.5), Resources(cores=4, gib=4.0)


@dataclass(frozen=True)
class Task:
    """A call in another process. It finds by itself what is finished already, so it may run twice."""

    name: str
    action: Callable[..., Any]
    """Returns an exit code, or None for 0."""
    arguments: tuple[Any, ...]
    log: Path | None = None
    """The file that its output is appended to; None: our own output."""
    folder: Path | None = None
    """Of the run, which one process at a time can lock."""
    kind: str = ""
    """Tasks of one kind may run one after the other in one process; empty: in one of its own."""


class Worker:
    """A process that does tasks of one kind, one after the other, and ends when we end, however that happens."""

    def __init__(self, kind: str, gpu: str | None = None) -> None:
        self.kind = kind
        self.connection, theirs = SPAWN.Pipe()
        # TensorFlow occupies every GPU that it sees.
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self.process = SPAWN.Process(target=worker.serve, args=(theirs, environment))
        self.process.start()
        theirs.close()

    def can_do(self, task: Task) -> bool:
        """Whether the process is there and may do this task after others."""
        return bool(task.kind) and self.kind == task.kind and self.process.is_alive()

    def run(self, task: Task) -> int:
        """Do a task; returns its exit code, or that of the process (a signal's is negative) if it crashed under it."""
        try:
            self.connection.send((task.action, task.arguments, task.log))
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return self.process.exitcode or 0

    def end(self) -> None:
        """End the process: a run may be ended anywhere, and the same command continues it."""
        self.process.terminate()
        self.process.join()


class LocalExecutor:
    """The processes of this machine, each with its own GPU where there are any. On exit, running ones are ended."""

    def __init__(self, workers: int | None, needs: Resources) -> None:
        """workers: at most so many at a time; None for as many as cores, memory and GPUs allow."""
        gpus = list_gpus()
        self.limit = workers or default_workers(needs, count_cores(), memory_bytes() / 2**30, len(gpus))
        self.workers: dict[int, Worker] = {}  # by place; they stay for the next task
        self.gpus = {place: gpus[place % len(gpus)] for place in range(self.limit)} if gpus else {}
        self.closing, self.closed = threading.Lock(), False
        self.free: SimpleQueue[int] = SimpleQueue()
        for place in range(self.limit):
            self.free.put(place)

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, *_: object) -> None:
        with self.closing:
            self.closed = True
            for one in self.workers.values():
                one.end()

    def run(self, task: Task) -> int:
        """Do a task in one of the processes, when one is free; returns its exit code."""
        place = self.free.get()
        with self.closing:
            found = self.workers.get(place)
            if not self.closed and not (found and found.can_do(task)):
                if found:
                    found.end()
                self.workers[place] = found = Worker(task.kind, self.gpus.get(place))
        code = INTERRUPTED if self.closed or not found else found.run(task)
        if found and not task.kind:
            found.end()  # its memory is for others
        self.free.put(place)
        return code


def fan_out(todo: Sequence[Task], executor: "LocalExecutor | RayCluster", retries: int, title: str) -> list[str]:
    """Run all tasks; returns a message for each that failed for good: how it ended, and the last lines of its log. A
    task that was killed or crashed is tried again up to `retries` times. One that ends with exit code 2 is not: its
    settings are invalid and would be invalid again."""

    def attempt(task: Task) -> tuple[Task, int]:
        code = executor.run(task)
        for _ in range(retries):
            if code not in (DONE, BAD_INPUT):
                code = executor.run(task)
        return task, code

    failures = []
    with ThreadPool(executor.limit) as threads:  # each of which waits for a process
        ended = threads.imap_unordered(attempt, todo)
        for task, code in show_progress(ended, title, len(todo)) if title else ended:
            if code != DONE:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                end = "its messages stand above"
                if task.log is not None and task.log.is_file():
                    lines = task.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
                    end = "\n    ".join([f"the end of {task.log}:", *lines])
                failures.append(f"{task.name} failed ({how}); {end}")
    return failures


def default_workers(needs: Resources, cores: int, gib: float, n_gpus: int) -> int:
    """How many runs to have side by side: one a GPU; without any what cores and memory allow, at least one."""
    return n_gpus or max(1, min(cores // needs.cores, int(gib / needs.gib)))


def list_gpus() -> list[str]:
    """This process's GPUs as CUDA_VISIBLE_DEVICES names them. Does not ask TensorFlow, which would occupy them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [str(at) for at in range(len(devices.gpu_names()))]
    return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
