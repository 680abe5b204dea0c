"""The head on a frozen backbone's features: standardised, logistic regression, every case weighing the same.

On fixed features this is a convex problem with one solution: no epochs, no seed, the same bytes every time. Imports no
TensorFlow, so that a sweep's run over cached features takes a second.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from .. import config
from ..data.splits import class_names
from ..errors import ModelError
from ..files import atomic_path
from .weights import weights_identity

# A class without a training image has no solution: its logit lies this far below the lowest bias.
UNSEEN_LOGIT = -10.0


class LinearHead(NamedTuple):
    """Weights of Keras's Normalization (mean, variance) and of a Dense layer with softmax (kernel, bias)."""

    mean: np.ndarray  # (d,)
    variance: np.ndarray  # (d,)
    kernel: np.ndarray  # (d, n_classes)
    bias: np.ndarray  # (n_classes,)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n, d) pooled features -> (n, n_classes) probabilities, float64."""
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


def l2_of_mean_loss(C: float, n_cases: int, n_classes: int) -> float:
    """The factor of |kernel|^2 that makes Keras, which minimises a mean of losses, agree with `fit_logistic`."""
    # C * sum + |w|^2 / 2, divided by C and the number of cases. A kernel of two classes is -w / 2 and w / 2.
    return (2 if n_classes == 2 else 1) / (2 * C * n_cases)


def predict_out_of_fold(
    views: list[np.ndarray], labels: np.ndarray, cases: np.ndarray, folds: np.ndarray, n_classes: int,
    settings: config.Config,
) -> np.ndarray:  # fmt: skip
    """(n, n_classes) probabilities of each image by a head that was fitted on the other folds (n,), their mean over
    views (n, d) of the features, the first of which is fitted on. NaN where the other folds hold a single class."""
    probabilities = np.full((len(labels), n_classes), np.nan)
    for fold in np.unique(folds):
        held_out = folds == fold
        if len(np.unique(labels[~held_out])) > 1:
            weights = case_weights(labels[~held_out], cases[~held_out], settings.data.balance)
            head = fit_logistic(views[0][~held_out], labels[~held_out], weights, n_classes, settings.head.C)
            probabilities[held_out] = np.mean([head.predict(view[held_out]) for view in views], axis=0)
    return probabilities


def case_weights(labels: np.ndarray, cases: np.ndarray, balance: str = "none") -> np.ndarray:
    """(n,) weights of images, as many in sum as there are cases: those of a case's images add up to 1.

    Unless `balance` is none, every class has the same weight, and every case within it.
    """
    _, case, n_images = np.unique(cases, return_inverse=True, return_counts=True)
    return 1 / n_images[case] if balance == "none" else len(n_images) * sampling_probabilities(labels, cases)


def sampling_probabilities(labels: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """(n,) probabilities under which every class, and within it every case, is drawn equally often. Sums to 1."""
    probabilities = np.zeros(len(labels))
    for label in np.unique(labels):
        has_label = labels == label
        for case in np.unique(cases[has_label]):
            chosen = has_label & (cases == case)
            probabilities[chosen] = 1 / (len(np.unique(cases[has_label])) * chosen.sum())
    return probabilities / probabilities.sum()


# --- head.npz ---


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
        if fitted_with.get(name) != value:
            raise ModelError(
                f"{path} was trained with {name} {fitted_with.get(name)}, but config.yaml now stands for {value}; "
                "restore what it was trained with, or train the run again"
            )
    return head


def head_settings(settings: config.Config) -> dict[str, Any]:
    """What a head's inputs and outputs depend on, JSON-able."""
    return {
        "model.backbone": settings.model.backbone,
        "model.weights": weights_identity(settings.model),
        "run.seed": settings.run.seed if settings.model.weights == "random" else None,
        "model.features": list(settings.model.features),
        "image": settings.image.model_dump(mode="json"),
        "classes": list(class_names(settings.data.task, settings.split.protocol)),
    }
