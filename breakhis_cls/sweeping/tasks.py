"""Runs as processes: what a task needs, how it is begun, and the fan-out that no failure of one run can stop."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import BAD_INPUT, DONE
from .progress import SweepProgress

LAST_LINES = 8  # of a failed run's log that are shown
POLL_S = 0.5


@dataclass(frozen=True)
class Resources:
    """Of one run. Every run has the threads of a lone one, since threads within an op move bits: on a machine of few
    cores two runs at once share them, and `cores` says only how many runs are worth having side by side."""

    cores: int
    gib: float


# Measured at 230x350 px: a frozen head is start-up of one thread and 0.9 GiB; conv5 in batches of 16 took 1.8 GiB.
HEAD, TUNE = Resources(cores=1, gib=1.5), Resources(cores=4, gib=4.0)


@dataclass(frozen=True)
class Task:
    """A command in a process of its own; finished work is found again by the command, so it may run twice."""

    name: str
    arguments: tuple[str, ...]
    """What Python is given."""
    log: Path | None
    """Where its output is added to; None: where ours goes."""
    folder: Path | None = None
    """The run's, whose lock must be free."""

    @property
    def last_lines(self) -> str:
        """The end of the log."""
        if self.log is None or not self.log.is_file():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-LAST_LINES:])


@dataclass(frozen=True)
class Failure:
    """A task that was given up."""

    task: Task
    code: int

    def __str__(self) -> str:
        how = f"signal {-self.code}" if self.code < 0 else f"exit code {self.code}"
        return f"{self.task.name} failed ({how}); the end of {self.task.log}:\n{self.task.last_lines}"


class Executor(Protocol):
    """Where tasks run. Used as a context: on the way out, whatever still runs is ended and waited for."""

    @property
    def n_running(self) -> int:
        """Tasks at work now."""
        ...

    def submit(self, task: Task) -> None:
        """Run it when there is room."""
        ...

    def wait(self, seconds: float) -> list[tuple[Task, int]]:
        """Tasks that ended, with their exit codes (a signal's is negative); returns after `seconds` at the latest."""
        ...

    def __enter__(self) -> Executor: ...

    def __exit__(self, *_: object) -> None: ...


def fan_out(tasks: Sequence[Task], executor: Executor, retries: int, board: SweepProgress) -> list[Failure]:
    """Run all tasks; returns those that failed for good. A task that was killed or crashed is tried again up to
    `retries` times; one that calls its settings wrong (exit code 2) is not, since it would say the same again."""
    tries, failures, n_left = Counter[str](), [], len(tasks)
    for task in tasks:
        executor.submit(task)
    while n_left:
        for task, code in executor.wait(POLL_S):
            tries[task.name] += 1
            if code not in (DONE, BAD_INPUT) and tries[task.name] <= retries:
                executor.submit(task)
                continue
            n_left -= 1
            if code != DONE:
                failures.append(Failure(task, code))
            board.ended(task.name, code == DONE)
        board.running(executor.n_running)
    return failures


def start_process(
    task: Task, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen:
    """Start a task. We hold its stdin and never write: when we die, however, the pipe closes, which ends the child."""
    if task.log is not None:
        task.log.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if task.log is None else task.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *task.arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT if task.log else None,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            start_new_session=True,  # Ctrl-C reaches us alone, and we end the children
        )


def stop_processes(processes: Sequence[subprocess.Popen]) -> None:
    """Ask them to end and wait. A run may be ended anywhere: the same command goes on from its last checkpoint."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()
