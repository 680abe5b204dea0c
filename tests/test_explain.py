"""`breakhis explain`: the page and its numbers for a run with a network of a few layers, and its errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from test_gradcam import build_tiny_model

from breakhis_cls import config, explain
from breakhis_cls.data.dataset import load_dataset
from breakhis_cls.errors import BAD_INPUT, DONE
from breakhis_cls.files import write_text
from breakhis_cls.modeling import gradcam
from breakhis_cls.modeling.run_folder import RunFolder
from breakhis_cls.pipeline.pixel_store import PixelStore


@pytest.fixture(scope="module")
def run(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that looks finished; its backbone is one untrained convolution."""
    folder = tmp_path_factory.mktemp("explain")
    settings = config.Config(
        name="tiny",
        data=config.Data(root=str(tiny_tree), cache=folder / "cache"),
        image=config.Image(height_px=23, width_px=35),
        tune=config.Tune(part="all"),
        run=config.Run(dir=folder, reports=folder / "reports"),
    )
    dataset = load_dataset(settings)
    store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
    keras.utils.set_random_seed(0)
    model = build_tiny_model([layers.Conv2D(6, 5, 4, activation="relu")], 6, (23, 35))
    finished = RunFolder(folder / "tiny-0-0-00000000", settings)
    write_text(finished.folder / "config.yaml", config.dump_config(settings))
    model.save(finished.folder / "model.keras")
    probabilities = model.predict(store.array[store.rows], verbose=0)
    probabilities[dataset.in_part("train")] = np.nan
    finished.write_predictions(dataset, probabilities, "a convolution")
    return finished.folder


def test_the_page_and_its_numbers(run, monkeypatch, capsys):
    monkeypatch.setattr(gradcam, "SHARES", (0.0, 1.0))
    assert explain.main([str(run), "--n", "2"]) == DONE
    page = run.parent / "reports" / run.name / "explain" / "index.html"
    printed = capsys.readouterr().out
    assert str(page) in printed and "Sanity check " in printed
    text = page.read_text()
    assert "not a medical device" in text and "http://" not in text.replace("http://www.w3.org", "")
    facts = json.loads((page.parent / "explain.json").read_text())
    assert [one["randomised"] for one in facts["sanity"]] == ["head", "all layers"]
    assert all(-1 <= one["median"] <= 1 for one in facts["sanity"])
    assert set(facts["files"]) & {"true positive", "true negative", "false positive", "false negative"}
    heat_maps = [f"heat_{kind.replace(' ', '_')}.png" for kind in facts["files"]]
    for name in (*heat_maps, "randomization.svg", "randomization.png"):
        assert (page.parent / name).stat().st_size


@pytest.mark.parametrize("name", ["config.yaml", "predictions.csv", "model.keras"])
def test_an_unfinished_run_is_refused(run, tmp_path, capsys, name):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / name).unlink()
    assert explain.main([str(copy)]) == BAD_INPUT
    message = capsys.readouterr().err
    assert str(copy) in message and name in message and "Traceback" not in message
    assert explain.main([str(tmp_path / "nowhere")]) == BAD_INPUT
    assert "nowhere" in capsys.readouterr().err


def test_missing_images_are_named(run, tiny_tree, tmp_path, capsys):
    table = pd.read_csv(run / "predictions.csv", dtype=str)
    gone = table.loc[table["part"] == "test", "file"].iloc[0]
    copy = shutil.copytree(tiny_tree, tmp_path / "tree")
    next(copy.rglob(Path(gone).name)).unlink()
    assert explain.main([str(run), "--data.root", str(copy)]) == BAD_INPUT
    message = capsys.readouterr().err
    assert "1 of the run's" in message and Path(gone).name in message
    shutil.rmtree(copy)
    assert explain.main([str(run), "--data.root", str(copy)]) == BAD_INPUT
    assert "set --data.root" in capsys.readouterr().err
