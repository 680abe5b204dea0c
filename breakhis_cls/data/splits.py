"""images.csv -> split.csv: who is trained on, who chooses epochs and thresholds, and who is tested.

All magnifications of a slide share its part, except under `image`. Validation is grouped by case number under
every protocol but `image`, so it is never grouped less strictly than test.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from .. import names
from ..config import Split
from ..errors import ConfigError, DataError
from . import protocols
from .balanced_folds import allocate_groups

COLUMNS = ["file", "slide", "case", "magnification", "label", "subtype", "fold", "part"]  # of split.csv
KAIKO_EVA_CLASSES = ("TA", "MC", "F", "DC")
FOLDS, VALIDATION = 0, 1  # what a random draw is for


def class_names(task: str, protocol: str) -> tuple[str, ...]:
    """The classes in the order of a model's outputs; malignant is the last of the binary task's."""
    if task == "binary":
        return names.LABELS
    return KAIKO_EVA_CLASSES if protocol == "kaiko_eva" else tuple(names.SUBTYPES)


def count_folds(split: Split) -> int:
    """How many folds the protocol has; `split.n_folds` counts for case, slide and image only."""
    if split.protocol in protocols.MADE_HERE:
        return split.n_folds
    return int(protocols.read_protocol(split.protocol)["fold"].max()) + 1


def select_images(images: pd.DataFrame, split: Split) -> pd.DataFrame:
    """The images that this fold is about: 40X of four subtypes for kaiko_eva, those that are named for a CSV.

    Warns of names that are not among the images, and of images that a CSV leaves out. DataError if none is
    left, or if a CSV has names that BreakHis does not have.
    """
    _check_fold(split)
    for sentence in protocols.protocol_warnings(images, split.protocol, split.fold):
        warnings.warn(sentence, stacklevel=2)
    return _of_protocol(images, split)


def assign_test(images: pd.DataFrame, split: Split, task: str = "binary") -> pd.DataFrame:
    """split.csv of one fold before a validation part is cut, in the order of images.

    Part is train or test; validation only where a CSV has one of its own. Images that the protocol is not
    about are left out. ConfigError if there is no such fold, or protocol image is not allowed. `task` changes
    nothing: folds are balanced over labels and subtypes together, so that both tasks share them.
    """
    _check_fold(split)
    images = _of_protocol(images, split)
    if split.protocol in protocols.MADE_HERE:
        part = np.where(_folds_of(images, split) == split.fold, "test", "train")
    else:
        part = protocols.assign_parts(images, split.protocol, split.fold)
    return images.assign(fold=split.fold, part=part)[COLUMNS]


def assign_split(images: pd.DataFrame, split: Split, task: str = "binary") -> pd.DataFrame:
    """split.csv (COLUMNS) of fold `split.fold`, rows in the order of images.

    Every image of the protocol is in exactly one of train, validation and test. The same images, settings and
    seed give the same parts, whatever the order of rows. DataError if a part would be empty.
    """
    table = assign_test(images, split, task)
    for part in ("train", "test"):
        if not (table["part"] == part).any():
            raise DataError(
                f"fold {split.fold} of {split.protocol} has no {part} image among these {len(table):,}; "
                "choose another split.fold, or set split.seed for folds made for these images"
            )
    return table if (table["part"] == "validation").any() else _with_validation(table, split)


def split_warnings(split_table: pd.DataFrame, task: str = "binary") -> list[str]:
    """What a reader of a fold's numbers should know, a sentence each: what parts lack and what they share."""
    column = "label" if task == "binary" else "subtype"
    known = [value for value in (*names.LABELS, *names.SUBTYPES) if value in set(split_table[column])]
    told = []
    if task == "binary" and len(known) < 2:
        told.append(f"all images are {known[0] if known else 'absent'}: there is nothing to tell apart")
    for (fold, part), rows in split_table.groupby(["fold", "part"], sort=True):
        if lacking := [value for value in known if value not in set(rows[column])]:
            told.append(f"{part} of fold {fold} has no image of {', '.join(lacking)}")
    for fold, rows in split_table.groupby("fold"):
        seen, test = rows.loc[rows["part"] != "test"], rows.loc[rows["part"] == "test"]
        told += _shared(int(str(fold)), seen, test)
    return told


