"""From material to a trained model: the head on features that are computed once, then a part of the backbone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np
import pandas as pd

from ..config import Config
from ..data import pipeline
from ..data.material import Material
from ..data.pixels import PixelStore
from ..files import replaced, sha256_of
from ..runs import Run
from . import features, fitting, resnet


class Stopwatch:
    """Seconds of each phase, for environment.json."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)


def fit(settings: Config, material: Material, store: PixelStore, run: Run, watch: Stopwatch) -> keras.Model:
    """The run's model with its best weights, also saved as model.keras; history.csv holds both phases."""
    head = resnet.build_head(_n_features(settings), len(material.classes), settings.model.dropout, settings.run.seed)
    history = []
    if settings.head.epochs:
        history.append(_fit_head(head, settings, material, store, run, watch))
    keras.utils.set_random_seed(settings.run.seed)  # the only seed that keras.applications listens to
    backbone = resnet.build_backbone(settings.model)
    model = resnet.join(backbone, head, settings.image)
    if settings.tune.part != "none" and settings.tune.epochs:
        resnet.set_trainable(backbone, settings.tune.part, settings.model.weights == "random")
        history.append(_fine_tune(model, settings, material, store, run, watch, sum(map(len, history))))
    if history:
        run.write_table("history.csv", pd.concat(history))
    with replaced(run.folder / "model.keras") as temporary:
        model.save(temporary)
    return model


def predict(model: keras.Model, material: Material, store: PixelStore, run: Run, watch: Stopwatch) -> np.ndarray:
    """(n, n_classes) probabilities of validation and test rows; shards in the run's folder make it resumable."""
    kept = material.of("validation", "test")
    hashes = material.images["pixel_sha256"].to_numpy()[kept]
    folder = run.folder / "outputs" / sha256_of(run.folder / "model.keras")[:16]
    with watch("predictions"):
        return features.outputs(lambda: model, hashes, store.array, store.rows[kept], folder, title="predictions")


def _fit_head(
    head: keras.Model, settings: Config, material: Material, store: PixelStore, run: Run, watch: Stopwatch
) -> pd.DataFrame:
    views = pipeline.ALL_VIEWS[: settings.head.views]
    hashes = material.images["pixel_sha256"].to_numpy()
    with watch("features"):
        pooled = features.of_backbone(settings, hashes, store.array, store.rows, views)
    training, validation = _rows(settings, material, pooled, np.arange(len(pooled)), views)
    head.get_layer("standardise").adapt(pooled[training.index, 0])
    with watch("head"):
        return fitting.fit(head, settings.head, training, validation, run.folder / "head", settings.run.seed)


def _fine_tune(
    model: keras.Model,
    settings: Config,
    material: Material,
    store: PixelStore,
    run: Run,
    watch: Stopwatch,
    n_before: int,
) -> pd.DataFrame:
    views = pipeline.views_of(settings.augment)
    training, validation = _rows(settings, material, store.array, store.rows, views)
    with watch("tune"):
        return fitting.fit(
            model, settings.tune, training, validation, run.folder / "tune", settings.run.seed, n_before,
            baseline=n_before > 0,
        )  # fmt: skip


def _rows(
    settings: Config, material: Material, source: np.ndarray, index: np.ndarray, views: tuple[int, ...]
) -> tuple[pipeline.Rows, pipeline.Rows]:
    """Training and validation rows over one source, pixels or features."""
    targets, of_train, held_out = material.targets(), material.of("train"), material.of("validation")
    labels, cases = targets[of_train].argmax(axis=1), material.split["case"].to_numpy()[of_train]
    weights = pipeline.class_weights(labels) if settings.data.balance == "class_weights" else None
    chances = pipeline.balanced(labels, cases) if settings.data.balance == "sampling" else None
    training = pipeline.Rows(source, index[of_train], targets[of_train], weights, chances, views)
    return training, pipeline.Rows(source, index[held_out], targets[held_out])


def _n_features(settings: Config) -> int:
    return sum(resnet.BLOCKS[block][1] for block in settings.model.features)
