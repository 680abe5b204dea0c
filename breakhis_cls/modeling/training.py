"""From material to a trained model: the head on features that are computed once, then a part of the backbone."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from ..config import Augment, Config
from ..data.dataset import Dataset
from ..files import atomic_path
from ..pipeline import batches
from ..pipeline.pixel_store import PixelStore
from . import devices, features, fit, network
from .run_folder import RunFolder


@dataclass
class TrainingRun:
    """One run at work. `fit` then `predict`; each goes on where a killed process left it."""

    settings: Config
    material: Dataset
    store: PixelStore
    run: RunFolder
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    strategy: tf.distribute.Strategy = field(default_factory=devices.distribution_strategy)

    def fit(self) -> keras.Model:
        """The model with its best weights, also saved as model.keras; history.csv holds both phases."""
        settings, head = self.settings, self._head()
        history = [self._fit_head(head)] if settings.head.epochs else []
        with self.strategy.scope():
            model = self._joined(head)
            if self.tunes:
                network.set_trainable(model.get_layer("backbone"), settings.model, settings.tune.part)
                history.append(self._fine_tune(model, sum(map(len, history))))
        if history:
            self.run.write_table("history.csv", pd.concat(history))
        with atomic_path(self.run.folder / "model.keras") as temporary:
            model.save(temporary)
        return model

    def predict(self, model: keras.Model) -> np.ndarray:
        """(n, n_classes) probabilities of validation and test rows, in the order of the split; the mean over
        `augment.test_views`.

        With a frozen backbone they come from the kept features; else from the whole model, in shards that make a long
        prediction resumable.
        """
        kept, views = self.material.in_part("validation", "test"), batches.ALL_VIEWS[: self.settings.augment.test_views]
        with self.measured("predictions"):
            if self.settings.head.epochs and not self.tunes:
                head, pooled = model.get_layer("head"), self._features(views)[kept]
                of_views = [head.predict(pooled[:, view], batch_size=features.BATCH_SIZE, verbose=0) for view in views]
                return np.mean(of_views, axis=0)
            folder = self.run.folder / "outputs" / _digest_of(model)[:16]
            rows = self._hashes[kept], self.store.array, self.store.rows[kept]
            build = functools.cache(lambda: features.compile_forward(model))
            of_views = [features.cached_outputs(build, *rows, folder / f"view-{v}", v, "predictions") for v in views]
            return np.mean(of_views, axis=0)

    @property
    def tunes(self) -> bool:
        """Whether there is a second phase."""
        return self.settings.tune.part != "none" and self.settings.tune.epochs > 0

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Keep a phase's seconds and peak memory in GiB, for environment.json."""
        devices.reset_peak_memory()
        started = time.monotonic()
        yield
        seconds = round(time.monotonic() - started, 2)
        self.costs[name] = {"seconds": seconds} | {
            f"peak_gib_{of}": gib for of, gib in devices.peak_memory_gib().items()
        }

    def _head(self) -> keras.Model:
        n_features = network.n_features(self.settings.model)
        return network.build_head(
            n_features, len(self.material.classes), self.settings.model.dropout, self.settings.run.seed
        )

    def _joined(self, trained: keras.Model) -> keras.Model:
        """The whole model; its head is made anew, since a distribution strategy wants its own variables."""
        keras.utils.set_random_seed(self.settings.run.seed)  # the only seed that keras.applications listens to
        backbone, head = network.build_backbone(self.settings.model), self._head()
        head.set_weights(trained.get_weights())
        head.get_layer("standardise").finalize_state()
        return network.join_model(backbone, head, self.settings.image)

    @property
    def _hashes(self) -> np.ndarray:
        return self.material.images["pixel_sha256"].to_numpy()

    def _features(self, views: tuple[int, ...]) -> np.ndarray:
        return features.backbone_features(self.settings, self._hashes, self.store.array, self.store.rows, views)

    def _fit_head(self, head: keras.Model) -> pd.DataFrame:
        views = batches.ALL_VIEWS[: self.settings.head.views]
        with self.measured("features"):
            pooled = self._features(views)
        training, validation = self._rows(pooled, np.arange(len(pooled)), views)
        head.get_layer("standardise").adapt(pooled[training.index, 0])
        with self.measured("head"):
            folder, seed = self.run.folder / "head", self.settings.run.seed
            return fit.fit_phase(head, self.settings.head, training, validation, folder, seed)

    def _fine_tune(self, model: keras.Model, n_before: int) -> pd.DataFrame:
        augment = self.settings.augment
        rows = self._rows(self.store.array, self.store.rows, batches.allowed_views(augment), augment)
        folder, seed = self.run.folder / "tune", self.settings.run.seed
        with self.measured("tune"):
            return fit.fit_phase(model, self.settings.tune, *rows, folder, seed, n_before, baseline=n_before > 0)

    def _rows(
        self, source: np.ndarray, index: np.ndarray, views: tuple[int, ...], augment: Augment | None = None
    ) -> tuple[batches.TrainingRows, batches.TrainingRows]:
        """Training and validation rows over one source, pixels or features."""
        material, balance = self.material, self.settings.data.balance
        targets, of_train, held_out = (
            material.one_hot_targets(),
            material.in_part("train"),
            material.in_part("validation"),
        )
        labels, cases = targets[of_train].argmax(axis=1), material.split["case"].to_numpy()[of_train]
        weights = batches.class_weights(labels) if balance == "class_weights" else None
        chances = batches.sampling_probabilities(labels, cases) if balance == "sampling" else None
        training = batches.TrainingRows(source, index[of_train], targets[of_train], weights, chances, views, augment)
        return training, batches.TrainingRows(source, index[held_out], targets[held_out])


def _digest_of(model: keras.Model) -> str:
    """SHA-256 over all weights."""
    sums = hashlib.sha256()
    for weight in model.weights:
        sums.update(weight.numpy().tobytes())
    return sums.hexdigest()
