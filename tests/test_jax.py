"""Keras on JAX: the same numbers as on TensorFlow, several devices, resuming, and a GPU check without TensorFlow."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from breakhis_cls import config
from breakhis_cls.modeling import features

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax: pip install '.[jax]'")
TRAIN = (
    "import pathlib, sys; from breakhis_cls import config, train; "
    "[train.train_run(config.load_config(pathlib.Path(file)), report=False) for file in sys.argv[1:]]"
)


def run_on(backend, code, *arguments, n_devices=1):
    """A fresh Python on one of Keras's backends; what it printed."""
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": flags, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, *code, *map(str, arguments)]
    answer = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, encoding="utf-8", check=False
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout


def configs(folder, shared, data, folds=(0,), **changes):
    """YAML files of runs on a sample with real weights."""
    weights = shared / "weights/resnet50_imagenet_notop.weights.h5"
    given = {"data.root": str(shared / "breakhis" / data), "data.magnifications": [200], "model.weights": str(weights),
             "data.cache": folder / "cache", "run.dir": folder / "runs", "run.save_model": False}  # fmt: skip
    folder.mkdir()
    files = []
    for fold in folds:
        settings = config.change_settings(config.Config(), given | changes | {"split.fold": fold})
        files.append(folder / f"{fold}.yaml")
        files[-1].write_text(config.dump_config(settings), encoding="utf-8")
    return files


def predictions(folder):
    tables = [pd.read_csv(path) for path in sorted(folder.glob("runs/*/predictions.csv"))]
    return pd.concat(tables).sort_values(["fold", "file"]).reset_index(drop=True)


@pytest.mark.slow
def test_frozen_heads_of_five_folds_are_those_of_tensorflow(shared, tmp_path):
    small = {"image.height_px": 64, "image.width_px": 96}
    for backend in ("tensorflow", "jax"):
        run_on(backend, ["-c", TRAIN], *configs(tmp_path / backend, shared, "thumbs", range(5), **small))
    one, other = (predictions(tmp_path / backend) for backend in ("tensorflow", "jax"))
    assert one["file"].tolist() == other["file"].tolist() and one["fold"].nunique() == 5
    np.testing.assert_allclose(one["p_malignant"], other["p_malignant"], atol=1e-4)


TUNED = {
    "image.height_px": 64, "image.width_px": 96, "tune.part": "conv4", "tune.epochs": 2, "tune.batch_size": 4,
    "tune.peak_lr": 1e-5, "model.dropout": 0.0, "head.epochs": 0, "augment.stain": 0.2,
}  # fmt: skip


@pytest.mark.slow
def test_fine_tuning_is_that_of_tensorflow_and_of_two_devices(shared, tmp_path):
    for name, backend, n_devices in (("tensorflow", "tensorflow", 1), ("jax", "jax", 1), ("two", "jax", 2)):
        files = configs(tmp_path / name, shared, "full", **TUNED, **{"data.magnifications": [100, 200]})
        run_on(backend, ["-c", TRAIN], *files, n_devices=n_devices)
    one, jax, two = (predictions(tmp_path / name)["p_malignant"] for name in ("tensorflow", "jax", "two"))
    assert one.std() > 1e-4  # the head starts from zero: something was learned
    np.testing.assert_allclose(one, jax, atol=1e-4)
    np.testing.assert_allclose(jax, two, atol=1e-3)


INTERRUPTED = (
    "import pathlib, sys; from breakhis_cls import config, train; from breakhis_cls.modeling import devices; "
    "devices.prepare(True); from breakhis_cls.modeling import fit; write = fit.write_text; "
    "fit.write_text = lambda path, text: sys.exit(0) if 'epoch-00002' in str(path) else write(path, text); "
    "train.train_run(config.load_config(pathlib.Path(sys.argv[1])), report=False)"
)


@pytest.mark.slow
def test_a_run_that_was_interrupted_on_jax_continues_to_the_same_bytes(shared, tmp_path):
    whole, cut = (configs(tmp_path / name, shared, "full", **TUNED | {"model.dropout": 0.2}) for name in ("a", "b"))
    run_on("jax", ["-c", TRAIN], *whole)
    run_on("jax", ["-c", INTERRUPTED], *cut)
    assert not list(tmp_path.glob("b/runs/*/predictions.csv"))
    assert [path.name for path in tmp_path.glob("b/runs/*/tune/epoch-*")] == ["epoch-00001"]
    run_on("jax", ["-c", TRAIN], *cut)
    one, other = (next(tmp_path.glob(f"{name}/runs/*/predictions.csv")).read_bytes() for name in ("a", "b"))
    assert one == other


@pytest.mark.slow
def test_the_story_on_jax():
    run_on("jax", ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"], HERE / "test_story.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_gpu_check_runs_on_a_cpu_and_on_jax_without_tensorflow(backend, tmp_path):
    run_on(backend, [HERE.parent / "scripts/gpu_check.py", "--quick", "--out", tmp_path / "found.json"])
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["imported_tensorflow"] is (backend == "tensorflow")
    assert found["arithmetic"]["backend"] == backend and found["devices"] == ["CPU"]
    assert found["two_runs_give_equal_bytes"] and found["extraction_images_per_s"] > 0
    assert {entry["precision"] for entry in found["fine_tuning"]} == {"float32", "mixed_bfloat16"}


def test_jax_has_features_of_its_own(monkeypatch):
    here = features.devices.numerics(config.Run(), extraction=True)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert features.devices.numerics(config.Run(), extraction=True)["backend"] == "jax" != here["backend"]
