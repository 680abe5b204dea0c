"""Runs on a Ray cluster: one Ray task a run, in the same kind of process as on one machine. Only this file uses Ray."""

from __future__ import annotations

import logging
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from ..errors import ConfigError
from ..files import lock
from . import tasks
from .tasks import Resources, Task

NODE_DEATHS = 5  # that a run survives: each time it continues on another node, from what is in its folder
LOCK_PATIENCE_S = 60.0  # a lost node's process may hold its run's folder a little longer, on a network file system
THREADS = (   # Ray sets OMP_NUM_THREADS for its tasks; a run shall have what it has without Ray
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip


class RayCluster:
    """An Executor over all nodes of a cluster. All folders, the current one too, have the same path on each node."""

    def __init__(self, address: str | None, workers: int | None, needs: Resources) -> None:
        """address: `auto`, HOST:PORT, or None for a cluster of this machine alone. workers: at most so many runs."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
        try:
            import ray
        except ImportError:
            raise ConfigError("--executor ray needs Ray, which is missing; pip install -e '.[sweep]'") from None
        self._ray, self._limit = ray, workers
        ray.init(address=address or "local", include_dashboard=False, logging_level=logging.WARNING)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        # Ray never starts a task that asks for more cores than any node has.
        self._cores = min(needs.cores, int(max(node.get("CPU", 1) for node in nodes)))
        self._n_gpus = int(any(node.get("GPU") for node in nodes))  # a run uses a whole GPU
        memory = int(needs.gib * 2**30)
        self._run_remotely = ray.remote(run_on_node).options(
            num_cpus=self._cores, num_gpus=self._n_gpus, memory=memory, max_retries=NODE_DEATHS,
            scheduling_strategy="SPREAD",  # over the nodes: Ray would otherwise fill one after the other
        )  # fmt: skip
        self._running: dict[Any, Task] = {}

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # ends our workers, and the runs with them, since their stdin closes

    @property
    def has_room(self) -> bool:
        """Whether another task may be started: Ray queues as many as it is given, unless `workers` limits us."""
        return self._limit is None or len(self._running) < self._limit

    @property
    def n_running(self) -> int:
        """Tasks that run now: of those that Ray was given, as many as the cluster has room for."""
        kind, needed = ("GPU", 1) if self._n_gpus else ("CPU", self._cores)
        return min(len(self._running), int(self._ray.cluster_resources().get(kind, 0) // needed))

    def start(self, task: Task) -> None:
        """Give a task to Ray."""
        threads = {name: os.environ[name] for name in THREADS if name in os.environ}
        self._running[self._run_remotely.remote(task, threads, Path.cwd())] = task

    def wait(self, seconds: float) -> list[tuple[Task, int]]:
        """Tasks that ended, with their exit codes; 1 where Ray gave up, which the task's log then says."""
        found = []
        for answer in self._ray.wait(list(self._running), num_returns=1, timeout=seconds)[0]:
            task, code = self._running.pop(answer), 1
            try:
                code = self._ray.get(answer)
            except self._ray.exceptions.RayError as error:  # nodes died too often, or a node lacks our folder
                if task.log is not None:
                    with task.log.open("a", encoding="utf-8") as log:
                        log.write(f"{error}\n")
            found.append((task, code))
        return found


_SERVERS: dict[tuple[str, str | None], subprocess.Popen] = {}


def run_on_node(task: Task, threads: dict[str, str], cwd: Path) -> int:
    """Run a task in a process that a Ray worker starts, with our threads and in our folder; returns its exit code."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | threads
    if task.folder is not None and (path := task.folder / ".lock").is_file():
        with suppress(Timeout), lock(path, LOCK_PATIENCE_S):
            pass  # nobody holds it any more; the run itself takes it
    # Ray runs one task after the other in a process, which keeps the server that it started.
    place = task.server, environment.get("CUDA_VISIBLE_DEVICES")
    process = tasks.send_task(task, _SERVERS.pop(place, None), environment, cwd)
    try:
        code = tasks.end_of_task(task, process)
        if task.server and process.poll() is None:
            _SERVERS[place] = process
        return code
    finally:
        if process not in _SERVERS.values():
            process.kill()
