"""A phase that is broken off and started again ends as one that never was."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from breakhis_cls import config
from breakhis_cls.errors import ModelError
from breakhis_cls.modeling import fit, network
from breakhis_cls.pipeline.batches import TrainingRows

PHASE = config.Head(epochs=4, batch_size=4, peak_lr=0.05)


def _rows(seed, n=10):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, n)
    features = generator.normal(size=(n, 8, 6)).astype("float32") + truth[:, None, None]
    return TrainingRows(features, np.arange(n), np.eye(2)[truth], views=range(8))


def _head():
    return network.build_head(6, 2, 0.5, seed=0)


def _fit(folder, phase=PHASE):
    head = _head()
    history = fit.fit_phase(head, phase, _rows(1), _rows(2), folder, seed=0)
    return head, history


class _Interrupted(Exception):
    pass


def _break_off_after(epoch, monkeypatch):
    whole = fit.EpochCheckpoint.on_epoch_end

    def broken(self, at, logs=None):
        whole(self, at, logs)
        if at == epoch:
            raise _Interrupted

    monkeypatch.setattr(fit.EpochCheckpoint, "on_epoch_end", broken)


WITH_ALL = PHASE.model_copy(update={"ema": 0.8, "accumulate": 2, "clip_norm": 0.5, "label_smoothing": 0.1})


@pytest.mark.parametrize(("epoch", "phase"), [(0, PHASE), (2, PHASE), (1, WITH_ALL)])
def test_going_on_equals_never_stopping(epoch, phase, tmp_path, monkeypatch):
    undisturbed, expected = _fit(tmp_path / "undisturbed" / "head", phase)
    with monkeypatch.context() as patched, pytest.raises(_Interrupted):
        _break_off_after(epoch, patched)
        _fit(tmp_path / "broken" / "head", phase)
    resumed, history = _fit(tmp_path / "broken" / "head", phase)
    assert history.drop(columns="seconds").equals(expected.drop(columns="seconds"))
    for one, other in zip(undisturbed.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_a_save_that_fails_leaves_the_last_good_epoch(tmp_path, monkeypatch):
    undisturbed, _ = _fit(tmp_path / "undisturbed" / "head")
    with monkeypatch.context() as patched:
        patched.setattr(fit, "write_text", _disk_full)
        with pytest.raises(OSError, match="No space"):
            _fit(tmp_path / "full" / "head")
    assert not list((tmp_path / "full" / "head").glob("epoch-*"))
    resumed, _ = _fit(tmp_path / "full" / "head")
    np.testing.assert_array_equal(undisturbed.weights[-1].numpy(), resumed.weights[-1].numpy())


def _disk_full(*_):
    raise OSError(28, "No space left on device")


def test_the_best_epoch_is_what_remains(tmp_path):
    head, history = _fit(tmp_path / "head", PHASE.model_copy(update={"epochs": 12, "peak_lr": 1.0}))
    best = history["val_loss"].min()
    head.compile(loss="categorical_crossentropy")
    validation = _rows(2)
    found = head.evaluate(validation.source[:, 0], validation.targets, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(best, rel=1e-5)


def test_patience_ends_the_phase(tmp_path):
    _, history = _fit(tmp_path / "head", config.Head(epochs=50, batch_size=4, peak_lr=1.0, patience=2))
    assert len(history) < 50
    assert history["val_loss"].idxmin() == len(history) - 3


def test_a_loss_that_is_no_number_is_told(tmp_path):
    rows = _rows(1)
    rows.source[0] = np.nan
    with pytest.raises(ModelError, match="a smaller peak_lr"):
        fit.fit_phase(_head(), PHASE, rows, _rows(2), tmp_path / "head", seed=0)


def test_the_state_before_a_phase_competes(tmp_path):
    head = _head()
    before = head.get_weights()
    ruinous = config.Tune(epochs=2, batch_size=4, peak_lr=500.0, warmup_share=0.0)
    fit.fit_phase(head, ruinous, _rows(1), _rows(2), tmp_path / "tune", seed=0, baseline=True)
    for was, now in zip(before, head.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_killed_between_the_challenge_and_the_first_epoch_it_goes_on(tmp_path, monkeypatch):
    phase = config.Tune(epochs=2, batch_size=4)

    def tune(folder):
        head = _head()
        fit.fit_phase(head, phase, _rows(1), _rows(2), folder / "tune", seed=0, baseline=True)
        return head.get_weights()

    with monkeypatch.context() as patched, pytest.raises(_Interrupted):
        patched.setattr(fit.EpochCheckpoint, "on_epoch_begin", _raise_interrupted)
        tune(tmp_path / "broken")
    for one, other in zip(tune(tmp_path / "undisturbed"), tune(tmp_path / "broken"), strict=True):
        np.testing.assert_array_equal(one, other)


def _raise_interrupted(*_, **__):
    raise _Interrupted


def test_dropout_and_rate_are_in_the_plan(tmp_path):
    _, history = _fit(tmp_path / "head")
    assert history["learning_rate"].iloc[-1] == pytest.approx(0, abs=1e-6)
    assert history["learning_rate"].max() <= PHASE.peak_lr
    assert isinstance(_head().get_layer("dropout"), keras.layers.Dropout)


def test_the_running_mean_is_what_is_validated_and_kept(tmp_path):
    phase = PHASE.model_copy(update={"ema": 0.9, "epochs": 3})
    head, history = _fit(tmp_path / "head", phase)
    head.compile(loss="categorical_crossentropy")
    validation = _rows(2)
    found = head.evaluate(validation.source[:, 0], validation.targets, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(history["val_loss"].min(), rel=1e-4)
    _, plain = _fit(tmp_path / "plain" / "head", phase.model_copy(update={"ema": 0.0}))
    np.testing.assert_allclose(history["loss"], plain["loss"], rtol=1e-4)  # the way of the weights is the same
    assert not np.allclose(history["val_loss"], plain["val_loss"], rtol=1e-3)


def test_two_half_batches_take_the_step_of_a_whole_one(tmp_path):
    rows, validation = _rows(1, n=16), _rows(2)
    kept = []
    for batch_size, accumulate in ((8, 1), (4, 2)):
        head = network.build_head(6, 2, 0.0, seed=0)
        phase = PHASE.model_copy(
            update={"batch_size": batch_size, "accumulate": accumulate, "warmup_share": 0.0, "epochs": 1}
        )
        fit.fit_phase(head, phase, rows, validation, tmp_path / str(accumulate) / "head", seed=0)
        kept.append(head.get_layer("probabilities").kernel.numpy())
    moved = abs(kept[0] - network.build_head(6, 2, 0.0, seed=0).get_layer("probabilities").kernel.numpy()).max()
    assert moved > 0.05
    assert abs(kept[0] - kept[1]).max() < 0.4 * moved  # not 0: the rate is read at another step of the cosine


def test_smoothed_targets_leave_the_head_less_sure(tmp_path):
    phase = PHASE.model_copy(update={"epochs": 20, "patience": 20, "warmup_share": 0.0})
    sure = {}
    for smoothing in (0.0, 0.4):
        head, _ = _fit(tmp_path / str(smoothing) / "head", phase.model_copy(update={"label_smoothing": smoothing}))
        sure[smoothing] = head.predict(_rows(1).source[:, 0], verbose=0).max(axis=1).mean()
    assert sure[0.4] < sure[0.0] - 0.05


def test_clipping_bounds_a_step(tmp_path):
    rows = _rows(1)
    rows.source[...] *= 1_000
    plain, clipped = (
        _after_one_epoch(rows, tmp_path / str(norm), PHASE.model_copy(update={"clip_norm": norm, "epochs": 1}))
        for norm in (0.0, 1e-8)
    )
    assert abs(clipped).max() < abs(plain).max()


def _after_one_epoch(rows, folder, phase):
    head = _head()
    before = head.get_layer("probabilities").kernel.numpy()
    fit.fit_phase(head, phase, rows, _rows(2), folder / "head", seed=0)
    return head.get_layer("probabilities").kernel.numpy() - before


def test_a_batch_too_large_for_memory_is_told(tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.Model, "fit", exhausted)
    with pytest.raises(ModelError, match=r"--head\.batch_size 2 --head\.accumulate 2 takes the same steps"):
        _fit(tmp_path / "head")
