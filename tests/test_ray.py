"""Sweeps over a Ray cluster of two nodes on this machine: the same bytes, and a node that is killed half-way."""

import os
import runpy
import signal
import threading
import time

import pytest
from filelock import FileLock
from test_sweep import HANGS_S, settings_file

from breakhis_cls import config, sweep, train
from breakhis_cls.errors import ConfigError
from breakhis_cls.sweeping import plan, ray_cluster, tasks
from breakhis_cls.sweeping.tasks import Task

N_RUNS, N_STEPS, STEP_S = 6, 16, 0.2
STAND_IN = f"""if True:
    # What a run is to a cluster: it locks its folder, goes on from its last step, and does nothing when it is finished.
    import os, sys, time
    from filelock import FileLock, Timeout
    from pathlib import Path
    folder = Path(__file__).parent
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
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
    sys.exit(0)
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


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_one_process(cluster, tiny_tree, tmp_path):
    path = settings_file(tmp_path, tiny_tree)
    assert sweep.main(["--config", str(path), "--executor", "ray", "--ray-address", cluster[0].address]) == 0
    for far in plan.name_runs(plan.expand_runs(plan.read_sweep(path), {})):
        lone = train.train_run(config.change_settings(far.settings, {"run.dir": tmp_path / "lone"}), report=False)
        assert (far.folder / "predictions.csv").read_bytes() == (lone.folder / "predictions.csv").read_bytes()


def test_nothing_is_lost_or_done_twice_when_a_node_is_killed(cluster, tmp_path):
    made, second = cluster
    folders = [tmp_path / f"run-{at}" for at in range(N_RUNS)]
    todo = [Task(at.name, runpy.run_path, (at / "run.py",), tmp_path / f"{at.name}.log", at) for at in folders]
    for folder in folders:
        folder.mkdir()
        (folder / "run.py").write_text(STAND_IN)
    raylet, struck, ended = second.all_processes["raylet"][0].process.pid, [], threading.Event()

    def strike():
        """Kill the second node, its raylet and the worker, as soon as a run on it is half-way."""
        while not struck and not ended.wait(0.1):
            for folder in folders:
                if not struck and N_STEPS // 4 <= len(list(folder.glob("step-*"))) < N_STEPS // 2:
                    pids = [int(pid) for pid in (folder / "begun").read_text().split()]
                    if pids[0] == raylet:
                        struck.append(folder)
                        for pid in pids:
                            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=strike).start()
    with ray_cluster.RayCluster(made.address, None, tasks.HEAD) as executor:
        failures = tasks.fan_out(todo, executor, 0, "test")  # 0: no run failed, its node did
    ended.set()
    assert struck, "no run was under way on the second node"
    assert not failures, "\n".join(failures)
    assert all((folder / "finished").read_text() == "x" for folder in folders)
    begun = {folder: len((folder / "begun").read_text().splitlines()) for folder in folders}
    assert begun[struck[0]] == 2 and sum(begun.values()) == N_RUNS + 1
    steps = list(map(int, (struck[0] / "steps").read_text().split()))
    assert steps == list(range(N_STEPS)), "it did not go on from its last step"


def test_a_run_waits_for_a_lock_that_is_about_to_be_free(tmp_path, monkeypatch):
    """A lost node's process may hold it a little longer; it is not waited for for ever, and is free afterwards."""
    code = f"import sys; from filelock import FileLock; FileLock('{tmp_path}/.lock', timeout=0).acquire(); sys.exit(0)"
    (tmp_path / "run.py").write_text(code)
    task = Task("run", runpy.run_path, (tmp_path / "run.py",), tmp_path / "log", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_cluster, "LOCK_PATIENCE_S", 0.5)
    with FileLock(tmp_path / ".lock"):
        started = time.monotonic()
        assert ray_cluster.run_on_node(task, {}, tmp_path) == 1
        assert time.monotonic() - started >= 0.5
    monkeypatch.setattr(ray_cluster, "LOCK_PATIENCE_S", HANGS_S)
    assert ray_cluster.run_on_node(task, {}, tmp_path) == 0


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.\[sweep\]'"):
        ray_cluster.RayCluster(None, None, tasks.HEAD)
