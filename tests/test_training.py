"""One run of a tiny backbone: equal bytes after a kill, class weights, and a run that saves its head alone."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import needs_signals
from test_story import settings
from tiny_backbone import TINY

from breakhis_cls import config, errors, train
from breakhis_cls.data import dataset as datasets
from breakhis_cls.modeling import backbones, features, fit, network, training
from breakhis_cls.modeling.run_folder import RunFolder

HERE = Path(__file__).parent
EVERYTHING = {
    "head": {"kind": "keras"},
    "augment": {"stain": 0.3},
}
FROZEN = {"tune": {"part": "none"}, "run": {"save_model": False}}


class Interruption(Exception):
    pass


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "ResNet50", TINY)


@pytest.fixture(scope="module")
def undisturbed(tiny_tree, tmp_path_factory):
    here = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(backbones.BACKBONES, "ResNet50", TINY)
        return train.train_run(settings(tiny_tree, here, **EVERYTHING), report=False)


def _assert_same(run, other):
    assert run.folder.name == other.folder.name
    assert (run.folder / "predictions.csv").read_bytes() == (other.folder / "predictions.csv").read_bytes()
    histories = [pd.read_csv(one.folder / "history.csv").drop(columns="seconds") for one in (run, other)]
    pd.testing.assert_frame_equal(*histories)
    weights = [network.load_run_model(one.folder).get_weights() for one in (run, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_run_interrupted_at_every_stage_ends_in_the_same_bytes(undisturbed, tiny_tree, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    moved.symlink_to(tiny_tree)  # where the images are changes neither bytes nor name
    given = settings(moved, tmp_path, **EVERYTHING)
    on_epoch_end = fit.EpochCheckpoint.on_epoch_end

    def interrupt(*_, **__):
        raise Interruption

    def interrupt_after_an_epoch(phase):
        def patched(self, epoch, logs=None):
            on_epoch_end(self, epoch, logs)
            if self.folder.name == phase:
                raise Interruption

        return patched

    for owner, name, replacement in (
        (features, "atomic_path", interrupt),
        (fit.EpochCheckpoint, "on_epoch_end", interrupt_after_an_epoch("head")),
        (fit.EpochCheckpoint, "on_epoch_end", interrupt_after_an_epoch("tune")),
        (training, "atomic_path", interrupt),  # model.keras
        (RunFolder, "write_predictions", interrupt),
    ):
        with monkeypatch.context() as patched, pytest.raises(Interruption):
            patched.setattr(owner, name, replacement)
            train.train_run(given, report=False)
    _assert_same(train.train_run(given, report=False), undisturbed)


KILLED = """
import os, pathlib, sys
import conftest, tiny_backbone
from breakhis_cls import config, train
from breakhis_cls.modeling import backbones, devices
devices.prepare(deterministic=True)
from breakhis_cls.modeling import features, fit
backbones.BACKBONES["ResNet50"] = tiny_backbone.TINY
features.extract_apart = features.extract
write_text = fit.write_text
def kill(path, text):
    if sys.argv[2] in str(path):
        os.kill(os.getpid(), int(sys.argv[3]))
    write_text(path, text)
