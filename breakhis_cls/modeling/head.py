"""Heads on a frozen encoder's features, in which every case weighs the same. Imports no TensorFlow.

Logistic regression on standardised features is a convex problem with one solution: no epochs, no seed, the same bytes
every time. Nearest neighbours and class means probe the features in other ways.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize
from threadpoolctl import threadpool_limits

from .. import config
from ..data.splits import class_names
from ..errors import ModelError
from ..files import atomic_path
from .weights import weights_identity

# A class without a training image has no solution: its logit lies this far below the lowest bias.
UNSEEN_LOGIT = -10.0
N_NEIGHBOURS = (1, 3, 5, 10, 20, 40, 80)  # of which k is chosen; the middle one where it cannot be
PROTOTYPE_SCALE = 10.0  # logits of unit vectors; no ranking depends on it: Gidaris and Komodakis 2018, section 3.2
SHOTS = 3  # the purpose of a random draw, as part of its seed


class LinearHead(NamedTuple):
    """Weights of Keras's Normalization (mean, variance) and of a Dense layer with softmax (kernel, bias)."""

    mean: np.ndarray  # (d,)
    variance: np.ndarray  # (d,)
    kernel: np.ndarray  # (d, n_classes)
    bias: np.ndarray  # (n_classes,)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n, d) features -> (n, n_classes) probabilities, float64, as every kind of head."""
        standardised = (features - self.mean) / np.maximum(np.sqrt(self.variance), 1e-7)  # as Keras does
        with threadpool_limits(1):
            return softmax(standardised @ self.kernel + self.bias, axis=1)


def fit_logistic(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, n_classes: int, C: float) -> LinearHead:
    """Minimum of C * sum(weights * log loss) + |kernel|^2 / 2 over standardised features (n, d), by L-BFGS.

    labels: (n,) index of the class, at least two of which occur. weights: (n,) of `case_weights`.
    """
    features = features.astype(np.float64)
    scaler = StandardScaler().fit(features)
    # One thread: how a sum is split over threads would change its last bits, and sweeps run several fits at a time.
    with threadpool_limits(1):
        solver = LogisticRegression(C=C, max_iter=5_000, tol=1e-6)
        solver.fit(scaler.transform(features), labels, sample_weight=weights)
    coefficients, intercepts = solver.coef_, solver.intercept_
    if len(solver.classes_) == 2:  # scikit-learn keeps the difference of the two classes' logits
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel, bias = np.zeros((features.shape[1], n_classes)), np.full(n_classes, intercepts.min() + UNSEEN_LOGIT)
    kernel[:, solver.classes_], bias[solver.classes_] = coefficients.T, intercepts
    return LinearHead(np.asarray(scaler.mean_), np.asarray(scaler.scale_) ** 2, kernel, bias)


class Neighbours(NamedTuple):
    """Nearest neighbours by cosine, in features that were centred."""

    centre: np.ndarray  # (d,)
    features: np.ndarray  # (n, d) centred
    votes: np.ndarray  # (n, n_classes) the weight of an image at its class
    k: int = 0

    def predict(self, features: np.ndarray) -> np.ndarray:
        return self.predict_with([self.k], features)[0]

    def predict_with(self, candidates: list[int], features: np.ndarray) -> list[np.ndarray]:
        """Probabilities for several k: the weights of the k nearest images, and the prior as one image more."""
        search = NearestNeighbors(metric="cosine", algorithm="brute").fit(self.features)
        with threadpool_limits(1):
            nearest = search.kneighbors(features - self.centre, max(candidates), return_distance=False)
        prior = self.votes.sum(axis=0) / self.votes.sum()
        sums = [(k, self.votes[nearest[:, :k]].sum(axis=1)) for k in candidates]
        return [(k * votes / votes.sum(axis=1, keepdims=True) + prior) / (k + 1) for k, votes in sums]


