"""`breakhis doctor` reports what is missing and what to do; it prints no secrets and asks no network."""

import json
import re
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

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
    monkeypatch.setattr(devices, "list_gpus", lambda: [("Some GPU", (8, 0))] * 2)
    monkeypatch.setattr(devices, "dtype_policy", lambda _: "mixed_bfloat16")
    monkeypatch.setattr(doctor, "time_forward_pass", lambda _: 0.1)


def _checks(**sections):
    return {check.topic: check for check in doctor.run_checks(config.Config(**sections))}


def test_images_and_weights_are_enough(tiny_tree, capsys):
    small = ["--image.height_px", "32", "--image.width_px", "48", "--model.weights", "random"]
    assert __main__.main(["doctor", "--data.root", str(tiny_tree), *small]) == DONE
    printed = capsys.readouterr().out
    assert printed.endswith("\ntrain can run with these settings\n")
    assert re.search(r"^ok +time +about \d+ (s|min), by one timed batch", printed, re.MULTILINE)
    assert printed.count(" free") == 1
    for phrase in ("75 of 7,909 images", "75 at 40X 100X 200X 400X", "case, fold 0 of 5", "CPU, float32"):
        assert phrase in printed, phrase
    assert "Python" in printed and metadata.version("tensorflow") in printed and metadata.version("keras") in printed
    assert "-> for an NVIDIA card" in printed or "TensorFlow sees no GPU" in printed


def test_missing_images_and_how_to_get_them(fake_devices, capsys):
    assert doctor.main([]) == ANSWER_IS_NO
    printed = capsys.readouterr().out
    assert "no folder 'histology_slides' under data/breakhis" in printed and "--data.root" in printed
    assert "pixel store 1.9 GB" in printed
    assert "train cannot run with these settings; to fix: data" in printed


def test_invalid_settings_are_bad_input(capsys):
    assert doctor.main(["--config", "none.yaml"]) == BAD_INPUT
    assert "no such config" in capsys.readouterr().err


def test_a_protocol_that_cannot_split_the_images(fake_devices, tiny_tree):
    leaky = _checks(data=config.Data(root=str(tiny_tree)), split=config.Split(protocol="image"))
    assert (leaky["split"].state, leaky["data"].state) == ("missing", "note")
    assert "allow_leaks" in leaky["split"].found
    foreign = _checks(data=config.Data(root="synthetic"), split=config.Split(protocol="spanhol"))
    assert foreign["split"].state == "missing"


def test_a_magnification_without_images(fake_devices, tiny_tree, tmp_path):
    shutil.copytree(tiny_tree, tmp_path / "tree")
    for path in (tmp_path / "tree").rglob("*-400-*.png"):
        path.unlink()
    data = _checks(data=config.Data(root=str(tmp_path / "tree")))["data"]
    assert data.state == "missing" and "no images at 400X" in data.found


def test_credentials_are_found_and_never_printed(fake_devices, tmp_path, monkeypatch, capsys):
    assert _checks()["Kaggle"].state == "note" and "--from-zip" in _checks()["Kaggle"].advice
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    assert _checks()["Kaggle"].state == "note"  # it only says where to look
    (tmp_path / "kaggle.json").write_text(json.dumps({"username": SECRET, "key": SECRET}))
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    doctor.main([])
    printed = "".join(capsys.readouterr())
    assert "KAGGLE_API_TOKEN (environment)" in printed and str(tmp_path / "kaggle.json") in printed
    assert SECRET not in printed


def test_weights_by_name_and_by_path(fake_devices, tmp_path, shared):
    def check(**model):
        return _checks(model=config.Model(**model))["weights"]

    absent = check(backbone="DenseNet121")
    assert absent.state == "note" and "--model.weights PATH" in absent.advice
    path = tmp_path / "keras" / "models" / IMAGENET_FILES["DenseNet121"][0]
    path.parent.mkdir(parents=True)
    path.touch()
    assert check(backbone="DenseNet121").state == "ok"
    assert check(weights="nowhere.weights.h5").state == "missing"
    known = check(weights=str(shared / "weights/resnet50_imagenet_notop.weights.h5"))
    assert known.state == "ok" and "8-bit pruned ResNet50" in known.found


def test_disk_space_is_that_of_all_that_a_run_writes(fake_devices, tiny_tree, monkeypatch):
    data = config.Data(root=str(tiny_tree))
    assert "pixel store 18.1 MB + features 1.1 MB + run 1.0 GB" in _checks(data=data)["disk"].found  # 75 x 230 x 350
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    full = _checks(data=data)["disk"]
    assert full.state == "missing" and "5.0 MB are free" in full.found


def test_versions_out_of_range(fake_devices, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "jinja2":
            raise metadata.PackageNotFoundError(name)
        return "2.15.0" if name == "tensorflow" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    problems = {name: check for name, check in _checks().items() if check.state == "missing" and name != "data"}
    assert set(problems) == {"tensorflow", "jinja2"} and problems["jinja2"].found.startswith("not installed")
    assert problems["tensorflow"].found.startswith("2.15.0") and "pip install" in problems["tensorflow"].advice


def test_gpus_precision_and_time(fake_devices, tiny_tree):
    checks = _checks(data=config.Data(root=str(tiny_tree)))
    assert (checks["device"].state, checks["device"].found) == ("ok", "Some GPU, Some GPU, mixed_bfloat16")
    assert checks["time"].found.startswith("about 8 s, ")  # 75 images at 0.1 s
    tuned = {"model": config.Model(features=("conv5",)), "tune": config.Tune(part="conv5", epochs=10)}
    parts = [int(n) for n in re.findall(r"(\d+) (?:train|validation|test)", checks["split"].found)]
    expected = 0.1 * (75 + 10 * (3 * parts[0] + parts[1]) + parts[1] + parts[2])
    assert f"about {expected / 60:.0f} min" in _checks(data=config.Data(root=str(tiny_tree)), **tuned)["time"].found


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
