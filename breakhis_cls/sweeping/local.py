"""Runs on this machine: as many processes as its cores, memory and GPUs are good for."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Sequence

from ..parallel import count_cores
from . import tasks
from .tasks import Resources, Task


class LocalExecutor:
    """An Executor: at most `workers` processes at a time, each with a GPU of its own where there are any."""

    def __init__(self, workers: int | None, needs: Resources) -> None:
        """workers: None for as many as the machine is good for."""
        self._gpus = gpus()
        places = range(workers or default_workers(needs, count_cores(), memory_gib(), len(self._gpus)))
        self._free = deque(places)
        self._waiting: deque[Task] = deque()
        self._at_work: dict[int, tuple[Task, subprocess.Popen]] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        tasks.stop_processes([process for _, process in self._at_work.values()])

    @property
    def n_running(self) -> int:
        """Processes at work."""
        return len(self._at_work)

    def submit(self, task: Task) -> None:
        """Run it when a process may be begun."""
        self._waiting.append(task)
        self._fill()

    def wait(self, seconds: float) -> list[tuple[Task, int]]:
        """Tasks that ended, with their exit codes; the next ones are begun in their place."""
        until = time.monotonic() + seconds
        while not (ended := self._reap()) and time.monotonic() < until:
            time.sleep(0.02)
        self._fill()
        return ended

    def _reap(self) -> list[tuple[Task, int]]:
        ended = []
        for place, (task, process) in list(self._at_work.items()):
            if (code := process.poll()) is not None:
                del self._at_work[place]
                self._free.append(place)
                ended.append((task, code))
        return ended

    def _fill(self) -> None:
        while self._waiting and self._free:
            place, task = self._free.popleft(), self._waiting.popleft()
            self._at_work[place] = task, tasks.start_process(task, self._environment(place))

    def _environment(self, place: int) -> dict[str, str]:
        """Ours, and with it the threads of a lone run; only the GPU is told."""
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[place % len(self._gpus)]} if self._gpus else {}
        return {**os.environ, **gpu}


def default_workers(needs: Resources, cores: int, gib: float, n_gpus: int) -> int:
    """How many runs are worth having side by side: one a GPU; else what cores and memory allow, one at least."""
    return n_gpus or max(1, min(cores // needs.cores, int(gib / needs.gib)))


def gpus() -> Sequence[str]:
    """Names of this process's GPUs as CUDA_VISIBLE_DEVICES takes them. Asks no TensorFlow, which would hold them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name.strip() for name in allowed.split(",") if name.strip() not in ("", "-1")]
    if not (asked := shutil.which("nvidia-smi")):
        return []
    command = [asked, "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


def memory_gib() -> float:
    """Of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
