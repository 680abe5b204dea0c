"""An exported file answers as the run does, in its own runtime without TensorFlow; what cannot be kept is refused."""

import json

import numpy as np
import pytest
from test_story import settings

from breakhis_cls import export, train
from breakhis_cls.modeling import reference


@pytest.fixture(scope="module")
def run(tiny_tree, tmp_path_factory):
    """A fine-tuned run: its file holds the frozen backbone too, on which distances are measured."""
    return train.train_run(settings(tiny_tree, tmp_path_factory.mktemp("export"))).folder


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "litert", "saved_model"])
def test_an_exported_file_answers_as_the_run_in_its_own_runtime(run, tmp_path, to, capsys):
    pytest.importorskip(export.FORMATS[to].runtime)
    assert export.main([str(run), "--to", to, "--out", str(tmp_path / "out")]) == 0
    assert "decisions that differ: 0" in capsys.readouterr().out
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {export.FORMATS[to].file, "contract.json", "parity.json", "model_card.md", "reference.npz"}
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["tensorflow_in_its_process"] == (to == "saved_model") and parity["n_images"] == 15
    assert parity["largest_difference"]["probabilities"] < 1e-4 and parity["refusals_that_differ"] == 0
    contract = json.loads((tmp_path / "out" / "contract.json").read_text())
    assert contract["input"]["shape"] == ["n", 32, 48, 3] and contract["outputs"]["probabilities"][1] == "malignant"
    held = reference.load_reference(run)
    assert held is not None and contract["refusal"]["threshold"] == pytest.approx(held.threshold(0.99))
    assert contract["temperature"] == held.about["temperature"]


def test_parity_counts_what_differs(run, tmp_path, monkeypatch):
    """An export that answers something else is not passed off as the run's."""
    pytest.importorskip("tensorflow")

    def export_other(model, path, format, verbose):
        last = model.get_layer("probabilities")
        last.set_weights([-weight for weight in last.get_weights()])
        type(model).export.__wrapped__(model, path, format=format, verbose=verbose)

    import keras

    export_other.__wrapped__ = keras.Model.export
    monkeypatch.setattr(keras.Model, "export", export_other)
    assert export.main([str(run), "--to", "saved_model", "--out", str(tmp_path / "out")]) == 1
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["decisions_that_differ"] > 0


def test_what_cannot_be_exported_is_refused_in_a_sentence(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert export.main([str(run), "--to", "saved_model", "--out", str(tmp_path / "full")]) == 2
    assert "name a new folder" in capsys.readouterr().err
    assert export.main([str(tmp_path), "--to", "saved_model", "--out", str(tmp_path / "out")]) == 2
    assert "not a finished run" in capsys.readouterr().err
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert export.main([str(run), "--to", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_of_an_exported_file_are_those_of_the_rows_asked_for(tmp_path, monkeypatch):
    import io
    import sys

    import keras

    pixels = keras.Input((2, 2, 3), dtype="uint8", name="image")
    mean = keras.layers.GlobalAveragePooling2D()(keras.ops.cast(pixels, "float32"))
    keras.Model(pixels, {"probabilities": mean, "features": mean * 2}).export(str(tmp_path / "model"), verbose=False)
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", images)
    monkeypatch.setattr(sys, "stdin", io.StringIO("[3, 1]"))
    export.score_exported(str(tmp_path / "model"), "saved_model", str(tmp_path / "pixels.npy"), str(tmp_path / "a.npz"))
    scored = np.load(tmp_path / "a.npz")
    np.testing.assert_allclose(scored["features"][:, 0], [6, 2])
