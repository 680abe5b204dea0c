"""Runs on a Ray cluster: one Ray task a run, in the same kind of process as on one machine. Only this file uses Ray."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from ..errors import ConfigError
from ..files import lock
from .tasks import Resources, Task, Worker

NODE_DEATHS = 5  # that a run survives: each time it continues on another node, from what is in its folder
LOCK_PATIENCE_S = 60.0  # a lost node's process may hold its run's folder a little longer, on a network file system
THREADS = (   # Ray sets OMP_NUM_THREADS for its tasks; a run shall have what it has without Ray
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
)  # fmt: skip


class RayCluster:
    """An executor over all nodes of a cluster. All folders, the current one too, have the same path on each node."""

    def __init__(self, address: str | None, workers: int | None, needs: Resources) -> None:
        """address: `auto`, HOST:PORT, or None for a cluster of this machine alone. workers: at most so many runs; None
        for as many as the cluster has cores for."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports to its makers
        try:
            import ray
        except ImportError:
            raise ConfigError("--executor ray needs Ray, which is missing; pip install -e '.[sweep]'") from None
        self.ray: Any = ray
        ray.init(address=address or "local", include_dashboard=False, logging_level=logging.WARNING)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        # Ray never starts a task that asks for more cores than any node has. A run uses a whole GPU.
        n_cores = min(needs.cores, int(max(node.get("CPU", 1) for node in nodes)))
        self.limit = workers or max(1, int(sum(node.get("CPU", 0) for node in nodes)) // n_cores)
        self.run_remotely = ray.remote(run_on_node).options(
            num_cpus=n_cores, num_gpus=int(any(node.get("GPU") for node in nodes)), memory=int(needs.gib * 2**30),
            max_retries=NODE_DEATHS, scheduling_strategy="SPREAD",  # Ray would otherwise fill one node after the other
        )  # fmt: skip

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()  # ends Ray's workers, and with them the processes that they started

    def run(self, task: Task) -> int:
        """Do a task on a node that has room; returns its exit code, 1 where Ray gave up, which the task's log says."""
        threads = {name: os.environ[name] for name in THREADS if name in os.environ}
        try:
            return self.ray.get(self.run_remotely.remote(task, threads, Path.cwd()))
        except self.ray.exceptions.RayError as error:  # nodes died too often, or a node lacks our folder
            if task.log is not None:
                with task.log.open("a", encoding="utf-8") as log:
                    log.write(f"{error}\n")
            return 1


_kept: dict[str | None, Worker] = {}  # of this process of Ray's, by GPU: it runs one task after the other


def run_on_node(task: Task, threads: dict[str, str], cwd: Path) -> int:
    """Run a task in a process that a Ray worker starts, with our threads and in our folder; returns its exit code."""
    os.chdir(cwd)
    for name in THREADS:
        os.environ.pop(name, None)
    os.environ |= threads
    if task.folder is not None and (path := task.folder / ".lock").is_file():
        with suppress(Timeout), lock(path, LOCK_PATIENCE_S):
            pass  # nobody holds it any more; the run itself takes it
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = _kept.pop(gpu, None)
    if found is None or not found.can_do(task):
        found = Worker(task.kind)
    code = found.run(task)
    if found.can_do(task):
        _kept[gpu] = found
    else:
        found.end()
    return code
