"""One run, from features to predictions: a head on features that are computed once, then a part of the backbone.

Keras is imported where it is needed: a logistic head on cached features needs none.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight

from ..config import Config
from ..data import embeddings
from ..data.dataset import Dataset
from ..data.splits import assign_inner_folds
from ..files import atomic_path, write_csv
from ..pipeline import batches
from ..pipeline.batches import TrainingRows
from ..pipeline.pixel_store import PixelStore
from . import devices, features, head
from .head import LinearHead
from .run_folder import RunFolder


@dataclass
class TrainingRun:
    """Call `fit`, then `predict`; after a kill both do again what takes seconds and continue what takes minutes."""

    settings: Config
    dataset: Dataset
    run: RunFolder
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds and peak memory of each phase, for environment.json."""

    def __post_init__(self) -> None:
        self._labels = self.dataset.one_hot_targets().argmax(axis=1)
        self._cases = self.dataset.split["case"].to_numpy()

    @functools.cached_property
    def store(self) -> PixelStore:
        """The pixels of the data set's images; not needed on embeddings from elsewhere."""
        return PixelStore.open(self.dataset.images, self.dataset.root, self.settings.image, self.settings.data.cache)

    def fit(self) -> Any:
        """The head on frozen features (a Probe), or the fine-tuned keras.Model; saved where it can predict images.

        A frozen backbone leaves head.npz and, unless `run.save_model` is false, model.keras; fine-tuning the latter.
        """
        settings, folder, seed = self.settings, self.run.folder, self.settings.run.seed
        trained, history = None, []

        # --- the head on features of the frozen backbone ---
        if settings.head.epochs:
            with devices.measure_cost(self.costs, "features"):
                pooled = self._features()
            with devices.measure_cost(self.costs, "head"):
                if settings.head.kind == "keras":
                    trained, epochs = self._fit_keras_head(pooled)
                    history.append(epochs)
                    write_csv(folder / "history.csv", epochs)  # for those who watch a run that goes on to fine-tuning
                else:
                    # Nothing is chosen on validation here. Fine-tuning stops by it, so it must be new to the head.
                    rows = self.dataset.in_part("train", *([] if settings.fine_tunes else ["validation"]))
                    sample = pooled[rows], self._labels[rows], self._cases[rows], self._inner_folds[rows]
                    trained = head.PROBES[settings.head.kind](*sample, len(self.dataset.classes), settings)
            if not isinstance(trained, LinearHead):
                return trained
            if not settings.fine_tunes:
                head.save_head(folder / "head.npz", trained, settings)
                # A sweep has hundreds of such runs, which share the backbone; of embeddings there is none.
                if settings.features.source or not settings.run.save_model:
                    return trained

        # --- the whole model ---
        devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports Keras
        from . import fit, network

        with devices.training_scope():
            backbone = network.build_backbone(settings.model, seed=seed)
            last = network.build_head(
                backbone.output_shape[-1], len(self.dataset.classes), settings.model.dropout, seed
            )
            if trained is not None:
                network.set_head_weights(last, trained)
            model = network.join_model(backbone, last, settings.image)

            # --- fine-tuning, which has to beat the head on the frozen backbone ---
            if settings.fine_tunes:
                network.set_trainable(backbone, settings.model, settings.tune.part)
                views = batches.allowed_views(settings.augment)
                rows = build_rows(settings, self.dataset, self.store.array, self.store.rows, views)
                n_before = sum(map(len, history))  # epochs of the head; history.csv counts on
                with devices.measure_cost(self.costs, "tune"):
                    tuned = fit.fit_phase(
                        model, settings.tune, *rows, folder / "tune", seed, n_before, trained is not None, True
                    )
                write_csv(folder / "history.csv", pd.concat([*history, tuned]))

        # Written last: whoever finds the file may use it.
        with atomic_path(folder / "model.keras") as temporary:
            model.save(temporary)
        return model if settings.fine_tunes or trained is None else trained

    def predict(self, model: Any) -> np.ndarray:
        """(n, n_classes) probabilities in the order of the split; NaN of images that are not evaluated.

        model: as `fit` returns it.

        What is chosen later (temperature, thresholds) needs predictions of images that a model was not fitted on. All
        heads but Keras's are fitted on validation too: each of those images is predicted without its inner fold.
        """
        settings, dataset = self.settings, self.dataset
        probabilities = np.full((len(dataset.split), len(dataset.classes)), np.nan)
        evaluated, seen = dataset.in_part("validation", "test"), dataset.in_part("train", "validation")
        with devices.measure_cost(self.costs, "predictions"):
            if not settings.fine_tunes and settings.head.epochs:
                pooled = self._features()
                probabilities[evaluated] = model.predict(pooled[evaluated])
                if settings.head.kind != "keras":
                    sample = pooled[seen], self._labels[seen], self._cases[seen]
                    probabilities[seen] = head.predict_out_of_fold(
                        *sample, self._inner_folds[seen], len(dataset.classes), settings
                    )
                return probabilities

            rows = self.store.rows[evaluated]
            probabilities[evaluated] = features.predict_rows(model, self.store.array, rows)
            return probabilities

    def _fit_keras_head(self, pooled: np.ndarray) -> tuple[LinearHead, pd.DataFrame]:
        """The same layer and penalty as the logistic head's, trained on train alone, with early stopping."""
        settings, dataset = self.settings, self.dataset
        devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports Keras
        from . import fit, network

        training, validation = build_rows(settings, dataset, pooled, np.arange(len(pooled)))
        train = training.index
        n_classes, n_cases = len(dataset.classes), len(np.unique(self._cases[train]))
        l2 = head.l2_of_mean_loss(settings.head.C, n_cases, n_classes)
        model = network.build_head(pooled.shape[1], n_classes, settings.model.dropout, settings.run.seed, l2)
        # Mean and variance come from the training images alone: no look at validation or test.
        model.get_layer("standardise").adapt(pooled[train])
        epochs = fit.fit_phase(model, settings.head, training, validation, self.run.folder / "head", settings.run.seed)
        return network.get_head_weights(model), epochs

    @functools.cached_property
    def _inner_folds(self) -> np.ndarray:
        """(n,) of the images that a head may be fitted on; -1 in test."""
        seen, folds = self.dataset.in_part("train", "validation"), np.full(len(self.dataset.split), -1)
        folds[seen] = assign_inner_folds(self.dataset.split[seen], self.settings.split)
        return folds

    def _features(self) -> np.ndarray:
        if self.settings.features.source:
            return embeddings.select_rows(self.settings.features.source, self.dataset.images["file"])
        hashes = self.dataset.images["pixel_sha256"].to_numpy()
        return features.backbone_features(self.settings, hashes, self.store.array, self.store.rows)


def build_rows(
    settings: Config, dataset: Dataset, source: np.ndarray, index: np.ndarray, views: tuple[int, ...] = ()
) -> tuple[TrainingRows, TrainingRows]:
    """Training and validation rows over one source: pixels in some views, or features; with `data.balance`.

    index: (n,) row of the source of each image of the data set.
    """
    balance, targets = settings.data.balance, dataset.one_hot_targets()
    train, validation = dataset.in_part("train"), dataset.in_part("validation")
    # Both are computed on train alone. The loss on validation stays unweighted, so that runs compare.
    labels, cases = targets[train].argmax(axis=1), dataset.split["case"].to_numpy()[train]
    weights = None
    if not views:  # the head: every case weighs the same, 1 on average over images
        weights = head.case_weights(labels, cases, balance)
        weights *= len(weights) / weights.sum()
    elif balance == "class_weights":
        weights = compute_sample_weight("balanced", labels)
    shown = {"views": views, "augment": settings.augment} if views else {}
    return (
        TrainingRows(source, index[train], targets[train], weights, **shown),
        TrainingRows(source, index[validation], targets[validation]),
    )
