"""`breakhis doctor` reports what is missing and what to do; it prints no secrets and asks no network."""

import json
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

from breakhis_cls import __main__, config, doctor
from breakhis_cls.errors import ANSWER_IS_NO, BAD_INPUT, DONE
from breakhis_cls.modeling import devices
from breakhis_cls.modeling.weights import IMAGENET_FILES

SECRET = "do-not-print-me"


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No credentials, no weights, no network, an empty working folder and a wide terminal."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("COLUMNS", "300")

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def fake_devices(monkeypatch):
    """Two GPUs, and no import of TensorFlow."""
    monkeypatch.setattr(devices, "prepare", lambda *_: None)
    monkeypatch.setattr(devices, "device_names", lambda: ["Some GPU", "Some GPU"])
    monkeypatch.setattr(devices, "dtype_policy", lambda _: "mixed_bfloat16")


def _checks(**sections):
    return {check.topic: check for check in doctor.run_checks(config.Config(**sections))}


def test_images_and_weights_are_enough(tiny_tree, capsys):
    assert __main__.main(["doctor", "--data.root", str(tiny_tree), "--model.weights", "random"]) == DONE
    printed = capsys.readouterr().out
    assert "train can run with these settings" in printed
    for phrase in ("75 of 7,909 images", "75 at 40X 100X 200X 400X", "case, fold 0 of 5", "float32 (chosen by auto)"):
        assert phrase in printed, phrase
    assert "Python" in printed and metadata.version("tensorflow") in printed and metadata.version("keras") in printed
    assert "-> for an NVIDIA card" in printed or "TensorFlow sees no GPU" in printed


def test_missing_images_and_how_to_get_them(fake_devices, capsys):
    assert doctor.main([]) == ANSWER_IS_NO
    printed = capsys.readouterr().out
    assert "no folder 'histology_slides' under data/breakhis" in printed and "--data.root" in printed
    assert "archive 4.3 GB" in printed and "tree 4.3 GB" in printed and "pixel store 1.9 GB" in printed
    assert "train cannot run with these settings; to fix: data" in printed


def test_invalid_settings_are_bad_input(capsys):
    assert doctor.main(["--config", "none.yaml"]) == BAD_INPUT
    assert "no such config" in capsys.readouterr().err


def test_a_protocol_that_cannot_split_the_images(fake_devices, tiny_tree):
    leaky = _checks(data=config.Data(root=str(tiny_tree)), split=config.Split(protocol="image"))
    assert (leaky["split"].state, leaky["data"].state) == ("missing", "note")
    assert "allow_leaks" in leaky["split"].advice
    foreign = _checks(data=config.Data(root="synthetic"), split=config.Split(protocol="spanhol"))
    assert foreign["split"].state == "missing"


def test_a_magnification_without_images(fake_devices, tiny_tree, tmp_path):
    shutil.copytree(tiny_tree, tmp_path / "tree")
    for path in (tmp_path / "tree").rglob("*-400-*.png"):
        path.unlink()
    data = _checks(data=config.Data(root=str(tmp_path / "tree")))["data"]
    assert data.state == "missing" and "no images at 400X" in data.advice


def test_credentials_are_found_and_never_printed(fake_devices, tmp_path, monkeypatch, capsys):
    assert doctor.check_credentials().state == "note" and "--from-zip" in doctor.check_credentials().advice
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert doctor.check_credentials().state == "note"  # it only says where to look
    (tmp_path / "kaggle.json").write_text(json.dumps({"username": SECRET, "key": SECRET}))
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    doctor.main([])
    printed = "".join(capsys.readouterr())
    assert "KAGGLE_API_TOKEN (environment)" in printed and str(tmp_path / "kaggle.json") in printed
    assert SECRET not in printed


def test_weights_by_name_and_by_path(tmp_path, shared):
    absent = doctor.check_weights(config.Model(backbone="DenseNet121"))
    assert absent.state == "note" and "--model.weights PATH" in absent.advice
    path = tmp_path / "keras" / "models" / IMAGENET_FILES["DenseNet121"][0]
    path.parent.mkdir(parents=True)
    path.touch()
    assert doctor.check_weights(config.Model(backbone="DenseNet121")).state == "ok"
    assert doctor.check_weights(config.Model(weights="nowhere.weights.h5")).state == "missing"
    known = doctor.check_weights(config.Model(weights=str(shared / "weights/resnet50_imagenet_notop.weights.h5")))
    assert known.state == "ok" and "8-bit pruned ResNet50, SHA-256 2b300325d4372ac1" in known.found


def test_disk_space_counts_what_is_stored_already(monkeypatch):
    settings = config.Config()
    assert "pixel store 18.1 MB" in doctor.check_disk(settings, 75).found  # 75 x 230 x 350 x 3
    store = settings.data.cache / "pixels" / "some" / "pixels.npy"
    store.parent.mkdir(parents=True)
    np.save(store, np.ones((75, 230, 350, 3), np.uint8))
    assert "pixel store" not in doctor.check_disk(settings, 75).found
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    full = doctor.check_disk(settings, 75)
    assert full.state == "missing" and "5.0 MB are free" in full.advice


def test_a_folder_that_cannot_be_written(fake_devices, tmp_path):
    (tmp_path / "file").touch()
    checks = _checks(data=config.Data(root="synthetic"), run=config.Run(dir=tmp_path / "file" / "runs"))
    assert checks["folder"].state == "missing" and "--run.dir" in checks["folder"].advice


def test_versions_out_of_range(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "jinja2":
            raise metadata.PackageNotFoundError(name)
        return "2.15.0" if name == "tensorflow" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    problems = {check.topic: check for check in doctor.check_versions() if check.state != "ok"}
    assert set(problems) == {"tensorflow", "jinja2"} and problems["jinja2"].found.startswith("not installed")
    assert problems["tensorflow"].found.startswith("2.15.0") and "pip install" in problems["tensorflow"].advice


def test_little_memory_matters_for_fine_tuning(monkeypatch):
    monkeypatch.setattr(doctor.parallel, "memory_bytes", lambda: 2**32)
    memory = doctor.check_memory(config.Tune(part="conv5"))
    assert "4.0 GiB" in memory.found and "--tune.batch_size 4 --tune.accumulate 4" in memory.advice
    assert doctor.check_memory(config.Tune(part="none")).state == "ok"


def test_gpus_and_the_precision_that_auto_chooses(fake_devices):
    card, precision = doctor.check_devices(config.Run())
    assert (card.state, card.found) == ("ok", "Some GPU, Some GPU")
    assert precision.found == "mixed_bfloat16 (chosen by auto)"


def test_only_the_last_check_imports_tensorflow():
    script = (
        "import sys; from breakhis_cls import config, doctor\n"
        "seen = []\n"
        "for check in doctor.run_checks(config.Config(data=config.Data(root='synthetic'))):\n"
        "    seen.append(check.topic)\n"
        "    if check.topic == 'Kaggle': break\n"
        "assert len(seen) > 5 and not {'tensorflow', 'keras', 'kaggle'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
