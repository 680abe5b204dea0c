"""The images of a run, which part each is in, and the classes."""

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import names
from ..config import Config, Head
from ..errors import DataError
from ..files import sha256_of_values
from ..synthetic.tree import SLIDES
from . import embeddings, index, protocols, splits


@dataclass(frozen=True)
class Dataset:
    """`images` and `split` have the same rows in the same order."""

    root: Path  # the folder that `file` is relative to
    images: pd.DataFrame  # images.csv without duplicates and images outside the protocol
    dropped: pd.DataFrame  # duplicates, by the policy data.duplicates
    broken: pd.DataFrame  # file, reason
    split: pd.DataFrame  # split.csv
    classes: tuple[str, ...]
    task: str
    warnings: list[str]
    pool: pd.DataFrame  # `images` of all folds, which differ where a CSV's folds hold different ones

    @functools.cached_property
    def sha256(self) -> str:
        """Of names and pixels, wherever the files are and however they are compressed."""
        return _sha256_of_images(self.images)

    @functools.cached_property
    def name(self) -> str:
        """`synthetic-...`, `own-83slides-...`, `sample-36slides-...` or `breakhis-...`: the data that a number was
        measured on, and the same for every fold of a protocol."""
        slides = self.pool["slide"]
        kind = "breakhis" if self.is_complete else f"sample-{slides.nunique()}slides"
        if not slides.isin(protocols.slides()["slide"]).all():
            kind = f"own-{slides.nunique()}slides"
        return f"{'synthetic' if self.is_synthetic else kind}-{_sha256_of_images(self.pool)[:8]}"

    @property
    def is_synthetic(self) -> bool:
        """Whether any tissue is drawn; other slides that BreakHis does not have are someone's own."""
        return bool(self.images["slide"].isin(SLIDES).any())

    @functools.cached_property
    def is_complete(self) -> bool:
        """All official images at these magnifications are here."""
        official = protocols.official_images()
        wanted = official["file"][official["magnification"].isin(set(self.images["magnification"]))]
        return set(wanted) <= {names.canonical_path(path) for path in (*self.pool["file"], *self.dropped["file"])}

    def one_hot_targets(self) -> np.ndarray:
        """(n, n_classes) one-hot float32, in the order of classes."""
        truth = self.split["label" if self.task == "binary" else "subtype"].to_numpy()
        return (truth[:, None] == np.asarray(self.classes)[None, :]).astype(np.float32)

    def in_part(self, *parts: str) -> np.ndarray:
        """(n,) bool: whether a row is in one of the parts."""
        return self.split["part"].isin(parts).to_numpy()

    def describe(self) -> dict[str, Any]:
        """The entry `data` of environment.json."""
        return {
            "name": self.name, "sha256": self.sha256, "n_images": len(self.images),
            "n_slides": int(self.images["slide"].nunique()), "n_cases": int(self.images["case"].nunique()),
            "complete": self.is_complete and not self.is_synthetic, "dropped_duplicates": self.dropped["file"].tolist(),
            "broken": self.broken.to_dict("records"),
        }  # fmt: skip


def load_dataset(settings: Config) -> Dataset:
    """Images, split and class names of one run. Decodes only new and changed images; imports no TensorFlow. DataError
    where train has fewer than two classes, and as in load_images, select_images and assign_split."""
    data = settings.data
    splits.check_split(settings.split)  # before any image is decoded
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)  # else one that was shown before is not caught
        source = settings.features.source
        indexed = embeddings.load_images(source, data.magnifications) if source else index.load_images(data)
        images = splits.select_images(indexed, settings.split)
        # Equal pixels under two subtypes (slide 13412): one copy for the binary task, none for subtypes.
        images, dropped = splits.drop_duplicates(images, data.duplicates, data.task)
        pool, protocol = images, settings.split.protocol
        if protocol not in (*protocols.COMPUTED, *protocols.PUBLISHED):
            folds = range(splits.count_folds(settings.split))
            parts = [protocols.assign_parts(indexed, protocol, fold).notna() for fold in folds]
            pool = splits.drop_duplicates(indexed[np.any(parts, axis=0)], data.duplicates, data.task)[0]
        split = splits.assign_split(images, settings.split, data.task)
        # Without skip_broken the first one was an error; a second look at the tree would cost as much as the first.
        looks = data.skip_broken and not source
        broken = index.list_unreadable(data) if looks else pd.DataFrame(columns=["file", "reason"])

    train = split[split["part"] == "train"]
    present = train["label" if data.task == "binary" else "subtype"].unique()
    if len(present) < 2:
        found = f"train of fold {settings.split.fold} holds {f'only {present[0]}' if len(present) else 'no'} images"
        raise DataError(f"{found}; expected at least two classes; choose another split.fold, or more slides")
    messages = list(dict.fromkeys(str(warning.message) for warning in caught))
    messages += splits.split_warnings(split, data.task)
    ignored = [name for name in ("epochs", "peak_lr") if getattr(settings.head, name) != getattr(Head(), name)]
    if settings.head.kind != "keras" and settings.head.epochs and ignored:
        messages.append(f"head.{ignored[0]} counts for head.kind keras only; the others have no epochs")
    if source:
        messages.append(f"features come from {source}: the settings of sections model and image do not count")
    elif settings.model.weights == "random" and settings.head.epochs:
        messages.append("random weights have no features to transfer: a frozen head on them is a null to compare with; "
                        "to train them, set head.epochs to 0 and tune.part to all")  # fmt: skip
    images, split = images.reset_index(drop=True), split.reset_index(drop=True)
    classes = splits.class_names(data.task, settings.split.protocol)
    root = Path(data.root) if source else index.find_root(data)
    return Dataset(root, images, dropped, broken, split, classes, data.task, messages, pool)


def _sha256_of_images(images: pd.DataFrame) -> str:
    named = images["file"].map(names.canonical_path)
    return sha256_of_values(np.stack([named, images["pixel_sha256"]], axis=1).tolist())