def fit_knn(
    features: np.ndarray, labels: np.ndarray, cases: np.ndarray, folds: np.ndarray, n_classes: int,
    settings: config.Config,
) -> Neighbours:  # fmt: skip
    """Nearest neighbours, k by the lowest log loss of predictions out of fold (n,), every case weighing the same."""
    features, weights = features.astype(np.float64), case_weights(labels, cases, settings.data.balance)

    def neighbours(rows: np.ndarray) -> Neighbours:
        centre = np.average(features[rows], axis=0, weights=weights[rows])
        return Neighbours(centre, features[rows] - centre, np.eye(n_classes)[labels[rows]] * weights[rows, None])

    losses, candidates = np.zeros(len(N_NEIGHBOURS)), [min(k, len(labels)) for k in N_NEIGHBOURS]
    for held_out in _each_fold(labels, folds):
        fold_candidates = [min(k, int((~held_out).sum())) for k in candidates]
        predicted = neighbours(~held_out).predict_with(fold_candidates, features[held_out])
        truth = np.arange(held_out.sum()), labels[held_out]
        losses -= [(weights[held_out] * np.log(np.maximum(one[truth], 1e-12))).sum() for one in predicted]
    chosen = int(np.argmin(losses)) if losses.any() else len(N_NEIGHBOURS) // 2
    return neighbours(np.ones(len(labels), dtype=bool))._replace(k=candidates[chosen])


class Prototypes(NamedTuple):
    """Class means of features that were centred and scaled to length 1 (SimpleShot, arXiv:1911.04623)."""

    centre: np.ndarray  # (d,)
    means: np.ndarray  # (n_classes, d); NaN for a class without an image

    def predict(self, features: np.ndarray) -> np.ndarray:
        # Of the squared distances to the means.
        with threadpool_limits(1):
            logits = PROTOTYPE_SCALE * (normalize(features - self.centre) @ self.means.T - (self.means**2).sum(1) / 2)
        return softmax(np.where(np.isnan(logits), np.nanmin(logits) + UNSEEN_LOGIT, logits), axis=1)


def fit_prototypes(
    features: np.ndarray, labels: np.ndarray, cases: np.ndarray, folds: np.ndarray, n_classes: int,
    settings: config.Config,
) -> Prototypes:  # fmt: skip
    """Class means of all images or of `head.shots` of each class; the centre, which needs no label, is that of all."""
    features, weights = features.astype(np.float64), case_weights(labels, cases)
    centre, chosen = np.average(features, axis=0, weights=weights), np.arange(len(labels))
    if settings.head.shots:
        seed = (settings.run.seed, SHOTS, settings.split.fold)
        chosen = draw_shots(labels, cases, settings.head.shots, np.random.default_rng(seed))
    weights, unit = case_weights(labels[chosen], cases[chosen]), normalize(features[chosen] - centre)
    means = np.full((n_classes, features.shape[1]), np.nan)
    for label in np.unique(labels[chosen]):
        rows = labels[chosen] == label
        means[label] = np.average(unit[rows], axis=0, weights=weights[rows])
    return Prototypes(centre, means)


