"""The two phases of training. Killed at any moment, a phase goes on after its last epoch, to the same bytes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from .. import config
from ..errors import ModelError
from ..files import write_text
from ..pipeline import batches
from ..pipeline.batches import TrainingRows


def fit_phase(
    model: keras.Model,
    phase: config.Phase,
    rows: TrainingRows,
    validation: TrainingRows,
    folder: Path,
    seed: int,
    first_epoch: int = 0,
    baseline: bool = False,
) -> pd.DataFrame:
    """Train `model` for one phase and leave it with its best weights; returns history rows (see DESIGN: history.csv).

    Best is the lowest loss on validation; with `baseline`, what the model could before the phase competes too.
    folder: the phase's own, holds TensorBoard's events and the last good epoch. Under a distribution strategy call it
    in the scope where the model was made; batch_size is that of all replicas together, and the rate stays as set.
    Raises ModelError when the loss is not a number, or a batch does not fit into the GPU's memory.
    """
    n_steps = batches.steps_per_epoch(rows, phase.batch_size)
    _compile(model, phase, n_steps)
    model.optimizer.build(model.trainable_variables)  # so that it is saved and loaded whole
    keeper = EpochCheckpoint(folder, phase, seed, first_epoch)
    held_out = batches.validation_batches(validation, phase.batch_size)
    begun = keeper.resume(model)
    with _sentence_when_out_of_memory(phase):
        if baseline and not begun:
            keeper.challenge(model, model.evaluate(held_out, verbose=0, return_dict=True)["loss"])
        if not keeper.ended:
            model.fit(
                batches.training_batches(rows, phase.batch_size, seed, keeper.n_done, phase.epochs),
                validation_data=held_out,
                shuffle=False,  # the stream is in order already
                initial_epoch=keeper.n_done,
                epochs=phase.epochs,
                steps_per_epoch=n_steps,
                callbacks=[*keeper.averaging, keeper, keras.callbacks.TensorBoard(folder / "tensorboard")],
            )
    keeper.restore_best(model)
    return pd.DataFrame(keeper.state["history"])


@contextlib.contextmanager
def _sentence_when_out_of_memory(phase: config.Phase) -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        section, smaller = type(phase).__name__.lower(), max(phase.batch_size // 2, 1)
        raise ModelError(
            f"a batch of {phase.batch_size} does not fit into memory; --{section}.batch_size {smaller} "
            f"--{section}.accumulate {2 * phase.accumulate} takes the same steps in half of it"
        ) from None


class EpochCheckpoint(keras.callbacks.Callback):
    """Keeps the last epoch (weights, optimizer, history, best score) and the best weights in one folder, renamed whole.

    Keras's BackupAndRestore forgets the best score, dropout's seeds and the place in the order; here the order and the
    seeds are functions of the epoch, and the score is kept.
    """

    def __init__(self, folder: Path, phase: config.Phase, seed: int, first_epoch: int):
        super().__init__()
        self.folder, self.phase, self.seed, self.first_epoch = folder, phase, seed, first_epoch
        self.state: dict[str, Any] = {"best": math.inf, "best_epoch": -1, "history": []}
        self.averaging = [keras.callbacks.SwapEMAWeights()] if phase.ema else []  # validates the running mean
        self.started = 0.0

    @property
    def n_done(self) -> int:
        """Epochs of this phase that are safe on disk."""
        return len(self.state["history"])

    @property
    def ended(self) -> bool:
        """All epochs are done, or patience ran out."""
        return self.n_done >= self.phase.epochs or self.n_done - 1 - self.state["best_epoch"] >= self.phase.patience

    def resume(self, model: keras.Model) -> bool:
        """Load the last epoch that was saved whole; whether there is one."""
        for unfinished in self.folder.glob(".saving-*"):
            shutil.rmtree(unfinished)
        saved = self._last()
        if saved is not None:
            for older in set(self.folder.glob("epoch-*")) - {saved}:
                shutil.rmtree(older)
            self.state = json.loads((saved / "state.json").read_text())
            model.load_weights(saved / "last.weights.h5")
        return saved is not None

    def challenge(self, model: keras.Model, loss: float) -> None:
        """Enter the untrained state as the one to beat."""
        self.state |= {"best": loss, "best_epoch": -1}
        self._save(model, is_best=True)

    def restore_best(self, model: keras.Model) -> None:
        """Leave the model with the weights of the lowest validation loss."""
        saved = self._last()
        if saved is not None:
            model.load_weights(saved / "best.weights.h5")

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Dropout's masks become a function of (seed, epoch, layer)."""
        self.started = time.monotonic()
        drawing = [layer for layer in self.model._flatten_layers() if hasattr(layer, "seed_generator")]
        for at, layer in enumerate(drawing):
            # Each step adds 1: blocks of states that overlap would drop the same, a layer or an epoch later.
            layer.seed_generator.state.assign([self.seed, at * 2**48 + epoch * 2**24])

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Save the epoch; stop the phase when patience has run out."""
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(logs["loss"]) or not math.isfinite(logs["val_loss"]):
            raise ModelError(
                f"the loss became {logs['loss']} in epoch {epoch} of this phase; a smaller peak_lr than "
                f"{self.phase.peak_lr:g} is the usual cure. The last good epoch is kept in {self.folder}"
            )
        is_best = logs["val_loss"] < self.state["best"]
        if is_best:
            self.state |= {"best": logs["val_loss"], "best_epoch": epoch}
        self.state["history"].append(self._row(epoch, logs))
        self._save(self.model, is_best)
        self.model.stop_training = self.ended

    def _row(self, epoch: int, logs: dict[str, float]) -> dict[str, Any]:
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        rate = float(self.model.optimizer.learning_rate)
        seconds = round(time.monotonic() - self.started, 3)
        known = {name: logs[name] for name in names}
        return {
            "phase": self.folder.name,
            "epoch": self.first_epoch + epoch,
            **known,
            "learning_rate": rate,
            "seconds": seconds,
        }

    def _save(self, model: keras.Model, is_best: bool) -> None:
        before = self._last()
        saving = self.folder / f".saving-{uuid.uuid4().hex[:8]}"
        saving.mkdir(parents=True)
        last, best = saving / "last.weights.h5", saving / "best.weights.h5"
        try:
            if is_best and self.n_done:
                self._save_averaged(model, best)
            model.save_weights(last)  # with the optimizer's state
            if not best.exists():
                os.link(last if is_best or before is None else before / "best.weights.h5", best)
            write_text(saving / "state.json", json.dumps(self.state))
            saving.rename(self.folder / f"epoch-{self.n_done:05d}")
        finally:
            shutil.rmtree(saving, ignore_errors=True)
        if before is not None:
            shutil.rmtree(before)

    def _save_averaged(self, model: keras.Model, path: Path) -> None:
        """The running mean, where there is one; the swap back rounds, so that the last weights are saved after it."""
        for average in self.averaging:
            average.on_test_begin()
            model.save_weights(path)
            average.on_test_end()

    def _last(self) -> Path | None:
        return max(self.folder.glob("epoch-*"), default=None)


def _compile(model: keras.Model, phase: config.Phase, n_steps: int) -> None:
    total = max(phase.epochs * n_steps, 1)
    n_warmup = round(phase.warmup_share * total)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if n_warmup else phase.peak_lr,
        decay_steps=max(total - n_warmup, 1),
        warmup_target=phase.peak_lr if n_warmup else None,
        warmup_steps=n_warmup,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(
            schedule,
            weight_decay=phase.weight_decay,
            global_clipnorm=phase.clip_norm or None,
            use_ema=phase.ema > 0,
            ema_momentum=phase.ema,
            gradient_accumulation_steps=phase.accumulate if phase.accumulate > 1 else None,
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=phase.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # off on CPU and under op determinism anyway; a GPU run should not differ in this
    )
