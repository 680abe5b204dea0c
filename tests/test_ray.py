"""Sweeps over a Ray cluster of two nodes on this machine: the same bytes, and a node that is killed half-way."""

import os
import signal
import time

import pytest
from rich.console import Console
from test_sweep import settings_file

from breakhis_cls import sweep, train
from breakhis_cls.config import Config
from breakhis_cls.errors import ConfigError
from breakhis_cls.sweeping import plan, ray_cluster, shared, tasks
from breakhis_cls.sweeping.progress import SweepProgress
from breakhis_cls.sweeping.tasks import Task

N_RUNS, N_STEPS, STEP_S = 6, 16, 0.2
STAND_IN = f"""if True:
    # What a run is to a cluster: it locks its folder, goes on from its last step, and does nothing when it is finished.
    import fcntl, os, sys, time
    from pathlib import Path
    from breakhis_cls.sweeping.worker import end_with_parent
    end_with_parent()
    folder = Path(sys.argv[1])
    lock = (folder / ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(2)
    with (folder / "begun").open("a") as begun:
        begun.write(os.environ["RAY_RAYLET_PID"] + " " + str(os.getppid()) + "\\n")
    if not (folder / "finished").exists():
        for step in range(len(list(folder.glob("step-*"))), {N_STEPS}):
            time.sleep({STEP_S})
            (folder / f"step-{{step}}").touch()
            with (folder / "steps").open("a") as steps:
                steps.write(f"{{step}} ")
        with (folder / "finished").open("a") as finished:
            finished.write("x")
"""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each; the first is the head."""
    pytest.importorskip("ray", reason="Ray is not installed; it comes with the extra `sweep`")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = made.add_node(num_cpus=1)
    yield made, second
    made.shutdown()


def test_a_cluster_gives_the_bytes_of_one_process(cluster, tiny_tree, tmp_path):
    path = settings_file(tmp_path, tiny_tree)
    assert sweep.main(["--config", str(path), "--executor", "ray", "--ray_address", cluster[0].address]) == 0
    for far in shared.name_runs(plan.expand_runs(plan.read_sweep(path), {})):
        place = {"run": far.settings.run.model_copy(update={"dir": tmp_path / "lone"})}
        lone = train.train_run(Config.model_validate(far.settings.model_copy(update=place)), report=False)
        assert (far.folder / "predictions.csv").read_bytes() == (lone.folder / "predictions.csv").read_bytes()


def test_nothing_is_lost_or_done_twice_when_a_node_is_killed(cluster, tmp_path):
    made, second = cluster
    folders = [tmp_path / f"run-{at}" for at in range(N_RUNS)]
    todo = [Task(at.name, ("-c", STAND_IN, str(at)), tmp_path / f"{at.name}.log", at) for at in folders]
    for folder in folders:
        folder.mkdir()
    board = Killer(second, folders)
    with ray_cluster.RayCluster(made.address, None, tasks.HEAD) as executor:
        failures = tasks.fan_out(todo, executor, 0, board)  # 0: a node's death is no failure of a run
    assert board.struck, "no run was under way on the second node"
    assert not failures, "\n".join(map(str, failures))
    assert all((folder / "finished").read_text() == "x" for folder in folders)
    begun = {folder: len((folder / "begun").read_text().splitlines()) for folder in folders}
    assert begun[board.struck] == 2 and sum(begun.values()) == N_RUNS + 1
    steps = list(map(int, (board.struck / "steps").read_text().split()))
    assert steps == list(range(N_STEPS)), "it did not go on from its last step"


class Killer(SweepProgress):
    """Kills the second node, its raylet and the worker, with SIGKILL as soon as a run of its own is half-way."""

    def __init__(self, node, folders):
        super().__init__("test", len(folders), console=Console(quiet=True))
        self.raylet = node.all_processes["raylet"][0].process.pid
        self.folders, self.struck = folders, None

    def running(self, n):
        for folder in self.folders if self.struck is None else []:
            if N_STEPS // 4 <= len(list(folder.glob("step-*"))) < N_STEPS // 2:
                raylet, worker = map(int, (folder / "begun").read_text().split())
                if raylet != self.raylet:
                    continue
                for pid in (raylet, worker):
                    os.kill(pid, signal.SIGKILL)
                self.struck = folder
                return


def test_a_run_waits_for_a_lock_that_is_about_to_be_free(tmp_path):
    import fcntl

    from breakhis_cls.modeling import run_folder

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        run_folder.wait_until_free(tmp_path, 0.5)
        assert 0.5 <= time.monotonic() - started < 5
    started = time.monotonic()
    run_folder.wait_until_free(tmp_path, 60)
    run_folder.wait_until_free(tmp_path / "not-there", 60)
    assert time.monotonic() - started < 5


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'breakhis_cls\[sweep\]'"):
        ray_cluster.RayCluster(None, None, tasks.HEAD)
