"""What a run is made from: the images that protocol and duplicates policy leave, and who is in which part."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..config import Config
from ..errors import DataError
from ..files import sha256_of_values
from . import index, protocols, splits


@dataclass(frozen=True)
class Dataset:
    """images and split have the same rows in the same order; root is the folder to join `file` to."""

    root: Path
    images: pd.DataFrame
    dropped: pd.DataFrame
    broken: pd.DataFrame
    split: pd.DataFrame
    classes: tuple[str, ...]
    task: str
    warnings: list[str]

    @property
    def sha256(self) -> str:
        """Of names and pixels, wherever they lie and however they are compressed."""
        return sha256_of_values(self.images[["file", "pixel_sha256"]].to_numpy().tolist())

    @property
    def name(self) -> str:
        """`synthetic-...`, `sample-36slides-...` or `breakhis-...`: what a number was measured on."""
        if self.is_synthetic:
            return f"synthetic-{self.sha256[:8]}"
        kind = "breakhis" if self.is_complete else f"sample-{self.images['slide'].nunique()}slides"
        return f"{kind}-{self.sha256[:8]}"

    @property
    def is_synthetic(self) -> bool:
        """Drawn tissue has slides that BreakHis does not have."""
        return not set(self.images["slide"]) <= set(protocols.official_images()["slide"])

    @property
    def is_complete(self) -> bool:
        """All official images at these magnifications are here."""
        official = protocols.official_images()
        wanted = official["file"][official["magnification"].isin(set(self.images["magnification"]))]
        return set(wanted) <= set(self.images["file"]) | set(self.dropped["file"])

    def one_hot_targets(self) -> np.ndarray:
        """(n, n_classes) one-hot float32, in the order of classes."""
        truth = self.split["label" if self.task == "binary" else "subtype"].to_numpy()
        return (truth[:, None] == np.asarray(self.classes)[None, :]).astype(np.float32)

    def in_part(self, *parts: str) -> np.ndarray:
        """(n,) whether a row is in one of the parts."""
        return self.split["part"].isin(parts).to_numpy()

    def describe(self) -> dict[str, Any]:
        """For environment.json."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "n_images": len(self.images),
            "n_slides": int(self.images["slide"].nunique()),
            "n_cases": int(self.images["case"].nunique()),
            "complete": self.is_complete and not self.is_synthetic,
            "dropped_duplicates": self.dropped["file"].tolist(),
            "broken": self.broken.to_dict("records"),
        }


def load_dataset(settings: Config) -> Dataset:
    """Index, protocol, duplicates policy and split. Decodes only what was never decoded; imports no TensorFlow."""
    data = settings.data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        images = splits.select_images(index.load_images(data), settings.split)
        images, dropped = splits.drop_duplicates(images, data.duplicates, data.task)
        split = splits.assign_split(images, settings.split, data.task)
        broken = index.list_unreadable(data)
    _check_train(split, data.task)
    told = list(dict.fromkeys(str(warning.message) for warning in caught)) + splits.split_warnings(split, data.task)
    if settings.model.weights == "random" and settings.head.epochs:
        told.append("random weights have nothing to transfer; set head.epochs to 0 and tune.part to all")
    return Dataset(
        root=index.find_root(data),
        images=images.reset_index(drop=True),
        dropped=dropped,
        broken=broken,
        split=split.reset_index(drop=True),
        classes=splits.class_names(data.task, settings.split.protocol),
        task=data.task,
        warnings=told,
    )


def _check_train(split: pd.DataFrame, task: str) -> None:
    """DataError where there is nothing to tell apart."""
    train = split[split["part"] == "train"]
    classes = train["label" if task == "binary" else "subtype"].unique()
    if len(classes) < 2:
        found = f"only {classes[0]}" if len(classes) else "no"
        raise DataError(
            f"train of fold {split['fold'].iloc[0]} holds {found} images; expected at least two classes; "
            "choose another split.fold, or more slides"
        )
