"""Runs as processes: what a task is, the processes of this machine, and the loop that no failed run can stop."""

import multiprocessing
import os
import shutil
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import BAD_INPUT, DONE
from ..parallel import count_cores, memory_bytes, show_progress
from . import worker

if TYPE_CHECKING:
    from .ray_cluster import RayCluster

LAST_LINES = 8  # of a failed run's log that are shown
POLL_S = 0.5  # between two looks at the processes: runs take seconds to hours
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

    def __init__(self, kind: str, environment: Mapping[str, str] | None = None) -> None:
        """environment: variables that differ from ours."""
        self.kind = kind
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=worker.serve, args=(theirs, dict(environment or {})))
        self.process.start()
        theirs.close()

    def can_do(self, task: Task) -> bool:
        """Whether the process is there and may do this task after others."""
        return bool(task.kind) and self.kind == task.kind and self.process.is_alive()

    def start(self, task: Task) -> None:
        """Send a task."""
        with suppress(OSError):  # it ended just now, which `result` sees
            self.connection.send((task.action, task.arguments, task.log))

    def result(self) -> int:
        """Wait for the task and return its exit code; that of a process which crashed under it is its own."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return self.process.exitcode or 0

    def end(self) -> None:
        """End the process: a run may be ended anywhere, and the same command continues it."""
        self.process.terminate()
        self.process.join()


class Executor:
    """Where tasks run, at most `limit` at a time. `start` starts one; `wait` returns those that ended, with their exit
    codes (a signal's is negative), after some seconds at the latest."""

    limit: int | None = None

    def __init__(self) -> None:
        self.running: dict[Any, Task] = {}

    @property
    def has_room(self) -> bool:
        """Whether another task may be started."""
        return self.limit is None or len(self.running) < self.limit


class LocalExecutor(Executor):
    """The processes of this machine, each with its own GPU where there are any. On exit, running ones are ended."""

    def __init__(self, workers: int | None, needs: Resources) -> None:
        """workers: at most so many at a time; None for as many as cores, memory and GPUs allow."""
        super().__init__()
        self.gpus = list_gpus()
        self.limit = workers or default_workers(needs, count_cores(), memory_bytes() / 2**30, len(self.gpus))
        self.workers: dict[int, Worker] = {}  # by place, which says which GPU; they stay for the next task

    def __enter__(self) -> "LocalExecutor":
        return self

    def __exit__(self, *exception: object) -> None:
        for one in self.workers.values():
            one.end()

    def start(self, task: Task) -> None:
        """See Executor."""
        place = next(at for at in range(self.limit or 1) if at not in self.running)
        if (found := self.workers.get(place)) is None or not found.can_do(task):
            if found:
                found.end()
            # TensorFlow occupies every GPU that it sees.
            gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)]} if self.gpus else {}
            self.workers[place] = found = Worker(task.kind, gpu)
        found.start(task)
        self.running[place] = task

    def wait(self, seconds: float) -> list[tuple[Task, int]]:
        """See Executor."""
        ready = connection.wait([self.workers[place].connection for place in self.running], seconds)
        ended = []
        for place in [place for place in self.running if self.workers[place].connection in ready]:
            task, one = self.running.pop(place), self.workers[place]
            ended.append((task, one.result()))
            if not task.kind:
                one.end()  # its memory is for others
        return ended


def fan_out(todo: Sequence[Task], executor: "LocalExecutor | RayCluster", retries: int, title: str) -> list[str]:
    """Run all tasks; returns a message for each that failed for good: how it ended, and the last lines of its log. A
    task that was killed or crashed is tried again up to `retries` times. One that ends with exit code 2 is not: its
    settings are invalid and would be invalid again."""

    def ended() -> Iterator[tuple[Task, int]]:
        waiting, n_tries = deque(todo), Counter[str]()
        while waiting or executor.running:
            while waiting and executor.has_room:
                executor.start(waiting.popleft())
            for task, code in executor.wait(POLL_S):
                n_tries[task.name] += 1
                if code in (DONE, BAD_INPUT) or n_tries[task.name] > retries:
                    yield task, code
                else:
                    waiting.append(task)  # at the end, so that the others are not held up

    failures = []
    for task, code in show_progress(ended(), title, len(todo)) if title else ended():
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
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    if not (program := shutil.which("nvidia-smi")):
        return []
    command = [program, "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return answer.stdout.split() if answer.returncode == 0 else []
