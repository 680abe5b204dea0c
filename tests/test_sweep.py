"""Sweeps: the plan, the processes, and a small sweep on this machine from images to the report."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import needs_signals

from breakhis_cls import config, sweep, train
from breakhis_cls.data import protocols
from breakhis_cls.errors import ConfigError
from breakhis_cls.modeling import features
from breakhis_cls.sweeping import plan, tasks, worker
from breakhis_cls.sweeping.tasks import LocalExecutor, Resources, Task

HANGS_S = 600  # no test waits so long unless something hangs


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def wait_for(condition):
    until = time.monotonic() + HANGS_S
    while not condition():
        assert time.monotonic() < until, "it hangs"
        time.sleep(0.05)


# --- the plan ---


def test_every_combination_is_a_run_and_equal_ones_are_one(tmp_path):
    write(tmp_path, "head: {epochs: 7}\n", "base.yaml")
    axes = "{data.magnifications: [[40], [100, 200]], split.fold: [0, 1, 1]}"
    text = f"base: base.yaml\nset: {{tune.part: none}}\naxes: {axes}"
    runs = plan.expand_runs(plan.read_sweep(write(tmp_path, text)), {})
    assert [(run.data.magnifications, run.split.fold) for run in runs] == [
        ((40,), 0), ((40,), 1), ((100, 200), 0), ((100, 200), 1),
    ]  # fmt: skip
    assert {(run.name, run.head.epochs, run.tune.part) for run in runs} == {("mine", 7, "none")}


def test_a_null_adds_the_same_runs_on_random_backbones(tmp_path):
    runs = plan.expand_runs(plan.read_sweep(write(tmp_path, "null_seeds: 2\naxes: {split.fold: [0, 1]}")), {})
    found = [(run.split.fold, run.model.weights, run.run.seed) for run in runs]
    one = [("imagenet", 0), ("random", 0), ("random", 1)]
    assert found == [(fold, *rest) for fold in (0, 1) for rest in one]
    tuned = "null_seeds: 2\nset: {tune.part: conv4}\naxes: {split.fold: [0]}"
    assert len(plan.expand_runs(plan.read_sweep(write(tmp_path, tuned)), {})) == 1


def test_the_command_line_wins_over_axes_and_set(tmp_path):
    sweeping = plan.read_sweep(write(tmp_path, "set: {head.epochs: 3}\naxes: {split.fold: [0, 1], run.seed: [0, 1]}"))
    runs = plan.expand_runs(sweeping, {"split.fold": 2, "head.epochs": 5})
    assert [(run.split.fold, run.run.seed, run.head.epochs) for run in runs] == [(2, 0, 5), (2, 1, 5)]
    assert len(plan.expand_runs(sweeping, {})) == 4  # the sweep itself is unchanged


def test_options_count_for_every_run_even_with_the_value_of_the_first(tmp_path):
    path = write(tmp_path, "axes: {split.fold: [1, 2]}")
    options = ["--split.fold=1", "--run.no_deterministic", "--workers", "3", "--name", "other"]
    sweeping, arguments, overrides = sweep.read_command(["--config", str(path), *options])
    assert set(overrides) == {"split.fold", "run.deterministic"}
    assert (arguments.workers, arguments.executor) == (3, "local")
    [run] = plan.expand_runs(sweeping, overrides)
    assert (run.name, run.split.fold, run.run.deterministic) == ("other", 1, False)


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_an_invalid_sweep_is_explained_in_one_sentence(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan.expand_runs(plan.read_sweep(write(tmp_path, text)), {})


@pytest.mark.parametrize(
    ("name", "n_runs"),
    [("protocol_case", 5), ("protocol_spanhol", 50), ("protocol_kaiko_eva", 1), ("leak_penalty", 15)],
)
@pytest.mark.parametrize("place", ["{}", "{}.yaml", "configs/{}.yaml", "configs/sweeps/{}.yaml"])
def test_sweeps_that_ship_are_found_from_any_folder_by_name_and_by_old_path(tmp_path, monkeypatch, name, n_runs, place):
    monkeypatch.chdir(tmp_path)
    runs = plan.expand_runs(plan.read_sweep(Path(place.format(name))), {})
    assert len(runs) == n_runs and {run.name for run in runs} == {name}


@pytest.mark.parametrize(
    "base", ["binary_200x", "binary_200x.yaml", "configs/binary_200x.yaml", "../configs/binary_200x.yaml"]
)
def test_a_base_lies_beside_the_sweep_or_is_a_config_that_ships(tmp_path, monkeypatch, base):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    if base.startswith(".."):
        (tmp_path / "configs").mkdir()
        write(tmp_path / "configs", "data: {magnifications: [200]}", "binary_200x.yaml")
    (run,) = plan.expand_runs(plan.read_sweep(write(tmp_path / "sweeps", f"base: {base}")), {})
    assert (run.data.magnifications, run.name) == ((200,), "mine")


def test_a_base_is_swept_over_all_of_its_folds_as_train_would_name_them(tmp_path):
    settings = config.Config(name="mine", split=config.Split(n_folds=3, fold=1), head=config.Head(C=0.2))
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", config.dump_config(settings), "config.yaml")
    for base in ("run", "run/config.yaml"):
        sweeping, _, overrides = sweep.read_command(["--base", str(tmp_path / base)])
        runs = plan.expand_runs(sweeping, overrides)
        assert runs == [config.change_settings(settings, {"split.fold": fold}) for fold in range(3)]
    with pytest.raises(ConfigError, match="expected a sweep"):
        sweep.read_command(["--base", "demo", "--config", "protocol_case"])


def test_bad_input_exits_with_2(tmp_path, capsys):
    assert sweep.main([]) == 2
    assert "--config" in capsys.readouterr().err
    assert sweep.main(["--config", str(write(tmp_path, "axes: {split.folt: [0]}"))]) == 2


# --- processes, with tasks that are no runs ---


def task(folder, name, code):
    # Not a function of this module, whose import would change the environment (conftest).
    return Task(name, exec, (code, {}), folder / f"{name}.log")


def run_all(todo, workers=2, retries=0):
    """Run tasks on this machine; returns the messages of those that failed."""
    with LocalExecutor(workers, tasks.HEAD) as executor:
        return tasks.fan_out(todo, executor, retries, "test")


@needs_signals
def test_a_crashed_task_is_tried_again_and_does_not_stop_the_others(tmp_path):
    append = "open({!r}, 'a').write('x')\n"
    crash = append.format(str(tmp_path / "crash")) + "import os; print('broken', flush=True); os.kill(os.getpid(), 9)"
    refused = append.format(str(tmp_path / "refused")) + "raise SystemExit(2)"
    second_try = f"import os; there = os.path.exists('{tmp_path}/once'); open('{tmp_path}/once', 'w'); exit(not there)"
    todo = [task(tmp_path, "crashes", crash), task(tmp_path, "refused", refused), task(tmp_path, "once", second_try)]
    todo += [task(tmp_path, f"good-{at}", append.format(str(tmp_path / f"good-{at}"))) for at in range(3)]
    failures = sorted(run_all(todo, retries=1))
    assert len(failures) == 2 and "crashes failed (signal 9)" in failures[0] and "broken" in failures[0]
    assert "refused failed (exit code 2)" in failures[1]
    assert (tmp_path / "crash").read_text() == "xx" and (tmp_path / "refused").read_text() == "x"
    assert all((tmp_path / f"good-{at}").read_text() == "x" for at in range(3))


def test_no_more_processes_at_a_time_than_workers(tmp_path):
    (tmp_path / "running").mkdir()
    code = f"""if True:
        import os, time
        me = "{tmp_path}/running/" + str(os.getpid())
        open(me, "w")
        open("{tmp_path}/seen", "a").write(str(len(os.listdir("{tmp_path}/running"))) + " ")
        time.sleep(0.2)
        os.remove(me)"""
    assert not run_all([task(tmp_path, str(at), code) for at in range(5)])
    assert max(map(int, (tmp_path / "seen").read_text().split())) <= 2


def test_each_process_has_its_own_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    code = f"""if True:
        import os, time
        open('{tmp_path}/gpus', 'a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' ')
        time.sleep({HANGS_S})"""
    with LocalExecutor(None, tasks.HEAD) as executor, ThreadPool(3) as threads:
        threads.map_async(executor.run, [task(tmp_path, str(at), code) for at in range(3)])
        wait_for(lambda: (tmp_path / "gpus").is_file() and len((tmp_path / "gpus").read_text().split()) == 2)
        assert executor.free.empty()  # the third waits
    assert sorted((tmp_path / "gpus").read_text().split()) == ["3", "5"]


def test_workers_fit_cores_memory_and_gpus():
    assert tasks.default_workers(Resources(cores=1, gib=1.5), cores=8, gib=64, n_gpus=0) == 8
    assert tasks.default_workers(Resources(cores=1, gib=1.5), cores=8, gib=4, n_gpus=0) == 2
    assert tasks.default_workers(Resources(cores=4, gib=4), cores=2, gib=2, n_gpus=0) == 1
    assert tasks.default_workers(Resources(cores=4, gib=4), cores=64, gib=512, n_gpus=3) == 3


def sleeper(folder):
    """A task that writes its process id and then sleeps."""
    code = f"import os, time; open('{folder}/pid', 'w').write(str(os.getpid())); time.sleep({HANGS_S})"
    return task(folder, "sleeper", code)


def sleeper_pid(folder):
    wait_for(lambda: (folder / "pid").is_file() and (folder / "pid").read_text())
    return int((folder / "pid").read_text())


def is_alive(pid):
    """A zombie is not: in a container an orphan may never be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_signals
def test_an_interrupted_sweep_ends_its_processes(tmp_path):
    def interrupt():
        for pid in (sleeper_pid(tmp_path), os.getpid()):  # Ctrl-C reaches the whole group; we end the processes
            os.kill(pid, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a worker of pytest-xdist ignores
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all([sleeper(tmp_path)], retries=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_alive(sleeper_pid(tmp_path))


@needs_signals
def test_a_process_does_not_outlive_a_killed_sweep(tmp_path):
    code = sleeper(tmp_path).arguments[0]
    parent = (
        "from breakhis_cls.sweeping import tasks\n"
        f"executor = tasks.LocalExecutor(1, tasks.HEAD)\n"
        f"executor.run(tasks.Task('sleeper', exec, ({code!r}, {{}})))"
    )
    started = subprocess.Popen([sys.executable, "-c", parent])
    pid = sleeper_pid(tmp_path)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    wait_for(lambda: not is_alive(pid))


def test_one_process_trains_many_heads_and_a_crash_costs_the_run_under_way(tmp_path, monkeypatch):
    """The first process is killed under its first run; the next one trains them all, to the bytes of lone runs."""
    official = protocols.official_images().query("magnification == 400")
    values = (
        np.random.default_rng(0).normal(0, 1, (len(official), 3)) + (official["label"] == "benign").to_numpy()[:, None]
    )
    official[["file"]].assign(f0=values[:, 0], f1=values[:, 1], f2=values[:, 2]).to_csv(tmp_path / "mine.csv")
    text = (
        f"set: {{features.source: {tmp_path}/mine.csv, data.magnifications: [400], run.dir: {tmp_path}/runs, "
        f"run.reports: {tmp_path}/reports}}\naxes: {{split.fold: [0, 1], head.kind: [logistic, knn, prototype]}}"
    )
    started = []

    class Watched(tasks.Worker):
        def __init__(self, kind, *others):
            super().__init__(kind, *others)
            started.append(kind)
            if kind and started.count(kind) == 1:
                self.process.kill()

    monkeypatch.setattr(tasks, "Worker", Watched)
    assert sweep.main(["--config", str(write(tmp_path, text)), "--workers", "1"]) == 0
    assert started == ["", "True auto", "True auto"]
    runs = plan.name_runs(plan.expand_runs(plan.read_sweep(tmp_path / "mine.yaml"), {}))
    assert len(runs) == 6 and all(run.finished for run in runs)
    assert {len((run.folder / "split.csv").read_text().splitlines()) for run in runs} == {
        1 + 1_795
    }  # 13412 once, but for a copy of another number
    for run in runs[:3]:
        lone = train.train_run(config.change_settings(run.settings, {"run.dir": tmp_path / "lone"}), report=False)
        assert (lone.folder / "predictions.csv").read_bytes() == (run.folder / "predictions.csv").read_bytes()
        whole, swept = (json.loads((one.folder / "metrics.json").read_text()) for one in (lone, run))
        assert whole["pooled"]["roc_auc"]["value"] == swept["pooled"]["roc_auc"]["value"]
        assert (whole["intervals"]["n_resamples"], swept["intervals"]["n_resamples"]) == (10_000, 0)


# --- from images to the report ---


def settings_file(folder, tree):
    """A sweep over two folds of a head on random features, as cheap as a run can be; each worker needs TensorFlow."""
    write(
        folder,
        f"data: {{root: {tree}, cache: {folder}/cache, magnifications: [200]}}\nsplit: {{n_folds: 3}}\n"
        "image: {height_px: 32, width_px: 32}\nmodel: {weights: random}\nhead: {epochs: 2, batch_size: 8}\n"
        f"tune: {{part: none}}\nrun: {{dir: {folder}/runs, reports: {folder}/reports}}\n",
        "base.yaml",
    )
    return write(folder, "base: base.yaml\naxes: {split.fold: [0, 1]}\n", "small.yaml")


@pytest.fixture(scope="module")
def swept(tiny_tree, tmp_path_factory):
    """The command, the runs, exit code and output of a sweep in which fold 1 fails: a file is in its folder's place."""
    here = tmp_path_factory.mktemp("swept")
    path = settings_file(here, tiny_tree)
    runs = plan.name_runs(plan.expand_runs(plan.read_sweep(path), {}))
    (here / "runs").mkdir()
    runs[1].folder.write_text("in the way")
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
        code = sweep.main(["--config", str(path)])
    return ["--config", str(path)], runs, code, output.getvalue()


def test_a_failed_run_is_reported_and_does_not_stop_the_others(swept):
    _, runs, code, output = swept
    assert code == 1 and runs[0].finished and "1 of 2 runs are finished" in output
    assert f"{runs[1].folder.name} failed (exit code 2)" in output and "no file in its place" in output


def test_the_same_command_trains_what_is_missing_and_then_nothing(swept, capfd, monkeypatch):
    command, runs, _, _ = swept
    before = (runs[0].folder / "predictions.csv").stat().st_mtime_ns
    runs[1].folder.unlink()
    assert sweep.main(command) == 0
    assert runs[1].finished and (runs[0].folder / "predictions.csv").stat().st_mtime_ns == before
    monkeypatch.setattr(tasks, "Worker", lambda *_: pytest.fail("a process was started"))
    capfd.readouterr()
    assert sweep.main(command) == 0
    output = capfd.readouterr().out
    assert "nothing to do" in output and "2 of 2 runs are finished" in output and "result: Binary: ROC AUC " in output
    assert re.search(r"^small-2-folds: .* tested$", output, re.MULTILINE) and "Predicted label  benign" in output
    page = Path(re.search(r"^report: (.*)", output, re.MULTILINE)[1])
    pooled = json.loads((page.parent / "small-2-folds/metrics.json").read_text(encoding="utf-8"))["pooled"]
    tested = [pd.read_csv(run.folder / "predictions.csv")["part"].eq("test").sum() for run in runs]
    assert pooled["roc_auc"]["n_images"] == sum(tested)
    assert '<a href="small-2-folds/index.html">' in page.read_text(encoding="utf-8")
    assert (page.parent / "small-2-folds/index.html").is_file()
    assert page.is_file() and page.parent.parent == runs[0].settings.run.reports
    assert page.parent.name.startswith("small-sample-14slides-")


def test_a_sweeps_run_is_the_one_that_train_makes(swept, tmp_path):
    """Same name, same bytes."""
    _, runs, _, _ = swept
    assert not (runs[0].folder / "model.keras").exists()  # a frozen backbone is not saved again for each run
    lone = config.change_settings(runs[0].settings, {"run.dir": tmp_path, "run.save_model": True})
    run = train.train_run(lone, report=False)
    assert (run.folder / "model.keras").is_file()
    assert run.folder.name == runs[0].folder.name
    assert (run.folder / "predictions.csv").read_bytes() == (runs[0].folder / "predictions.csv").read_bytes()


@pytest.mark.parametrize(("changes", "n"), [({}, 1), ({"head.epochs": 0, "tune.part": "all"}, 0)])
def test_a_sweep_prepares_the_features_that_its_runs_read(changes, n, tiny_tree, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(features, "backbone_features", lambda *_: calls.append(_))
    given = config.Config(
        data=config.Data(root=str(tiny_tree), cache=tmp_path), image=config.Image(height_px=23, width_px=35)
    )
    worker.prepare(config.change_settings(given, changes))
    assert len(calls) == n
