"""The training images that a new one is compared with: how far it is from them, and which are nearest.

Distances are measured on the frozen backbone, even where a copy of it was fine-tuned: tuned layers pull what they were
never trained on towards the training images. docs/refusal.md compares this distance with others. Imports no TensorFlow.
"""

import functools
import io
import json
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import euclidean_distances
from threadpoolctl import threadpool_limits

from ..errors import ModelError
from ..files import atomic_path

NAME = "reference.npz"  # in a run's folder, and within its model.keras
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

    def describe(self) -> dict[str, Any]:
        """How to compute the distance from reference.npz, JSON-able, for those who have no copy of this file."""
        return {
            "file": NAME,
            "magnifications": sorted(set(self.magnifications.tolist())),
            "distance": "standardise features by mean and deviation of the file's; root mean square difference to each "
            "image of the file; the least of them. Refuse above the threshold.",
        }

    def threshold(self, quantile: float) -> float:
        """The distance that this share of the training images does not exceed when their case is left out."""
        return float(np.quantile(self.left_out, quantile, weights=self._weights, method="inverted_cdf"))

    def percentile(self, distance: np.ndarray) -> np.ndarray:
        """(m,) distances -> (m,) how many percent of the training images, their case left out, are nearer."""
        order = np.argsort(self.left_out)
        below = np.concatenate([[0], np.cumsum(self._weights[order])]) / self._weights.sum()
        return 100 * below[np.searchsorted(self.left_out[order], distance)]

    @property
    def _weights(self) -> np.ndarray:
        """(n,) 1 for each case in sum, so that one case of many images does not set the threshold."""
        _, case, n_images = np.unique(self.cases, return_inverse=True, return_counts=True)
        return 1 / n_images[case]

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
    order = np.argsort(cases, kind="stable")
    built = Reference(
        features[order].astype(np.float16), files[order], cases[order], labels[order], magnifications[order],
        np.zeros(len(order), np.float32), about,
    )  # fmt: skip
    return replace(built, left_out=built.distance(built.features, built.cases).astype(np.float32))


def save_reference(run: Path, reference: Reference) -> None:
    """Write reference.npz into a run's folder, and into its model.keras, which then refuses away from its run too."""
    content: dict[str, Any] = {field.name: getattr(reference, field.name) for field in fields(Reference)}
    content |= {name: content[name].astype(str) for name in ("files", "cases", "labels")}  # no pickled objects
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **content | {"about": json.dumps(reference.about)})
    if (model := run / "model.keras").is_file():
        with (
            atomic_path(model) as temporary,
            zipfile.ZipFile(model) as old,
            zipfile.ZipFile(temporary, "w") as archive,
        ):
            for member in old.infolist():
                if member.filename != NAME:
                    archive.writestr(member, old.read(member))
            archive.writestr(NAME, packed.getvalue())
    with atomic_path(run / NAME) as temporary:
        temporary.write_bytes(packed.getvalue())


def load_reference(model_path: Path) -> Reference | None:
    """The reference beside a run's model or within a model.keras; None if it has none. ModelError if it is damaged."""
    raw = None
    if (beside := model_path / NAME).is_file():
        raw = beside.read_bytes()
    elif zipfile.is_zipfile(model_path):
        with zipfile.ZipFile(model_path) as archive:
            raw = archive.read(NAME) if NAME in archive.namelist() else None
    if raw is None:
        return None
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as saved:
            return Reference(
                **{name: saved[name] for name in saved if name != "about"}, about=json.loads(str(saved["about"]))
            )
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{NAME} of {model_path} cannot be read: {error}; train the run again") from None
