"""From material to a trained model: the head on features that are computed once, then a part of the backbone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd

from ..config import Config
from ..data import pipeline
from ..data.material import Material
from ..data.pixels import PixelStore
from ..files import replaced
from ..runs import Run
from . import features, fitting, network


@dataclass
class Training:
    """One run at work. `fit` then `predict`; each goes on where a killed process left it."""

    settings: Config
    material: Material
    store: PixelStore
    run: Run
    seconds: dict[str, float] = field(default_factory=dict)

    def fit(self) -> keras.Model:
        """The model with its best weights, also saved as model.keras; history.csv holds both phases."""
        settings = self.settings
        n_features = sum(network.BLOCKS[block][1] for block in settings.model.features)
        head = network.build_head(n_features, len(self.material.classes), settings.model.dropout, settings.run.seed)
        history = [self._fit_head(head)] if settings.head.epochs else []
        keras.utils.set_random_seed(settings.run.seed)  # the only seed that keras.applications listens to
        backbone = network.build_backbone(settings.model)
        model = network.join(backbone, head, settings.image)
        if self.tunes:
            network.set_trainable(backbone, settings.tune.part, settings.model.weights == "random")
            history.append(self._fine_tune(model, sum(map(len, history))))
        if history:
            self.run.write_table("history.csv", pd.concat(history))
        with replaced(self.run.folder / "model.keras") as temporary:
            model.save(temporary)
        return model

    def predict(self, model: keras.Model) -> np.ndarray:
        """(n, n_classes) probabilities of validation and test rows, in the order of the split.

        With a frozen backbone they come from the kept features; else from the whole model, in shards that make a long
        prediction resumable.
        """
        kept = self.material.of("validation", "test")
        with self.timed("predictions"):
            if self.settings.head.epochs and not self.tunes:
                pooled = self._features((0,))[kept, 0]
                return model.get_layer("head").predict(pooled, batch_size=features.BATCH_SIZE, verbose=0)
            folder = self.run.folder / "outputs" / _digest_of(model)[:16]
            rows = self._hashes[kept], self.store.array, self.store.rows[kept]
            return features.outputs(lambda: features.compiled(model), *rows, folder, title="predictions")

    @property
    def tunes(self) -> bool:
        """Whether there is a second phase."""
        return self.settings.tune.part != "none" and self.settings.tune.epochs > 0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Keep the seconds of a phase, for environment.json."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    @property
    def _hashes(self) -> np.ndarray:
        return self.material.images["pixel_sha256"].to_numpy()

    def _features(self, views: tuple[int, ...]) -> np.ndarray:
        return features.of_backbone(self.settings, self._hashes, self.store.array, self.store.rows, views)

    def _fit_head(self, head: keras.Model) -> pd.DataFrame:
        views = pipeline.ALL_VIEWS[: self.settings.head.views]
        with self.timed("features"):
            pooled = self._features(views)
        training, validation = self._rows(pooled, np.arange(len(pooled)), views)
        head.get_layer("standardise").adapt(pooled[training.index, 0])
        with self.timed("head"):
            folder, seed = self.run.folder / "head", self.settings.run.seed
            return fitting.fit(head, self.settings.head, training, validation, folder, seed)

    def _fine_tune(self, model: keras.Model, n_before: int) -> pd.DataFrame:
        augment = self.settings.augment
        rows = self._rows(self.store.array, self.store.rows, pipeline.views_of(augment), augment.stain)
        folder, seed = self.run.folder / "tune", self.settings.run.seed
        with self.timed("tune"):
            return fitting.fit(model, self.settings.tune, *rows, folder, seed, n_before, baseline=n_before > 0)

    def _rows(
        self, source: np.ndarray, index: np.ndarray, views: tuple[int, ...], stain: float = 0.0
    ) -> tuple[pipeline.Rows, pipeline.Rows]:
        """Training and validation rows over one source, pixels or features."""
        material, balance = self.material, self.settings.data.balance
        targets, of_train, held_out = material.targets(), material.of("train"), material.of("validation")
        labels, cases = targets[of_train].argmax(axis=1), material.split["case"].to_numpy()[of_train]
        weights = pipeline.class_weights(labels) if balance == "class_weights" else None
        chances = pipeline.balanced(labels, cases) if balance == "sampling" else None
        training = pipeline.Rows(source, index[of_train], targets[of_train], weights, chances, views, stain)
        return training, pipeline.Rows(source, index[held_out], targets[held_out])


def _digest_of(model: keras.Model) -> str:
    """SHA-256 over all weights."""
    sums = hashlib.sha256()
    for weight in model.weights:
        sums.update(weight.numpy().tobytes())
    return sums.hexdigest()