def drop_duplicates(
    images: pd.DataFrame, policy: str = "auto", task: str = "binary"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(kept, dropped) by `data.duplicates`: what is done with equal pixels in different files.

    first keeps the first path in sorted order; auto is first for the binary task, drop for subtypes.
    """
    policy = {"binary": "first", "subtype": "drop"}[task] if policy == "auto" else policy
    if policy == "keep":
        return images, images.iloc[:0]
    if policy not in ("first", "drop"):
        raise ConfigError(f"data.duplicates is '{policy}'; expected auto, keep, first or drop")
    ordered = images.sort_values("file")
    again = ordered.duplicated("pixel_sha256", keep="first" if policy == "first" else False)
    dropped = again.reindex(images.index)
    return images.loc[~dropped], images.loc[dropped]


def _check_fold(split: Split) -> None:
    n_folds = count_folds(split)
    if split.fold >= n_folds:
        has, expected = (f"{n_folds} folds", f"0 to {n_folds - 1}") if n_folds > 1 else ("one fold", "0")
        raise ConfigError(f"split.fold is {split.fold}, but {split.protocol} has {has}; expected {expected}")
    if split.protocol == "image" and not split.allow_leaks:
        raise ConfigError(
            "split.protocol is 'image', which puts images of one slide on both sides; "
            "set split.allow_leaks true to measure that leak, or use case"
        )


def _of_protocol(images: pd.DataFrame, split: Split) -> pd.DataFrame:
    if split.protocol in protocols.MADE_HERE:
        return images
    part = protocols.assign_parts(images, split.protocol, split.fold)
    if part.isna().all():
        about = "40X images of TA, MC, F and DC" if split.protocol == "kaiko_eva" else "what it names"
        raise DataError(f"none of {len(images):,} images is of {split.protocol}, which is about {about}")
    if split.protocol == "spanhol" and part.isna().any():
        foreign = images.loc[part.isna(), "slide"].iloc[0]
        raise DataError(f"spanhol is about BreakHis's {names.N_SLIDES} slides only, not {foreign}; use case")
    return images.loc[part.notna()]


def _folds_of(images: pd.DataFrame, split: Split) -> np.ndarray:
    """(n,) the fold in which each image is tested, under a protocol made here."""
    if split.protocol == "image":
        return _dealt(images, split.n_folds, (split.seed or 0, FOLDS))
    by = split.protocol
    if by == "case" and _is_frozen(images, split):
        return images["case"].map(protocols.frozen_case_folds()).to_numpy()
    n_groups = images[by].nunique()
    if n_groups < split.n_folds:
        raise DataError(f"{n_groups} {by}s cannot fill {split.n_folds} folds; lower split.n_folds")
    folds = allocate_groups(images, by, [1 / split.n_folds] * split.n_folds, (split.seed or 0, FOLDS))
    return images[by].map(folds).to_numpy()


def _is_frozen(images: pd.DataFrame, split: Split) -> bool:
    known = set(protocols.slides()["slide"])
    return split.n_folds == protocols.FROZEN_N_FOLDS and split.seed is None and set(images["slide"]) <= known


def _dealt(images: pd.DataFrame, n_folds: int, seed: tuple[int, ...]) -> np.ndarray:
    """(n,) single images to folds, stratified by subtype and magnification, whatever their slide."""
    return _shuffled_ranks(images, seed) % n_folds


def _shuffled_ranks(images: pd.DataFrame, seed: tuple[int, ...]) -> np.ndarray:
    """(n,) a random order of the images in which each subtype and magnification is a run."""
    table = images[["file", "label", "subtype", "magnification"]].reset_index(drop=True).sort_values("file")
    table = table.assign(draw=np.random.default_rng(seed).permutation(len(table)))
    order = table.sort_values(["label", "subtype", "magnification", "draw"]).index.to_numpy()
    ranks = np.empty(len(order), dtype=int)
    ranks[order] = np.arange(len(order))
    return ranks


def _with_validation(table: pd.DataFrame, split: Split) -> pd.DataFrame:
    """Cut validation from train: by image under protocol image, by case under every other."""
    train = table.loc[table["part"] == "train"]
    share, seed = split.validation_share, (split.seed or 0, VALIDATION, split.fold)
    if split.protocol == "image":
        ranks = _shuffled_ranks(train, seed)
        chosen = np.floor((ranks + 1) * share) > np.floor(ranks * share)
    else:
        if train["case"].nunique() < 2:
            raise DataError(f"train of fold {split.fold} has one case: no validation can be cut; add slides")
        chosen = train["case"].map(allocate_groups(train, "case", [1 - share, share], seed)) == 1
    part = table["part"].copy()
    part.loc[train.index[np.asarray(chosen)]] = "validation"
    return table.assign(part=part)


def _shared(fold: int, seen: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    for column, word in {"slide": "slide", "case": "case number"}.items():
        keys = set(seen[column]) & set(test[column])
        if keys:
            share = test[column].isin(keys).mean()
            who, verb = (f"1 {word}", "stands") if len(keys) == 1 else (f"{len(keys)} {word}s", "stand")
            where = f"{verb} in test and in train or validation"
            return [f"{who} of fold {fold} {where}: {share:.1%} of the test images"]
    return []
