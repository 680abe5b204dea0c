"""The training images that a new one is compared with: how far it is from them, and which are nearest.

Distances are measured on the frozen backbone, even where a copy of it was fine-tuned: tuned layers pull what they were
never trained on towards the training images. docs/refusal.md compares this distance with others. Imports no TensorFlow.
"""

import functools
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import euclidean_distances
from threadpoolctl import threadpool_limits

from ..errors import ModelError
from ..files import atomic_path

NAME = "reference.npz"  # in a run's folder
CHUNK = 512  # rows compared at a time: all of BreakHis with itself would take 0.3 GB


@dataclass(frozen=True)
class Reference:
    """Features of the images that a model was fitted on, sorted by case, and what is known of each."""

    features: np.ndarray  # (n, d) float16, pooled outputs of the frozen backbone
    files: np.ndarray  # (n,) str, as in split.csv
    cases: np.ndarray  # (n,) str
    labels: np.ndarray  # (n,) str: the class, which may be a subtype
    magnifications: np.ndarray  # (n,) int
    left_out: np.ndarray  # (n,) float32 distance of each image to the others when its own case is left out
    about: dict[str, Any]  # temperature, and what the features come from

    @functools.cached_property
    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        features = self.features.astype(np.float32)
        return features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        """(n,) 1 for each case in sum, so that one case of many images does not set the threshold."""
        _, case, n_images = np.unique(self.cases, return_inverse=True, return_counts=True)
        return 1 / n_images[case]

    def image_distances(self, features: np.ndarray) -> np.ndarray:
        """(m, d) -> (m, n): the root mean square difference of standardised features, so that 1.4 is chance.

        Not scaled to length 1, as is common: that takes a blank image or a screenshot for tissue.
        """
        mean, deviation = self._scale
        new, known = ((one.astype(np.float32) - mean) / deviation for one in (features, self.features))
        with threadpool_limits(1):  # the same bits on any number of cores
            return euclidean_distances(new, known) / np.sqrt(new.shape[1])

    def distance(self, features: np.ndarray, own_case: np.ndarray | None = None) -> np.ndarray:
        """(m, d) -> (m,): the distance to the nearest image; own_case: (m,) the case of each row, which is left out."""
        found = []
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            distances = self.image_distances(features[rows])
            if own_case is not None:
                distances[own_case[rows, None] == self.cases] = np.inf
            found.append(distances.min(axis=1))
        return np.concatenate(found)

    def threshold(self, quantile: float) -> float:
        """The distance that this share of the training images does not exceed when their case is left out."""
        return float(np.quantile(self.left_out, quantile, weights=self._weights, method="inverted_cdf"))

    def percentile(self, distance: np.ndarray) -> np.ndarray:
        """(m,) distances -> (m,) how many percent of the training images, their case left out, are nearer."""
        order = np.argsort(self.left_out)
        below = np.concatenate([[0], np.cumsum(self._weights[order])]) / self._weights.sum()
        return 100 * below[np.searchsorted(self.left_out[order], distance)]

    def nearest(self, features: np.ndarray, label: str, n: int = 1) -> list[list[int]]:
        """For each of (m, d) features the rows of the n nearest images of a class, each of another case."""
        rows = np.flatnonzero(self.labels == label)
        found = []
        for distances in self.image_distances(features)[:, rows]:
            order = rows[np.argsort(distances, kind="stable")]
            found.append(order[np.sort(np.unique(self.cases[order], return_index=True)[1])[:n]].tolist())
        return found


def build_reference(
    features: np.ndarray, files: np.ndarray, cases: np.ndarray, labels: np.ndarray, magnifications: np.ndarray,
    about: dict[str, Any],
) -> Reference:  # fmt: skip
    """The reference of these images, rows in any order; ModelError where all are of one case."""
    if len(np.unique(cases)) < 2:
        raise ModelError("all training images are of one case, so that no distance between cases can be measured")
    order, unknown = np.argsort(cases, kind="stable"), np.zeros(len(cases), np.float32)
    of_image = (files[order], cases[order], labels[order], magnifications[order])
    built = Reference(features[order].astype(np.float16), *of_image, unknown, about)
    return replace(built, left_out=built.distance(built.features, built.cases).astype(np.float32))


def save_reference(run: Path, reference: Reference) -> None:
    """Write reference.npz into a run's folder."""
    content = {name: column for name, column in vars(reference).items() if not name.startswith("_")}
    content |= {name: content[name].astype(str) for name in ("files", "cases", "labels")}  # no pickled objects
    with atomic_path(run / NAME) as temporary:
        np.savez(temporary, allow_pickle=False, **content | {"about": json.dumps(reference.about)})


def load_reference(run: Path) -> Reference | None:
    """The reference of a run; None if it has none. ModelError if it is damaged."""
    if not (run / NAME).is_file():
        return None
    try:
        with np.load(run / NAME, allow_pickle=False) as saved:
            return Reference(**dict(saved) | {"about": json.loads(str(saved["about"]))})
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{run / NAME} cannot be read: {error}; train the run again") from None
