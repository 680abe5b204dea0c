"""What a run survives: SIGKILL at random moments, SIGTERM, a full disk, two devices; and what it refuses."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_story import settings

from breakhis_cls import config, errors, train
from breakhis_cls.data import dataset
from breakhis_cls.errors import DataError, RunError
from breakhis_cls.modeling import run_folder

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def _train(given, folder, **options):
    path = folder / "story.yaml"
    path.write_text(config.dump_config(given))
    command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **options)


def test_killed_at_random_moments_a_run_ends_in_the_same_bytes(tmp_path):
    command = [sys.executable, str(SCRIPTS / "soak.py"), "--minutes", "0", "--out", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=480)
    assert answer.returncode == 0, answer.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["kills"] >= 3 and found["different"] == 0


def test_sigterm_keeps_what_was_finished_and_says_so(tiny_tree, tmp_path):
    given = settings(tiny_tree, tmp_path, head={"epochs": 5_000, "patience": 5_000}, tune={"part": "none"})
    process = _train(given, tmp_path)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("runs/*/head/epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == errors.INTERRUPTED, told
    assert "the same command goes on" in told and "Traceback" not in told
    (saved,) = tmp_path.glob("runs/*/head/epoch-*")
    assert len(json.loads((saved / "state.json").read_text())["history"]) == int(saved.name.partition("-")[2])


def test_a_disk_that_is_full_is_told_and_leaves_whole_epochs_only(tiny_tree, tmp_path):
    given = settings(tiny_tree, tmp_path, tune={"part": "all", "epochs": 2})
    limit = 30 * 2**20  # the weights of ResNet50 with AdamW's state are larger, all else is smaller
    process = _train(given, tmp_path, preexec_fn=lambda: _limit_files_to(limit))
    told = process.communicate(timeout=300)[1]
    assert process.returncode == errors.BAD_INPUT, told
    assert "File too large" in told and "continues from there" in told and "Traceback" not in told
    assert not list(tmp_path.glob("runs/*/tune/epoch-*")) and not list(tmp_path.glob("runs/*/model.keras"))
    assert list(tmp_path.glob("runs/*/head/epoch-*"))


def _limit_files_to(n_bytes):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


ON_TWO_DEVICES = """
import sys
from breakhis_cls.modeling import devices
devices.prepare(deterministic=True)
import tensorflow as tf
from breakhis_cls import config, train
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = devices.strategy(["CPU:0", "CPU:1"])
assert two.num_replicas_in_sync == 2
devices.strategy = lambda: two
from breakhis_cls.modeling import phases
train.train(config.from_yaml(__import__("pathlib").Path(sys.argv[1])), report=False)
"""


def test_two_devices_train_as_one_does(tiny_tree, shared, tmp_path):
    weights = shared / "weights/resnet50_imagenet_notop.weights.h5"
    plain = {"weights": str(weights), "dropout": 0.0}  # each replica would drop its own
    one, two = (
        settings(tiny_tree, tmp_path / name, model=plain, head={"epochs": 1}, tune={"epochs": 1, "peak_lr": 1e-3})
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


def test_a_config_changed_under_a_run_is_told(tiny_tree, tmp_path):
    given = settings(tiny_tree, tmp_path)
    with run_folder.open_run(given, "story-0-0-abcdef01") as run:
        text = (run.folder / "config.yaml").read_text()
    (run.folder / "config.yaml").write_text(re.sub(r"(head:\n\s+epochs:) 3", r"\1 7", text))
    with (
        pytest.raises(RunError, match=r"head.epochs is 7 there and 3 in this command; delete"),
        run_folder.open_run(given, run.folder.name),
    ):
        pass


def test_a_run_that_moved_is_still_the_same_run(tiny_tree, tmp_path):
    given = settings(tiny_tree, tmp_path)
    with run_folder.open_run(given, "story-0-0-abcdef01"):
        pass
    elsewhere = settings(tiny_tree, tmp_path, data={"cache": tmp_path / "other"})
    with run_folder.open_run(elsewhere, "story-0-0-abcdef01"):
        pass


def test_a_folder_that_cannot_be_made_is_told(tiny_tree, tmp_path):
    (tmp_path / "file").write_text("")
    given = settings(tiny_tree, tmp_path, run={"dir": tmp_path / "file" / "runs"})
    with pytest.raises(RunError, match=r"name another place: --run\.dir"), run_folder.open_run(given, "story"):
        pass


def test_a_train_part_of_one_class_is_told(tiny_tree, tmp_path):
    with pytest.raises(DataError, match="only malignant images; expected at least two classes"):
        split = pd.DataFrame({"label": ["malignant"] * 3, "part": ["train"] * 3, "fold": 0})
        dataset._check_train(split, "binary")
