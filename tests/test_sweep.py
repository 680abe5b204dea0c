"""Sweeps: the plan, the fan-out, and a small one on this machine from images to the report."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from breakhis_cls import config, sweep
from breakhis_cls.errors import ConfigError
from breakhis_cls.sweeping import local, plan, tasks
from breakhis_cls.sweeping.progress import SweepProgress
from breakhis_cls.sweeping.tasks import Resources, Task

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def written(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def quiet(n_tasks):
    return SweepProgress("test", n_tasks, console=Console(quiet=True))


# The plan


def test_every_combination_is_a_run_and_equal_ones_are_one(tmp_path):
    written(tmp_path, "head: {epochs: 7}\n", "base.yaml")
    axes = "{data.magnifications: [[40], [100, 200]], split.fold: [0, 1, 1]}"
    text = f"base: base.yaml\nset: {{tune.part: none}}\naxes: {axes}"
    runs = plan.expand_runs(plan.read_sweep(written(tmp_path, text)), {})
    assert [(run.data.magnifications, run.split.fold) for run in runs] == [
        ((40,), 0), ((40,), 1), ((100, 200), 0), ((100, 200), 1),
    ]  # fmt: skip
    assert {(run.name, run.head.epochs, run.tune.part) for run in runs} == {("mine", 7, "none")}


def test_the_command_line_wins_over_axes_and_set(tmp_path):
    sweeping = plan.read_sweep(written(tmp_path, "set: {head.epochs: 3}\naxes: {split.fold: [0, 1], run.seed: [0, 1]}"))
    runs = plan.expand_runs(sweeping, {"split.fold": 2, "head.epochs": 5})
    assert [(run.split.fold, run.run.seed, run.head.epochs) for run in runs] == [(2, 0, 5), (2, 1, 5)]
    assert len(plan.expand_runs(sweeping, {})) == 4  # the sweep is as it was


def test_overrides_of_the_default_value_count_too(tmp_path):
    path = written(tmp_path, "axes: {split.fold: [1, 2]}")
    _, given, overrides = sweep._parsed(["--config", str(path), "--split.fold=1", "--workers", "3"])
    assert (overrides, given.workers, given.executor) == ({"split.fold": 1}, 3, "local")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("axes: {split.folt: [0]}", "unknown setting 'split.folt'; did you mean 'split.fold'"),
        ("axes: {splt.fold: [0]}", "did you mean 'split.fold'"),
        ("set: {epochs: 3}", "did you mean 'head.epochs'"),
        ("axes: {split.fold: [0, -1]}", "split.fold is -1"),
        ("axes: {split.fold: []}", "axes.split.fold is []"),
        ("axis: {split.fold: [0]}", "unknown setting 'axis'; did you mean 'axes'"),
        ("base: nowhere.yaml", "no such config"),
    ],
)
def test_a_wrong_sweep_is_told_in_one_sentence(tmp_path, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        plan.expand_runs(plan.read_sweep(written(tmp_path, text)), {})


@pytest.mark.parametrize(
    ("name", "n_runs"),
    [("protocol_case", 15), ("protocol_spanhol", 150), ("protocol_kaiko_eva", 5), ("leak_penalty", 45)],
)
def test_the_sweeps_that_ship_have_the_runs_they_say(name, n_runs):
    assert len(plan.expand_runs(plan.read_sweep(CONFIGS / f"{name}.yaml"), {})) == n_runs


def test_bad_input_exits_with_2(tmp_path, capsys):
    assert sweep.main([]) == 2
    assert "--config" in capsys.readouterr().err
    assert sweep.main(["--config", str(written(tmp_path, "axes: {split.folt: [0]}"))]) == 2


# The fan-out, with commands that are no runs


def task(tmp_path, name, code):
    return Task(name, ("-c", code), tmp_path / f"{name}.log")


def test_a_failure_is_tried_again_and_does_not_stop_the_others(tmp_path):
    ran = "open({!r}, 'a').write('x')\n"
    crash = ran.format(str(tmp_path / "crash")) + "import os; print('it hurts', flush=True); os.kill(os.getpid(), 9)"
    refused = ran.format(str(tmp_path / "refused")) + "raise SystemExit(2)"
    second_time = f"import os; there = os.path.exists('{tmp_path}/once'); open('{tmp_path}/once', 'w'); exit(not there)"
    todo = [task(tmp_path, "crashes", crash), task(tmp_path, "refused", refused), task(tmp_path, "once", second_time)]
    todo += [task(tmp_path, f"good-{at}", ran.format(str(tmp_path / f"good-{at}"))) for at in range(3)]
    with local.LocalExecutor(2, tasks.HEAD) as executor:
        failures = tasks.fan_out(todo, executor, 1, quiet(len(todo)))
    assert {failure.task.name: failure.code for failure in failures} == {"crashes": -9, "refused": 2}
    assert (tmp_path / "crash").read_text() == "xx" and (tmp_path / "refused").read_text() == "x"
    assert all((tmp_path / f"good-{at}").read_text() == "x" for at in range(3))
    assert "signal 9" in str(failures[-1]) + str(failures[0]) and any("it hurts" in str(one) for one in failures)


def test_no_more_processes_at_a_time_than_workers(tmp_path):
    (tmp_path / "at-work").mkdir()
    code = f"""if True:
        import os, time
        me = "{tmp_path}/at-work/" + str(os.getpid())
        open(me, "w")
        open("{tmp_path}/seen", "a").write(str(len(os.listdir("{tmp_path}/at-work"))) + " ")
        time.sleep(0.2)
        os.remove(me)"""
    with local.LocalExecutor(2, tasks.HEAD) as executor:
        assert not tasks.fan_out([task(tmp_path, str(at), code) for at in range(5)], executor, 0, quiet(5))
    assert max(map(int, (tmp_path / "seen").read_text().split())) <= 2


def test_each_process_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    code = f"""if True:
        import os, time
        open("{tmp_path}/gpus", "a").write(os.environ["CUDA_VISIBLE_DEVICES"] + " ")
        time.sleep(0.3)"""
    with local.LocalExecutor(None, tasks.HEAD) as executor:
        assert not tasks.fan_out([task(tmp_path, str(at), code) for at in range(2)], executor, 0, quiet(2))
    assert sorted((tmp_path / "gpus").read_text().split()) == ["3", "5"]


def test_workers_fit_cores_memory_and_gpus():
    assert local.default_workers(Resources(cores=1, gib=1.5), cores=8, gib=64, n_gpus=0) == 8
    assert local.default_workers(Resources(cores=1, gib=1.5), cores=8, gib=4, n_gpus=0) == 2
    assert local.default_workers(Resources(cores=4, gib=4), cores=2, gib=2, n_gpus=0) == 1
    assert local.default_workers(Resources(cores=4, gib=4), cores=64, gib=512, n_gpus=3) == 3


def sleeper(tmp_path):
    """A task that says who it is and then sleeps."""
    return task(tmp_path, "sleeper", f"""if True:
        import os, time
        from breakhis_cls.sweeping.worker import end_with_parent
        end_with_parent()
        open("{tmp_path}/pid", "w").write(str(os.getpid()))
        time.sleep(60)""")  # fmt: skip


def pid_of(tmp_path):
    """The sleeper's, once it sleeps."""
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    return int((tmp_path / "pid").read_text())