fit.write_text = kill
sys.exit(train.main(["--config", sys.argv[1]]))
"""


@needs_signals
def test_a_run_killed_while_it_writes_a_checkpoint_ends_in_the_same_bytes(undisturbed, tiny_tree, tmp_path):
    given = settings(tiny_tree, tmp_path, **EVERYTHING, run={"save_model": False})
    (tmp_path / "story.yaml").write_text(config.dump_config(given))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "story.yaml")]

    at_first, at_second = (["epoch-00001", str(int(signal.SIGTERM))], ["epoch-00002", str(int(signal.SIGKILL))])
    answer = subprocess.run([*command, *at_first], cwd=HERE, capture_output=True, text=True, check=False)
    assert answer.returncode == errors.INTERRUPTED, answer.stderr
    assert "interrupted" in answer.stderr and "Traceback" not in answer.stderr
    answer = subprocess.run([*command, *at_second], cwd=HERE, capture_output=True, text=True, check=False)
    assert answer.returncode == -signal.SIGKILL, answer.stderr
    # A log has a line an epoch, nothing for a terminal, and nothing that TensorFlow says as it starts.
    assert re.search(r"^tune: epoch 1 of 2: loss .*, validation accuracy \d\.\d+, \d", answer.stdout, re.M)
    assert not re.search("[\x1b\b\r]|oneDNN", answer.stdout + answer.stderr)
    assert [path.name for path in tmp_path.glob("runs/*/tune/epoch-*")] == ["epoch-00001"]

    run = train.train_run(given, report=False)
    _assert_same(run, undisturbed)
    assert not (run.folder / "head.npz").exists()  # a fine-tuned backbone is saved whatever run.save_model says


def test_a_full_disk_is_reported_in_a_sentence_and_leaves_whole_checkpoints(tiny_tree, tmp_path, monkeypatch, capsys):
    def disk_full(path, _):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(fit, "write_text", disk_full)
    (tmp_path / "story.yaml").write_text(config.dump_config(settings(tiny_tree, tmp_path)))
    assert train.main(["--config", str(tmp_path / "story.yaml")]) == errors.BAD_INPUT
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/tune/*epoch-*")) and not list(tmp_path.glob("runs/*/model.keras"))


def test_another_seed_gives_another_result(undisturbed, tiny_tree, tmp_path):
    other = train.train_run(settings(tiny_tree, tmp_path, **EVERYTHING, run={"seed": 1}), report=False)
    assert other.folder.name != undisturbed.folder.name
    tables = [pd.read_csv(run.folder / "predictions.csv")["p_benign"] for run in (other, undisturbed)]
    assert not np.allclose(*tables)


def _fit_head(given):
    dataset = datasets.load_dataset(given)
    run = RunFolder(given.run.dir / given.data.balance, given)
    return training.TrainingRun(given, dataset, run).fit()


@pytest.mark.parametrize("balance", ["class_weights", "images"])
@pytest.mark.parametrize("kind", ["logistic", "keras"])
def test_balance_reaches_the_head(kind, balance, tiny_tree, tmp_path):
    """Fold 1 trains on more malignant cases than benign ones, so that balancing classes must change the fit."""
    about = {**FROZEN, "head": {"kind": kind}, "split": {"fold": 1}}
    one, other = (
        _fit_head(settings(tiny_tree, tmp_path, **about, data={"balance": balanced})) for balanced in ("none", balance)
    )
    assert not np.allclose(one.bias, other.bias, rtol=1e-3)


@pytest.mark.parametrize("kind", ["logistic", "keras"])
def test_a_frozen_run_can_save_its_head_alone(kind, tiny_tree, tmp_path):
    given = settings(tiny_tree, tmp_path, **FROZEN, head={"kind": kind})
    run = train.train_run(given, report=False)
    assert (run.folder / "head.npz").is_file() and not (run.folder / "model.keras").exists()

    whole = train.train_run(settings(tiny_tree, tmp_path / "whole", tune={"part": "none"}, head={"kind": kind}), False)
    assert whole.folder.name == run.folder.name
    for name in ("predictions.csv", "head.npz"):
        assert (whole.folder / name).read_bytes() == (run.folder / name).read_bytes()

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    joined, saved = (network.load_run_model(folder)(pixels) for folder in (run.folder, whole.folder))
    np.testing.assert_array_equal(joined, saved)

    # Every image that the logistic head was fitted on is predicted by heads that were not: once, as validation.
    split, table = (pd.read_csv(run.folder / name) for name in ("split.csv", "predictions.csv"))
    parts = split.set_index("file")["part"]
    expected = parts.replace("train", "validation") if kind == "logistic" else parts[parts != "train"]
    assert table.set_index("file")["part"].to_dict() == expected.to_dict()


def test_a_head_on_cached_features_imports_no_tensorflow(tiny_tree, tmp_path):
    """The second fold of a sweep, in a process of its own."""
    first = train.train_run(settings(tiny_tree, tmp_path, **FROZEN), report=False)
    (tmp_path / "second.yaml").write_text(
        config.dump_config(settings(tiny_tree, tmp_path, **FROZEN, split={"fold": 1}))
    )
    child = (
        "import pathlib, sys; from breakhis_cls import config; from breakhis_cls.sweeping import worker; "
        "run = worker.train(config.load_config(pathlib.Path(sys.argv[1]))); print(run.folder); "
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules), 'imported'"
    )
    command = [sys.executable, "-c", child, str(tmp_path / "second.yaml")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert Path(answer.stdout.splitlines()[-1]).name != first.folder.name
    # In this process, with TensorFlow: the same bytes.
    again = train.train_run(settings(tiny_tree, tmp_path / "again", **FROZEN, split={"fold": 1}), report=False)
    path = Path(answer.stdout.splitlines()[-1]) / "predictions.csv"
    assert path.read_bytes() == (again.folder / "predictions.csv").read_bytes()


ON_TWO_DEVICES = """
import pathlib, sys
from breakhis_cls.modeling import devices
devices.prepare(deterministic=True)
import tensorflow as tf
from breakhis_cls import config, train
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices.training_scope = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
from breakhis_cls.modeling import features
features.extract_apart = features.extract
train.train_run(config.load_config(pathlib.Path(sys.argv[1])), report=False)
"""


@pytest.mark.slow
def test_two_devices_train_as_one_does(tiny_tree, shared, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real ResNet50
    weights = shared / "weights/resnet50_imagenet_notop.weights.h5"
    plain = {"weights": str(weights), "dropout": 0.0}  # each replica would drop its own
    one, two = (
        settings(
            tiny_tree,
            tmp_path / name,
            model=plain,
            head={"kind": "keras", "epochs": 1},
            tune={"epochs": 1, "peak_lr": 1e-3},
        )
        for name in ("one", "two")
    )
    (tmp_path / "two.yaml").write_text(config.dump_config(two))
    command = [sys.executable, "-c", ON_TWO_DEVICES, str(tmp_path / "two.yaml")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    folders = train.train_run(one, report=False).folder, next((tmp_path / "two/runs").iterdir())
    before, after = (pd.read_csv(folder / "history.csv") for folder in folders)
    assert abs(before["val_loss"].diff().iloc[-1]) > 0.01, "fine-tuning moved nothing"
    np.testing.assert_allclose(before["loss"], after["loss"], rtol=1e-2)
    np.testing.assert_allclose(*(pd.read_csv(f / "predictions.csv")["p_malignant"] for f in folders), atol=0.02)