def draw_shots(labels: np.ndarray, cases: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `shots` images of each class: every case of a class gives one before any gives two."""
    chosen = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        case = rng.permutation(len(np.unique(cases[rows])))[np.unique(cases[rows], return_inverse=True)[1]]
        turn = pd.Series(case).groupby(case).cumcount().to_numpy()
        chosen.append(rows[np.lexsort((case, turn))][:shots])
    return np.concatenate(chosen)


# head.kind -> its fit, of features (n, d), labels (n,), cases (n,), inner folds (n,), n_classes and settings
PROBES: dict[str, Callable[..., Any]] = {
    "logistic": lambda x, y, cases, _, n_classes, settings: fit_logistic(
        x, y, case_weights(y, cases, settings.data.balance), n_classes, settings.head.C
    ),
    "knn": fit_knn,
    "prototype": fit_prototypes,
}


def l2_of_mean_loss(C: float, n_cases: int, n_classes: int) -> float:
    """The factor of |kernel|^2 that makes Keras, which minimises a mean of losses, agree with `fit_logistic`."""
    # C * sum + |w|^2 / 2, divided by C and the number of cases. A kernel of two classes is -w / 2 and w / 2.
    return (2 if n_classes == 2 else 1) / (2 * C * n_cases)


def predict_out_of_fold(
    features: np.ndarray, labels: np.ndarray, cases: np.ndarray, folds: np.ndarray, n_classes: int,
    settings: config.Config,
) -> np.ndarray:  # fmt: skip
    """(n, n_classes) probabilities of each image by a head that was fitted on the other folds (n,); NaN where those
    hold a single class."""
    probabilities = np.full((len(labels), n_classes), np.nan)
    for held_out in _each_fold(labels, folds):
        rest = (values[~held_out] for values in (features, labels, cases, folds))
        probe = PROBES[settings.head.kind](*rest, n_classes, settings)
        probabilities[held_out] = probe.predict(features[held_out])
    return probabilities


def _each_fold(labels: np.ndarray, folds: np.ndarray) -> list[np.ndarray]:
    """Rows (n,) of each fold whose other folds hold more than one class."""
    found = [folds == fold for fold in np.unique(folds)]
    return [held_out for held_out in found if len(np.unique(labels[~held_out])) > 1]


def case_weights(labels: np.ndarray, cases: np.ndarray, balance: str = "none") -> np.ndarray:
    """(n,) weights of images, which add up to the number of cases.

    balance: none gives every case the same weight; images every image; class_weights every class, and its cases.
    """
    rows = pd.DataFrame({"label": labels, "case": cases})
    n_images = rows.groupby(["label", "case"] if balance == "class_weights" else "case")["case"].transform("size")
    weights = np.ones(len(rows)) if balance == "images" else 1 / n_images.to_numpy()
    if balance == "class_weights":
        weights = weights / rows.groupby("label")["case"].transform("nunique").to_numpy()
    return weights if balance == "none" else weights * (rows["case"].nunique() / weights.sum())


# --- head.npz ---


def check_reads_images(settings: config.Config, run: Path) -> None:
    """ModelError where a run leaves no model that predicts or explains images."""
    source, kind = settings.features.source, settings.head.kind
    if source or kind not in ("logistic", "keras"):
        why = f"was fitted on the embeddings of {source}, not on images" if source else f"has a {kind} head"
        raise ModelError(f"{run} {why}, so it leaves no model; name a run of a logistic or keras head on images")


def save_head(path: Path, head: LinearHead, settings: config.Config) -> None:
    """Write head.npz: all that a model needs beside the backbone, which many runs share (ResNet50: 95 MB)."""
    with atomic_path(path) as temporary:
        np.savez(temporary, **head._asdict(), settings=json.dumps(head_settings(settings)))


def load_head(path: Path, settings: config.Config) -> LinearHead:
    """Read head.npz. ModelError where it cannot be read, or where what it was fitted on is not what settings name."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            fitted_with, head = json.loads(str(saved["settings"])), LinearHead(*(saved[k] for k in LinearHead._fields))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} is not a head that can be read: {first_line}; train the run again") from None
    # Features of another backbone, size or order would give probabilities without any error.
    for name, value in head_settings(settings).items():
        if (given := fitted_with.get(name)) != value:
            changed = f"{path} was trained with {name} {given}, but config.yaml now stands for {value}"
            raise ModelError(f"{changed}; restore what it was trained with, or train the run again")
    return head


def head_settings(settings: config.Config) -> dict[str, Any]:
    """What a head's inputs and outputs depend on, JSON-able."""
    classes, model = {"classes": list(class_names(settings.data.task, settings.split.protocol))}, settings.model
    if settings.features.source:
        return classes
    return {
        "model.backbone": model.backbone,
        "model.weights": weights_identity(model),
        "run.seed": settings.run.seed if model.weights == "random" else None,
        "model.features": list(model.features),
        "image": settings.image.model_dump(mode="json"),
        **classes,
    }
