"""One run, from features to predictions: a head on features that are computed once, then a part of the backbone."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

import keras
import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight

from ..config import Augment, Config
from ..data.dataset import Dataset
from ..files import atomic_path, write_csv
from ..pipeline import batches
from ..pipeline.pixel_store import PixelStore
from . import devices, features, fit, network
from .run_folder import RunFolder


@dataclass
class TrainingRun:
    """Call `fit`, then `predict`; after a kill both do again what takes seconds and continue what takes minutes."""

    settings: Config
    dataset: Dataset
    store: PixelStore
    run: RunFolder
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds and peak memory of each phase, for environment.json."""

    @property
    def tunes(self) -> bool:
        """Whether a part of the backbone is fine-tuned."""
        return self.settings.tune.part != "none" and self.settings.tune.epochs > 0

    def fit(self) -> keras.Model:
        """The model with its best weights, saved in the run's folder; history.csv holds both phases.

        Saved as model.keras; with `run.save_model` false a run on a frozen backbone saves head.npz, returns the head.
        """
        settings, folder, seed = self.settings, self.run.folder, self.settings.run.seed
        size = network.n_features(settings.model), len(self.dataset.classes)
        build_head = functools.partial(network.build_head, *size, settings.model.dropout, seed)
        head, history = build_head(), []

        # --- features of the frozen backbone, and the head on them ---
        if settings.head.epochs:
            views = batches.ALL_VIEWS[: settings.head.views]
            with devices.measure_cost(self.costs, "features"):
                pooled = self._features(views)
            training, validation = self._rows(pooled, np.arange(len(pooled)), views)
            # Mean and variance come from the unturned training images alone: no look at validation or test.
            head.get_layer("standardise").adapt(pooled[training.index, 0])
            with devices.measure_cost(self.costs, "head"):
                history.append(fit.fit_phase(head, settings.head, training, validation, folder / "head", seed))
            write_csv(folder / "history.csv", history[0])  # for those who watch a run that goes on to fine-tuning
            # A sweep has hundreds of such runs: they need no backbone any more, and share it on disk.
            if not settings.run.save_model and not self.tunes:
                network.save_head(folder / "head.npz", head, settings)
                return head

        # --- the whole model; its head is built anew, since a distribution strategy wants variables of its own ---
        with devices.distribution_strategy().scope():
            keras.utils.set_random_seed(seed)  # the only seed that keras.applications uses
            backbone, trained = network.build_backbone(settings.model), head
            head = build_head()
            network.set_head_weights(head, trained.get_weights())
            model = network.join_model(backbone, head, settings.image)

            # --- fine-tuning, which has to beat the head on the frozen backbone ---
            if self.tunes:
                network.set_trainable(backbone, settings.model, settings.tune.part)
                views = batches.allowed_views(settings.augment)
                rows = self._rows(self.store.array, self.store.rows, views, settings.augment)
                n_before = sum(map(len, history))  # epochs of the head; history.csv counts on
                with devices.measure_cost(self.costs, "tune"):
                    tuned = fit.fit_phase(
                        model, settings.tune, *rows, folder / "tune", seed, n_before, checkpoints=True
                    )
                write_csv(folder / "history.csv", pd.concat([*history, tuned]))

        # Written last: whoever finds the file may use it.
        with atomic_path(folder / "model.keras") as temporary:
            model.save(temporary)
        return model

    def predict(self, model: keras.Model) -> np.ndarray:
        """(n, n_classes) probabilities of validation and test rows, in the order of the split.

        They are the mean over `augment.test_views`. model: as `fit` returns it, or `network.load_run_model`.
        """
        evaluated = self.dataset.in_part("validation", "test")
        views = batches.ALL_VIEWS[: self.settings.augment.test_views]
        with devices.measure_cost(self.costs, "predictions"):
            # --- frozen backbone: from the features that are kept ---
            if self.settings.head.epochs and not self.tunes:
                head = model if model.name == "head" else model.get_layer("head")
                pooled = self._features(views)[evaluated]
                outputs = [head.predict(pooled[:, at], batch_size=features.BATCH_SIZE, verbose=0) for at in views]
                return np.mean(outputs, axis=0)

            # --- fine-tuned: from pixels, in shards under the hash of the weights, so that a kill costs one shard ---
            digest = hashlib.sha256()
            for weight in model.get_weights():
                digest.update(weight.tobytes())
            folder = self.run.folder / "outputs" / digest.hexdigest()[:16]
            build = functools.cache(lambda: features.compile_forward(model))
            rows = self._pixel_hashes[evaluated], self.store.array, self.store.rows[evaluated]
            in_view = [(folder / f"view-{view}", view, "predictions") for view in views]
            return np.mean([features.cached_outputs(build, *rows, *where) for where in in_view], axis=0)

    @property
    def _pixel_hashes(self) -> np.ndarray:
        return self.dataset.images["pixel_sha256"].to_numpy()

    def _features(self, views: tuple[int, ...]) -> np.ndarray:
        return features.backbone_features(self.settings, self._pixel_hashes, self.store.array, self.store.rows, views)

    def _rows(
        self, source: np.ndarray, index: np.ndarray, views: tuple[int, ...], augment: Augment | None = None
    ) -> tuple[batches.TrainingRows, batches.TrainingRows]:
        """Training and validation rows over one source, pixels or features; balanced as `data.balance` says."""
        dataset, balance = self.dataset, self.settings.data.balance
        targets, train, validation = dataset.one_hot_targets(), dataset.in_part("train"), dataset.in_part("validation")
        # Both are computed on train alone. The loss on validation stays unweighted, so that runs compare.
        labels, cases = targets[train].argmax(axis=1), dataset.split["case"].to_numpy()[train]
        weights = compute_sample_weight("balanced", labels) if balance == "class_weights" else None
        chances = batches.sampling_probabilities(labels, cases) if balance == "sampling" else None
        return (
            batches.TrainingRows(source, index[train], targets[train], weights, chances, views, augment),
            batches.TrainingRows(source, index[validation], targets[validation]),
        )
