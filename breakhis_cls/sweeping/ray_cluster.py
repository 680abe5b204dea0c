"""Runs on a Ray cluster: one task a run, in the same kind of process as on one machine. Ray is imported here only."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ConfigError
from ..modeling import run_folder
from . import tasks
from .tasks import Resources, Task

NODE_DEATHS = 5  # a run survives so many: each time it goes on elsewhere from its last checkpoint
LOCK_PATIENCE_S = 60  # the process of a node that was lost may hold its run's folder a little longer
THREADS = (   # Ray sets OMP_NUM_THREADS for its tasks; a lone run has what the user has
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip


class RayCluster:
    """An Executor over all nodes of a cluster. Folders, and the folder we stand in, are at the same path on each."""

    def __init__(self, address: str | None, workers: int | None, needs: Resources) -> None:
        """address: `auto`, HOST:PORT, or None for a cluster of this machine alone. workers: at most so many runs."""
        self._ray = _imported()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
        self._ray.init(address=address or "local", include_dashboard=False, logging_level="warning")
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._cores = min(
            needs.cores, int(max(node.get("CPU", 1) for node in nodes))
        )  # else no node could ever take it
        self._n_gpus = int(any(node.get("GPU") for node in nodes))
        self._remote = self._ray.remote(
            num_cpus=self._cores,
            num_gpus=self._n_gpus,
            memory=int(needs.gib * 2**30),
            max_retries=NODE_DEATHS,
            scheduling_strategy="SPREAD",
        )(_execute)
        self._limit = workers
        self._waiting: deque[Task] = deque()
        self._at_work: dict[Any, Task] = {}

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # ends our tasks' workers, and with them, by their stdin, the runs

    @property
    def n_running(self) -> int:
        """Tasks at work, as far as the cluster has room for them."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(int(node.get("GPU", 0) if self._n_gpus else node.get("CPU", 0) // self._cores) for node in nodes)
        return min(len(self._at_work), room)

    def submit(self, task: Task) -> None:
        """Hand it to Ray, which queues it, unless `workers` limits us."""
        self._waiting.append(task)
        self._fill()

    def wait(self, seconds: float) -> list[tuple[Task, int]]:
        """Tasks that ended, with their exit codes."""
        ended, _ = self._ray.wait(list(self._at_work), num_returns=1, timeout=seconds)
        found = [(self._at_work.pop(answer), answer) for answer in ended]
        self._fill()
        return [(task, self._code(task, answer)) for task, answer in found]

    def _fill(self) -> None:
        while self._waiting and (self._limit is None or len(self._at_work) < self._limit):
            task = self._waiting.popleft()
            threads = {name: os.environ.get(name) for name in THREADS}
            self._at_work[self._remote.remote(task, threads, Path.cwd())] = task

    def _code(self, task: Task, answer: Any) -> int:
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayError as error:  # nodes died too often, or a node lacks our folder
            if task.log is not None:
                with task.log.open("a", encoding="utf-8") as log:
                    log.write(f"{error}\n")
            return 1


def _execute(task: Task, threads: dict[str, str | None], cwd: Path) -> int:
    """On a node, in a worker of Ray: the process that a machine alone would begin. Returns its exit code."""
    rest = {name: value for name, value in os.environ.items() if name not in THREADS}
    told = {name: value for name, value in threads.items() if value is not None}
    if task.folder is not None:
        run_folder.wait_until_free(task.folder, LOCK_PATIENCE_S)
    process = tasks.start_process(task, rest | told, cwd)
    try:
        return process.wait()
    finally:
        process.kill()


def _imported() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "--executor ray needs Ray, which is not installed; pip install 'breakhis_cls[sweep]', or --executor local"
        ) from None
    return ray
