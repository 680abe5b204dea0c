"""One phase of training. Killed at any moment, fine-tuning goes on after its last epoch, to the same bytes."""

import contextlib
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from .. import config
from ..errors import ModelError
from ..files import atomic_folder, write_text
from ..parallel import format_duration
from ..pipeline import batches
from ..pipeline.batches import TrainingRows
from . import devices


def fit_phase(
    model: keras.Model, phase: config.Phase, rows: TrainingRows, validation: TrainingRows, folder: Path, seed: int,
    first_epoch: int = 0, is_fitted: bool = False, checkpoints: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Train `model` for one phase and leave it with its best weights; returns the phase's rows of history.csv.

    Best is the lowest loss on validation; the weights of a model that `is_fitted` by an earlier phase, of
    `first_epoch` epochs, compete too. folder: named like the phase; holds TensorBoard's events and, with `checkpoints`,
    the last epoch, after which a killed phase goes on. Call it in the `training_scope` where the model was made; all
    devices share a batch. ModelError when the loss is not finite.
    """
    # --- JAX: its devices take equal shares of each batch, and it reads by tf.data, which must leave it the GPUs ---
    batch_size = phase.batch_size
    if devices.backend() == "jax":
        import jax

        with devices.hold_stderr(), contextlib.suppress(RuntimeError):  # it runs already
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")
        rows, validation = (one.fill_up(jax.device_count()) for one in (rows, validation))
        batch_size += -batch_size % jax.device_count()

    # --- optimizer and learning-rate schedule: linear warm-up, then a cosine to zero ---
    n_steps = batches.count_batches(len(rows), batch_size)
    n_total = max(phase.epochs * n_steps, 1)  # the schedule's length is fixed: early stopping cuts it
    n_warmup = round(phase.warmup_share * n_total)
    warmup = {"warmup_target": phase.peak_lr, "warmup_steps": n_warmup} if n_warmup else {}
    start = 0.0 if n_warmup else phase.peak_lr
    schedule = keras.optimizers.schedules.CosineDecay(start, max(n_total - n_warmup, 1), **warmup)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=phase.weight_decay),
        keras.losses.CategoricalCrossentropy(label_smoothing=phase.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=devices.jit_compile(),
    )
    model.optimizer.build(model.trainable_variables)  # so that a checkpoint holds all of its state

    # --- fit, from the last checkpoint if there is one ---
    checkpoint = EpochCheckpoint(folder, phase, seed, first_epoch, checkpoints)
    checkpoint.resume(model)
    if checkpoint.n_done:
        print(f"{folder.name}: continuing after epoch {first_epoch + checkpoint.n_done}")
    else:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # else its curves show a killed try, too
    validation_data = batches.validation_batches(validation, batch_size)  # in order, and not turned
    try:
        # Fine-tuning with a rate that is too high would else end worse than the head it began with.
        if is_fitted and not checkpoint.n_done:
            checkpoint.start_from(model, validation_data)
        if not checkpoint.ended:
            model.fit(
                batches.training_batches(rows, batch_size, seed, checkpoint.n_done, phase.epochs),
                validation_data=validation_data,
                shuffle=False,  # the stream is in order already
                callbacks=[checkpoint, keras.callbacks.TensorBoard(folder / "tensorboard")],
                verbose=1 if sys.stdout.isatty() else 0,  # Keras's bar is control codes, which a log is better without
                initial_epoch=checkpoint.n_done, epochs=phase.epochs, steps_per_epoch=n_steps,
            )  # fmt: skip
    except Exception as error:
        # TensorFlow's ResourceExhaustedError and JAX's XlaRuntimeError have no base in common.
        if "ResourceExhausted" not in type(error).__name__ and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        advice = f"--{type(phase).__name__.lower()}.batch_size {max(phase.batch_size // 2, 1)} needs half of it"
        raise ModelError(f"a batch of {phase.batch_size} does not fit into memory; {advice}") from None
    model.set_weights(checkpoint.best_weights)  # not those of the last epoch
    return pd.DataFrame(checkpoint.history)


class EpochCheckpoint(keras.callbacks.Callback):
    """Early stopping that keeps the best weights, dropout that depends on the epoch alone, and checkpoints on disk."""

    # Keras's BackupAndRestore forgets the best score, dropout's seeds and the place in the order of images.

    def __init__(self, folder: Path, phase: config.Phase, seed: int, first_epoch: int = 0, on_disk: bool = False):
        super().__init__()
        self.folder, self.phase, self.seed, self.first_epoch, self.on_disk = folder, phase, seed, first_epoch, on_disk
        self.best, self.best_epoch = math.inf, -1  # lowest validation loss, and the epoch of this phase that had it
        self.best_weights: list[np.ndarray] = []  # in memory too, as Keras's EarlyStopping has them: no read at the end
        self.history: list[dict[str, Any]] = []
        self.started = 0.0

    @property
    def n_done(self) -> int:  # epochs of this phase
        return len(self.history)

    @property
    def ended(self) -> bool:
        """All epochs are done, or early stopping ended the phase."""
        return self.n_done >= self.phase.epochs or self.n_done - 1 - self.best_epoch >= self.phase.patience

    def start_from(self, model: keras.Model, validation_data: Any) -> None:
        """Let the present weights of a compiled model compete with those of the epochs."""
        self.best = model.evaluate(validation_data, verbose=0, return_dict=True)["loss"]
        self.best_weights = model.get_weights()

    def resume(self, model: keras.Model) -> None:
        """Load the last checkpoint that was written whole, if there is one, and remove all others."""
        saved = sorted(self.folder.glob("epoch-*"))
        for leftover in [*saved[:-1], *self.folder.glob(".epoch-*")]:
            shutil.rmtree(leftover)
        if saved:
            state = json.loads((saved[-1] / "state.json").read_text(encoding="utf-8"))
            self.best, self.best_epoch, self.history = state["best"], state["best_epoch"], state["history"]
            with np.load(saved[-1] / "best.npz", allow_pickle=False) as best:
                self.best_weights = list(best.values())
            model.load_weights(saved[-1] / "last.weights.h5")

    def on_epoch_begin(self, epoch: int, logs=None) -> None:
        """Dropout's masks become a function of (seed, epoch, layer)."""
        self.started = time.monotonic()
        drawing = [layer for layer in self.model._flatten_layers() if hasattr(layer, "seed_generator")]
        for at, layer in enumerate(drawing):
            # Each step adds 1. States far apart keep a layer from dropping what another, or an epoch before, dropped.
            place, state = (self.seed, at * 2**48 + epoch * 2**24), layer.seed_generator.state
            if "64" not in state.dtype:  # JAX has 32 bits, in which distant states are drawn
                place = np.random.SeedSequence((self.seed, at, epoch)).generate_state(2)
            state.assign(place)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        """Keep the best weights, write the checkpoint, and stop the phase when patience has run out."""
        scores = {name: float((logs or {})[name]) for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
        if not math.isfinite(scores["loss"] + scores["val_loss"]):
            raise ModelError(
                f"the loss is {scores['loss']} in training and {scores['val_loss']} on validation in epoch {epoch + 1} "
                f"of phase {self.folder.name}; a smaller peak_lr than {self.phase.peak_lr:g} usually helps"
            )
        if scores["val_loss"] < self.best:
            self.best, self.best_epoch = scores["val_loss"], epoch
            self.best_weights = self.model.get_weights()
        seconds = round(time.monotonic() - self.started, 3)
        row = {"phase": self.folder.name, "epoch": self.first_epoch + epoch + 1} | scores
        row |= {"learning_rate": float(self.model.optimizer.learning_rate), "seconds": seconds}
        self.history.append(row)

        # One line an epoch in a log; on a terminal Keras shows the scores.
        if not sys.stdout.isatty():
            left_s = seconds * (self.phase.epochs - self.n_done)
            left = f", at most {format_duration(left_s)} left" if left_s >= 1 else ""
            shown = [f"{name.replace('val_', 'validation ')} {value:.3f}" for name, value in scores.items()]
            where = f"{self.folder.name}: epoch {epoch + 1} of {self.phase.epochs}"
            print(f"{where}: {', '.join(shown)}, {format_duration(seconds)}{left}")

        # A folder that is renamed whole: a kill leaves this epoch or the one before, never half of one.
        if self.on_disk:
            previous = list(self.folder.glob("epoch-*"))
            with atomic_folder(self.folder / f"epoch-{self.n_done:05d}") as temporary:
                self.model.save_weights(temporary / "last.weights.h5")  # with the optimizer's state
                np.savez(temporary / "best.npz", *self.best_weights)
                state = {"best": self.best, "best_epoch": self.best_epoch, "history": self.history}
                write_text(temporary / "state.json", json.dumps(state))
            for older in previous:
                shutil.rmtree(older)
        self.model.stop_training = self.ended
