"""Runs as processes: what a task is, the processes of this machine, and the loop that no failed run can stop."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress

from ..errors import BAD_INPUT, DONE
from ..parallel import count_cores, format_duration, memory_bytes

if TYPE_CHECKING:
    from .ray_cluster import RayCluster

LAST_LINES = 8  # of a failed run's log that are shown
POLL_S = 0.5  # between two looks at the processes: runs take seconds to hours


class Resources(NamedTuple):
    """What one run needs. `cores` says only how many runs are worth having side by side: every run has the threads
    of a lone one, since another number of threads within an operation changes the last bits of its result."""

    cores: int
    gib: float


# Measured at 230x350 px: a frozen head is start-up of one thread and 0.9 GiB; conv5 in batches of 16 took 1.8 GiB.
HEAD, TUNE = Resources(cores=1, gib=1.5), Resources(cores=4, gib=4.0)


@dataclass(frozen=True)
class Task:
    """A command in a process of its own. The command itself finds what is finished already, so it may run twice."""

    name: str
    arguments: tuple[str, ...]
    """Of Python."""
    log: Path | None = None
    """The file that its output is appended to; None: our own output."""
    folder: Path | None = None
    """Of the run, which one process at a time can lock."""
    server: str = ""
    """Tasks of one name here may run one after the other in one process (worker.py); empty: in one of its own."""


class SweepProgress(Progress):
    """Counts of tasks and the time left, on stderr: a bar on a terminal, elsewhere a line for each task that ended."""

    def __init__(self, title: str, n_tasks: int, n_finished_before: int = 0, is_live: bool = True) -> None:
        """is_live: False leaves the terminal to what the tasks print themselves."""
        console = Console(stderr=True)
        columns = "{task.description}", BarColumn(), "{task.fields[status]}"
        super().__init__(*columns, console=console, disable=not (is_live and console.is_terminal))
        self.n_tasks, self.n_before, self.started = n_tasks, n_finished_before, time.monotonic()
        self.n_running = self.n_finished = self.n_failed = 0
        self.bar = self.add_task(title, total=n_tasks, status="")

    def status(self) -> str:
        """Such as `3 of 15 finished, 2 running, 0 failed, 10 waiting, 4 min left`."""
        n_ended = self.n_finished + self.n_failed
        n_left = self.n_tasks - n_ended
        # At the mean rate so far: rich's own estimate looks back 30 s, which is less than one run takes.
        left = format_duration((time.monotonic() - self.started) / max(n_ended, 1) * n_left)
        return (
            f"{self.n_before + self.n_finished} of {self.n_before + self.n_tasks} finished, "
            f"{self.n_running} running, {self.n_failed} failed, {n_left - self.n_running} waiting, "
            f"{left if n_ended else 'unknown time'} left"
        )

    def show_counts(self, n_running: int, ended: str = "") -> None:
        """Bring the bar up to date; where there is none, print a line if a task `ended`."""
        n_ended = self.n_finished + self.n_failed
        self.n_running = min(n_running, self.n_tasks - n_ended)
        self.update(self.bar, completed=n_ended, status=self.status())
        if ended and self.disable:
            line = f"{self.tasks[self.bar].description}: {self.status()}; {ended}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def fan_out(
    todo: Sequence[Task], executor: LocalExecutor | RayCluster, retries: int, progress: SweepProgress
) -> list[str]:
    """Run all tasks; returns a message for each that failed for good: how it ended, and the last lines of its log.

    A task that was killed or crashed is tried again up to `retries` times. One that ends with exit code 2 is not:
    its settings are invalid and would be invalid again.
    """
    waiting, n_tries, failures = deque(todo), Counter[str](), []
    while progress.n_finished + progress.n_failed < len(todo):
        while waiting and executor.has_room:
            executor.start(waiting.popleft())
        progress.show_counts(executor.n_running)
        for task, code in executor.wait(POLL_S):
            n_tries[task.name] += 1
            if code == DONE:
                progress.n_finished += 1
                progress.show_counts(executor.n_running, f"{task.name} is finished")
            elif code != BAD_INPUT and n_tries[task.name] <= retries:
                waiting.append(task)  # at the end, so that the others are not held up
            else:
                progress.n_failed += 1
                progress.show_counts(executor.n_running, f"{task.name} failed")
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                end = "its messages stand above"
                if task.log is not None and task.log.is_file():
                    lines = task.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
                    end = "\n    ".join([f"the end of {task.log}:", *lines])
                failures.append(f"{task.name} failed ({how}); {end}")
    return failures


def send_task(
    task: Task, server: subprocess.Popen | None, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen:
    """Start a task in a process of its own or, if its kind is served, in a server that is free or new."""
    if not task.server or task.log is None:
        return start_process(task, environment, cwd)
    if server is None or server.poll() is not None:
        server = start_process(Task("server", (*task.arguments[:2], "serve")), environment, cwd, subprocess.PIPE)
    assert server.stdin is not None
    with suppress(OSError):  # it ended just now, which end_of_task sees
        server.stdin.write(json.dumps([*task.arguments[2:], str(task.log)]).encode() + b"\n")
        server.stdin.flush()
    return server


def end_of_task(task: Task, process: subprocess.Popen) -> int:
    """Wait for a task and return its exit code; that of a server which crashed under it is its own."""
    if task.server and process.stdout is not None and (answer := process.stdout.readline()):
        return int(answer)
    return process.wait()


def start_process(
    task: Task, environment: Mapping[str, str] | None = None, cwd: Path | None = None, stdout: int | None = None
) -> subprocess.Popen:
    """Start a task as a process of this Python; a worker ends itself when we end, however that happens."""
    if task.log is not None:
        task.log.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if task.log is None else task.log.open("ab") as log:
        command = [sys.executable, *task.arguments]
        streams = {"stdin": subprocess.PIPE, "stdout": log or stdout, "stderr": subprocess.STDOUT if log else None}
        # stdin stays open as long as we live, see worker.end_with_parent. Ctrl-C reaches only us: Windows has process
        # groups for it and ignores sessions, other systems have no such flag.
        apart = {"start_new_session": True, "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        return subprocess.Popen(command, **streams, **apart, env=environment, cwd=cwd)


class LocalExecutor:
    """The processes of this machine, each with its own GPU where there are any. On exit, running ones are ended."""

    def __init__(self, workers: int | None, needs: Resources) -> None:
        """workers: at most so many at a time; None for as many as cores, memory and GPUs allow."""
        self._gpus = list_gpus()
        n_default = default_workers(needs, count_cores(), memory_bytes() / 2**30, len(self._gpus))
        self._free = deque(range(workers or n_default))
        self._running: dict[int, Task] = {}  # by place, which says which GPU
        self._processes: dict[int, tuple[str, subprocess.Popen]] = {}  # by place; servers stay for the next task
        self._ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # place, exit code

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        # A run may be ended anywhere: the same command continues it.
        for _, process in self._processes.values():
            process.terminate()
        for _, process in self._processes.values():
            process.wait()

    @property
    def has_room(self) -> bool:
        """Whether another task may be started."""
        return bool(self._free)

    @property
    def n_running(self) -> int:
        """Tasks that run now."""
        return len(self._running)

    def start(self, task: Task) -> None:
        """Start a task in a free place."""
        place = self._free.popleft()
        # TensorFlow occupies every GPU that it sees.
        gpu = {"CUDA_VISIBLE_DEVICES": self._gpus[place % len(self._gpus)]} if self._gpus else {}
        served, process = self._processes.get(place, ("", None))
        if process is not None and process.stdin is not None and served != task.server:
            process.stdin.close()  # which ends a server
        process = send_task(task, process if served == task.server else None, {**os.environ, **gpu})
        self._running[place], self._processes[place] = task, (task.server, process)
        wait = lambda: self._ended.put((place, end_of_task(task, process)))  # noqa: E731
        threading.Thread(target=wait, daemon=True).start()

    def wait(self, seconds: float) -> list[tuple[Task, int]]:
        """Tasks that ended, with their exit codes (a signal's is negative); returns after `seconds` at the latest."""
        try:
            place, code = self._ended.get(timeout=seconds)
        except queue.Empty:
            return []
        self._free.append(place)
        return [(self._running.pop(place), code)]


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
