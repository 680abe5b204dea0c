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

    @functools.cached_property
    def store(self) -> PixelStore:
        """The pixels of the data set's images; not needed on embeddings from elsewhere."""
        return PixelStore.open(self.dataset.images, self.dataset.root, self.settings.image, self.settings.data.cache)

    @functools.cached_property
    def _inner_folds(self) -> np.ndarray:
        """(n,) of the images that a head may be fitted on; -1 in test."""
        seen, folds = self.dataset.in_part("train", "validation"), np.full(len(self.dataset.split), -1)
        folds[seen] = assign_inner_folds(self.dataset.split[seen], self.settings.split)
        return folds

    def _sample(self, pooled: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features, labels, cases and inner folds of rows of the data set, as probes are fitted on them."""
        labels, cases = self.dataset.one_hot_targets().argmax(axis=1), self.dataset.split["case"].to_numpy()
        return pooled[rows], labels[rows], cases[rows], self._inner_folds[rows]

    def _features(self) -> np.ndarray:
        if self.settings.features.source:
            return embeddings.select_rows(self.settings.features.source, self.dataset.images["file"])
        hashes = self.dataset.images["pixel_sha256"].to_numpy()
        return features.backbone_features(self.settings, hashes, self.store.array, self.store.rows)

    def fit(self) -> Any:
        """The head on frozen features (a Probe), or the fine-tuned keras.Model; saved where it can predict images.

        A frozen backbone leaves head.npz and, unless `run.save_model` is false, model.keras; fine-tuning the latter.
        """
        settings, dataset, folder, seed = self.settings, self.dataset, self.run.folder, self.settings.run.seed
        n_classes, trained, history = len(dataset.classes), None, []

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
                    rows = dataset.in_part("train", *([] if settings.fine_tunes else ["validation"]))
                    trained = head.PROBES[settings.head.kind](*self._sample(pooled, rows), n_classes, settings)
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
            last = network.build_head(backbone.output_shape[-1], n_classes, settings.model.dropout, seed)
            if trained is not None:
                network.set_head_weights(last, trained)
            model = network.join_model(backbone, last, settings.image)

            # --- fine-tuning, which has to beat the head on the frozen backbone ---
            if settings.fine_tunes:
                network.set_trainable(backbone, settings.model, settings.tune.part)
                views = batches.allowed_views(settings.augment)
                rows = build_rows(settings, dataset, self.store.array, self.store.rows, views)
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

    def _fit_keras_head(self, pooled: np.ndarray) -> tuple[LinearHead, pd.DataFrame]:
        """The same layer and penalty as the logistic head's, trained on train alone, with early stopping."""
        settings, n_classes, seed = self.settings, len(self.dataset.classes), self.settings.run.seed
        devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports Keras
        from . import fit, network

        training, validation = build_rows(settings, self.dataset, pooled, np.arange(len(pooled)))
        n_cases = self.dataset.split["case"].iloc[training.index].nunique()
        l2 = head.l2_of_mean_loss(settings.head.C, n_cases, n_classes)
        model = network.build_head(pooled.shape[1], n_classes, settings.model.dropout, seed, l2)
        # Mean and variance come from the training images alone: no look at validation or test.
        model.get_layer("standardise").adapt(pooled[training.index])
        epochs = fit.fit_phase(model, settings.head, training, validation, self.run.folder / "head", seed)
        return network.get_head_weights(model), epochs

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
            if settings.fine_tunes or not settings.head.epochs:
                probabilities[evaluated] = features.predict_rows(model, self.store.array, self.store.rows[evaluated])
            else:
                pooled, n_classes = self._features(), len(dataset.classes)
                probabilities[evaluated] = model.predict(pooled[evaluated])
                if settings.head.kind != "keras":
                    probabilities[seen] = head.predict_out_of_fold(*self._sample(pooled, seen), n_classes, settings)
        return probabilities


def build_rows(
    settings: Config, dataset: Dataset, source: np.ndarray, index: np.ndarray, views: tuple[int, ...] = ()
) -> tuple[TrainingRows, TrainingRows]:
    """Training and validation rows over one source: pixels in some views, or features; with `data.balance`.

    index: (n,) row of the source of each image of the data set.
    """
    balance, targets = settings.data.balance, dataset.one_hot_targets()
    train, validation = dataset.in_part("train"), dataset.in_part("validation")
    # Both are computed on train alone. The loss on validation stays unweighted, so that runs compare.
    labels, weights = targets[train].argmax(axis=1), None
    if not views:  # the head: every case weighs the same, 1 on average over images
        weights = head.case_weights(labels, dataset.split["case"].to_numpy()[train], balance)
        weights *= len(weights) / weights.sum()
    elif balance == "class_weights":
        weights = compute_sample_weight("balanced", labels)
    shown = {"views": views, "augment": settings.augment} if views else {}
    return (
        TrainingRows(source, index[train], targets[train], weights, **shown),
        TrainingRows(source, index[validation], targets[validation]),
    )