def test_an_interrupted_sweep_ends_its_processes(tmp_path):
    with pytest.raises(KeyboardInterrupt), local.LocalExecutor(1, tasks.HEAD) as executor:
        executor.submit(sleeper(tmp_path))
        pid_of(tmp_path)
        raise KeyboardInterrupt
    assert not alive(pid_of(tmp_path))


def test_a_process_does_not_outlive_a_killed_sweep(tmp_path):
    parent = (
        "import time; from pathlib import PosixPath; from breakhis_cls.sweeping import tasks\n"
        f"kept = tasks.begin(tasks.{sleeper(tmp_path)!r}); time.sleep(60)"
    )
    started = subprocess.Popen([sys.executable, "-c", parent])
    pid = pid_of(tmp_path)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    wait_for(lambda: not alive(pid))


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def alive(pid):
    """A zombie is dead; in a container nobody may collect an orphan."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_board_counts(capsys):
    board = SweepProgress("mine", 4, n_done_before=2)
    board.running(2)
    assert board.counts() == {"done": "2 of 6", "running": "2", "failed": "0", "waiting": "2", "left": "unknown"}
    board.ended("a", True)
    board.ended("b", False)
    assert "3 of 6 done" in board._line() and "1 failed" in board._line()
    assert len(capsys.readouterr().err.splitlines()) == 2  # not a terminal: a line for each that ended


# The whole way


def settings_file(tmp_path, tree, more=""):
    """Two folds of a head on random features, as cheap as a run can be; a worker needs TensorFlow for each."""
    written(
        tmp_path,
        f"data: {{root: {tree}, cache: {tmp_path}/cache, magnifications: [200]}}\nsplit: {{n_folds: 3}}\n"
        "image: {height_px: 32, width_px: 32}\nmodel: {weights: random}\nhead: {epochs: 2, batch_size: 8}\n"
        f"tune: {{part: none}}\nrun: {{dir: {tmp_path}/runs, reports: {tmp_path}/reports}}\n",
        "base.yaml",
    )
    return written(tmp_path, f"base: base.yaml\naxes: {{split.fold: [0, 1]}}\n{more}", "small.yaml")


@pytest.fixture(scope="module")
def swept(tiny_tree, tmp_path_factory):
    """A sweep on this machine in which fold 1 fails at first, since its folder is taken by a file."""
    here = tmp_path_factory.mktemp("swept")
    return here, settings_file(here, tiny_tree)


def test_a_failed_run_is_told_and_the_next_command_makes_only_it(swept, capfd):
    from breakhis_cls.sweeping import shared

    here, path = swept
    runs = shared.name_runs(plan.expand_runs(plan.read_sweep(path), {}))
    (here / "runs").mkdir()
    runs[1].folder.write_text(
        "in the way"
    )  # the folder of fold 1 cannot be made: exit code 2, which is not tried again
    assert sweep.main(["--config", str(path)]) == 1
    told = capfd.readouterr()
    assert runs[1].folder.name in told.err and "exit code 2" in told.err and "cannot be written" in told.err
    assert runs[0].finished and "1 of 2 are finished" in told.out
    before = (runs[0].folder / "predictions.csv").stat().st_mtime_ns
    runs[1].folder.unlink()
    assert sweep.main(["--config", str(path)]) == 0
    assert runs[1].finished and (runs[0].folder / "predictions.csv").stat().st_mtime_ns == before


def test_a_finished_sweep_starts_nothing_and_reports(swept, capfd, monkeypatch):
    here, path = swept
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert sweep.main(["--config", str(path)]) == 0
    told = capfd.readouterr().out
    assert "nothing to do" in told
    page = Path(re.search(r"report: (.*)", told)[1])
    assert (
        page.is_file()
        and page.parent.parent == here / "reports"
        and page.parent.name.startswith("small-sample-14slides-")
    )


def test_a_run_of_a_sweep_is_that_of_train(swept, tiny_tree):
    from breakhis_cls import train

    here, path = swept
    lone = plan.expand_runs(plan.read_sweep(path), {"run.dir": str(here / "lone")})[0]
    run = train.train_run(config.Config.model_validate(lone.model_dump()), report=False)
    kept = here / "runs" / run.folder.name / "predictions.csv"
    assert (run.folder / "predictions.csv").read_bytes() == kept.read_bytes()
