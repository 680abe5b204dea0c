"""One phase of training: checkpoints, early stopping, and the options of the optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from breakhis_cls import config
from breakhis_cls.errors import ModelError
from breakhis_cls.modeling import fit, network
from breakhis_cls.modeling.head import fit_logistic, l2_of_mean_loss
from breakhis_cls.pipeline.batches import TrainingRows

PHASE = config.Head(epochs=4, batch_size=4, peak_lr=0.05)
SMOOTHED = PHASE.model_copy(update={"label_smoothing": 0.1})


class Interruption(Exception):
    pass


def _rows(seed, n=10):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, n)
    features = generator.normal(size=(n, 6)).astype("float32") + truth[:, None]
    return TrainingRows(features, np.arange(n), np.eye(2)[truth])


def _fit(folder, phase=PHASE, rows=None, dropout=0.5, **options):
    """A head after the phase, and the history."""
    head = network.build_head(6, 2, dropout, seed=0)
    history = fit.fit_phase(head, phase, rows or _rows(1), _rows(2), folder / "head", seed=0, **options)
    return head, history


def _kernel(head):
    return head.get_layer("probabilities").kernel.numpy()


def _assert_equal(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("loss", "val_loss"), [(0.5, np.inf), (np.nan, 0.5)])
def test_a_loss_that_is_not_finite_in_either_part_is_an_error(tmp_path, loss, val_loss):
    logs = {"loss": loss, "accuracy": 0.5, "val_loss": val_loss, "val_accuracy": 0.5}
    with pytest.raises(ModelError, match=f"the loss is {loss} in training and {val_loss} on validation in epoch 1 of"):
        fit.EpochCheckpoint(tmp_path / "head", PHASE, 0).on_epoch_end(0, logs)


@pytest.mark.parametrize(("epoch", "phase"), [(0, PHASE), (1, SMOOTHED)])
def test_resuming_from_a_checkpoint_equals_never_stopping(epoch, phase, tmp_path, monkeypatch, capsys):
    undisturbed, expected = _fit(tmp_path / "undisturbed", phase, checkpoints=True)
    on_epoch_end = fit.EpochCheckpoint.on_epoch_end

    def interrupt(self, at, logs=None):
        on_epoch_end(self, at, logs)
        if at == epoch:
            raise Interruption

    with monkeypatch.context() as patched, pytest.raises(Interruption):
        patched.setattr(fit.EpochCheckpoint, "on_epoch_end", interrupt)
        _fit(tmp_path / "interrupted", phase, checkpoints=True)
    capsys.readouterr()
    resumed, history = _fit(tmp_path / "interrupted", phase, checkpoints=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"head: continuing after epoch {epoch + 1}" and history["epoch"].tolist() == [1, 2, 3, 4]
    assert [line.partition(":")[2].split(":")[0] for line in lines[1:]] == [
        f" epoch {at} of 4" for at in range(epoch + 2, 5)
    ]
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    assert history["seconds"][: epoch + 1].tolist() != expected["seconds"][: epoch + 1].tolist()  # read from disk
    _assert_equal(undisturbed, resumed)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    undisturbed, _ = _fit(tmp_path / "undisturbed", checkpoints=True)
    write_text, written = fit.write_text, []

    def disk_full(path, text):
        if written:
            raise OSError(28, "No space left on device")
        written.append(write_text(path, text))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(fit, "write_text", disk_full)
        _fit(tmp_path / "full", checkpoints=True)
    assert [path.name for path in (tmp_path / "full/head").glob("*epoch-*")] == ["epoch-00001"]
    resumed, _ = _fit(tmp_path / "full", checkpoints=True)
    _assert_equal(undisturbed, resumed)


def test_without_checkpoints_only_tensorboard_is_written(tmp_path):
    kept, _ = _fit(tmp_path / "kept", checkpoints=True)
    for _ in range(2):
        head, _ = _fit(tmp_path / "plain")
        assert [path.name for path in (tmp_path / "plain/head").iterdir()] == ["tensorboard"]
        assert len(list(tmp_path.glob("plain/head/tensorboard/train/*"))) == 1  # of the last try alone
    _assert_equal(kept, head)


def test_the_weights_of_the_best_epoch_remain(tmp_path):
    head, history = _fit(tmp_path, PHASE.model_copy(update={"epochs": 12, "peak_lr": 1.0}))
    head.compile(loss="categorical_crossentropy")
    validation = _rows(2)
    scores = head.evaluate(validation.source, validation.targets, verbose=0, return_dict=True)
    assert scores["loss"] == pytest.approx(history["val_loss"].min(), rel=1e-4)


def test_early_stopping_ends_the_phase(tmp_path):
    _, history = _fit(tmp_path, config.Head(epochs=50, batch_size=4, peak_lr=1.0, patience=2))
    assert len(history) < 50
    assert history["val_loss"].idxmin() == len(history) - 3


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    rows = _rows(1)
    rows.source[0] = np.nan
    with pytest.raises(ModelError, match="a smaller peak_lr"):
        _fit(tmp_path, rows=rows)


def test_weights_before_the_phase_stay_where_no_epoch_is_better(tmp_path):
    too_fast = config.Tune(epochs=2, batch_size=4, peak_lr=500.0, warmup_share=0.0)
    head, _ = _fit(tmp_path, too_fast, is_fitted=True, checkpoints=True)
    _assert_equal(head, network.build_head(6, 2, 0.5, seed=0))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(tmp_path):
    _, history = _fit(tmp_path)
    assert history["learning_rate"].iloc[-1] == pytest.approx(0, abs=1e-6)
    assert history["learning_rate"].max() <= PHASE.peak_lr


def test_label_smoothing_lowers_the_highest_probability(tmp_path):
    phase = PHASE.model_copy(update={"epochs": 20, "patience": 20, "warmup_share": 0.0})
    highest = []
    for smoothing in (0.0, 0.4):
        head, _ = _fit(tmp_path, phase.model_copy(update={"label_smoothing": smoothing}))
        highest.append(head.predict(_rows(1).source, verbose=0).max(axis=1).mean())
    assert highest[1] < highest[0] - 0.05


def test_a_batch_too_large_for_memory_is_an_error_with_advice(tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", exhausted)
    with pytest.raises(ModelError, match=r"--head\.batch_size 2 needs half of it"):
        _fit(tmp_path)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_keras_trains_the_head_to_the_exact_solution(n_classes, tmp_path):
    """Full batches, no dropout, as many cases as images: the loss that `fit_logistic` minimises."""
    generator = np.random.default_rng(0)
    labels = np.arange(30) % n_classes
    features = (generator.normal(size=(30, 6)) + labels[:, None]).astype("float32")
    rows = TrainingRows(features, np.arange(30), np.eye(n_classes)[labels])
    model = network.build_head(6, n_classes, 0.0, seed=0, l2=l2_of_mean_loss(0.3, 30, n_classes))
    model.get_layer("standardise").adapt(features)
    phase = config.Head(epochs=200, patience=200, batch_size=30, peak_lr=0.05)
    fit.fit_phase(model, phase, rows, rows, tmp_path, seed=0)
    expected = fit_logistic(features, labels, np.ones(30), n_classes, 0.3)
    np.testing.assert_allclose(network.get_head_weights(model).predict(features), expected.predict(features), atol=2e-3)
