"""What the machine lacks is said, with what to do; secrets are not, and no network is asked."""

import json
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest

from breakhis_cls import __main__, config, doctor, machine, needs
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
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    monkeypatch.chdir(tmp_path)


def _no_network(*_):
    raise AssertionError("a network was asked")


def _rows(settings=None, **topics):
    return {finding.topic: finding for finding in doctor.run_checks(settings or config.Config(**topics))}


def test_a_tree_and_weights_are_enough(tiny_tree, capsys):
    assert __main__.main(["doctor", "--data.root", str(tiny_tree), "--model.weights", "random"]) == DONE
    told = capsys.readouterr().out
    assert "train can run with these settings" in told
    for phrase in ("75 of 7,909 images", "75 at 40X 100X 200X 400X", "case, fold 0 of 5", "float32 (by auto)"):
        assert phrase in told, phrase
    assert "Python" in told and metadata.version("tensorflow") in told and metadata.version("keras") in told
    assert "-> for an NVIDIA card" in told or "-> TensorFlow sees no GPU" in told


def test_without_images_it_says_where_to_get_them(capsys):
    assert doctor.main([]) == ANSWER_IS_NO
    told = capsys.readouterr().out
    assert "no folder 'histology_slides' under data/breakhis" in told and "--data.root" in told
    assert "archive 4.3 GB" in told and "tree 4.3 GB" in told and "pixel store 1.9 GB" in told
    assert "train lacks data" in told


def test_bad_settings_are_another_matter(capsys):
    assert doctor.main(["--config", "none.yaml"]) == BAD_INPUT
    assert "no such config" in capsys.readouterr().err


def test_images_that_no_protocol_can_part(tiny_tree):
    leaky = {"data": config.Data(root=str(tiny_tree)), "split": config.Split(protocol="image")}
    assert (_rows(**leaky)["split"].state, _rows(**leaky)["data"].state) == ("missing", "note")
    assert "allow_leaks" in _rows(**leaky)["split"].advice
    foreign = {"data": config.Data(root="synthetic"), "split": config.Split(protocol="spanhol")}
    assert _rows(**foreign)["split"].state == "missing"


def test_a_magnification_that_is_absent(tiny_tree, tmp_path):
    shutil.copytree(tiny_tree, tmp_path / "tree")
    for path in (tmp_path / "tree").rglob("*-400-*.png"):
        path.unlink()
    rows = _rows(data=config.Data(root=str(tmp_path / "tree")))
    assert rows["data"].state == "missing" and "no images at 400X" in rows["data"].advice


def test_credentials_are_found_and_never_printed(tmp_path, monkeypatch, capsys):
    assert machine.credentials().state == "note" and "--from-zip" in machine.credentials().advice
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert machine.credentials().state == "note"  # it only says where to look
    (tmp_path / "kaggle.json").write_text(json.dumps({"username": SECRET, "key": SECRET}))
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    doctor.main([])
    told = "".join(capsys.readouterr())
    assert "KAGGLE_API_TOKEN (environment)" in told and str(tmp_path / "kaggle.json") in told
    assert SECRET not in told


def test_weights_by_name_by_path_and_absent(tmp_path, shared):
    absent = needs.weights_of(config.Model(backbone="DenseNet121"))
    assert absent.state == "note" and "--model.weights PATH" in absent.advice
    path = tmp_path / "keras" / "models" / IMAGENET_FILES["DenseNet121"][0]
    path.parent.mkdir(parents=True)
    path.touch()
    assert needs.weights_of(config.Model(backbone="DenseNet121")).state == "ok"
    assert needs.weights_of(config.Model(weights="nowhere.weights.h5")).state == "missing"
    known = needs.weights_of(config.Model(weights=str(shared / "weights/resnet50_imagenet_notop.weights.h5")))
    assert known.state == "ok" and "8-bit pruned ResNet50, SHA-256 2b300325d4372ac1" in known.found


def test_a_full_disk_and_what_lies_there_already(tiny_tree, tmp_path, monkeypatch):
    settings = config.Config(data=config.Data(root=str(tiny_tree)))
    images = needs.named(settings.data)
    assert "pixel store 18.1 MB" in needs.disk(settings, images).found  # 75 x 230 x 350 x 3
    store = settings.data.cache / "pixels" / "some" / "pixels.npy"
    store.parent.mkdir(parents=True)
    np.save(store, np.ones((75, 230, 350, 3), np.uint8))
    assert "pixel store" not in needs.disk(settings, images).found
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    full = needs.disk(settings, images)
    assert full.state == "missing" and "5.0 MB are free" in full.advice


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    rows = _rows(data=config.Data(root="synthetic"), run=config.Run(dir=tmp_path / "file" / "runs"))
    assert rows["folder"].state == "missing" and "--run.dir" in rows["folder"].advice


def test_a_version_out_of_range(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.15.0" if name == "tensorflow" else real(name))
    (found,) = [finding for finding in machine.versions() if finding.state != "ok"]
    assert found.topic == "tensorflow" and found.found.startswith("2.15.0") and "pip install" in found.advice


def test_little_memory_is_told_where_it_matters(monkeypatch):
    monkeypatch.setattr(machine.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 2**20))
    assert "4.0 GiB" in machine.memory(config.Tune()).found
    assert "--tune.batch_size 4 --tune.accumulate 4" in machine.memory(config.Tune()).advice
    assert machine.memory(config.Tune(part="none")).state == "ok"


def test_gpus_by_name_and_what_auto_makes_of_them(monkeypatch):
    monkeypatch.setattr(devices, "prepare", lambda *_: None)
    monkeypatch.setattr(devices, "device_names", lambda: ["Some GPU", "Some GPU"])
    monkeypatch.setattr(devices, "dtype_policy", lambda wanted: "mixed_bfloat16")
    card, policy = machine.devices(config.Run())
    assert (card.state, card.found) == ("ok", "Some GPU, Some GPU")
    assert policy.found == "mixed_bfloat16 (by auto)"


def test_only_the_devices_want_tensorflow():
    script = (
        "import sys; from breakhis_cls import config, machine, needs\n"
        "rows = [*machine.versions(), *needs.of(config.Config(data=config.Data(root='synthetic')))]\n"
        "assert len(rows) > 5 and not {'tensorflow', 'keras', 'kaggle'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
