"""images.csv -> split.csv: which images train, which choose epochs and thresholds (validation), which test.

All magnifications of a slide share its part, except under `image`. Validation is never grouped less strictly than
test: it is the test part of another fold, or whole case numbers.
"""

import warnings

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from .. import names
from ..config import Split
from ..errors import ConfigError, DataError
from . import protocols
from .balanced_folds import allocate_groups

COLUMNS = ["file", "slide", "case", "magnification", "label", "subtype", "fold", "part"]  # of split.csv
LEADERBOARD_CLASSES = ("TA", "MC", "F", "DC")
FOLDS, VALIDATION, INNER = 0, 1, 2  # the purpose of a random draw, as part of its seed
N_INNER_FOLDS = 5


def class_names(task: str, protocol: str) -> tuple[str, ...]:
    """The classes in the order of a model's outputs; malignant is the last of the binary task."""
    if task == "binary":
        return names.LABELS
    return LEADERBOARD_CLASSES if protocol in protocols.LEADERBOARDS else tuple(names.SUBTYPES)


def count_folds(split: Split) -> int:
    """How many folds the protocol has; `split.n_folds` counts for case, slide and image only."""
    if split.protocol in protocols.COMPUTED:
        return split.n_folds
    return int(protocols.read_protocol(split.protocol)[0]["fold"].max()) + 1


def check_split(split: Split) -> None:
    """ConfigError if there is no such protocol or fold, or protocol image is not allowed; looks at no image."""
    n_folds = count_folds(split)
    if split.fold >= n_folds:
        raise ConfigError(f"split.fold is {split.fold}, but {split.protocol} has {n_folds} fold(s), counted from 0")
    if split.protocol == "image" and not split.allow_leaks:
        found = "split.protocol is 'image', which puts images of one slide in both training and test"
        raise ConfigError(f"{found}; set --split.allow_leaks to measure that leak, or use case")


def select_images(images: pd.DataFrame, split: Split, warn: bool = True) -> pd.DataFrame:
    """The images that this fold contains: 40X of four subtypes for LEADERBOARDS, the named ones for a CSV. Warns of
    names that are not there, and of images that a CSV leaves out. DataError if none is left, or if a CSV has names that
    BreakHis does not have. ConfigError as in check_split."""
    check_split(split)
    if split.protocol in protocols.COMPUTED:
        return images
    messages = protocols.protocol_warnings(images, split.protocol, split.fold)
    part = protocols.assign_parts(images, split.protocol, split.fold)
    if part.isna().all():
        raise DataError(
            f"none of {len(images):,} images is in {split.protocol}; expected those it names, of leaderboards at 40X"
        )
    if split.protocol == "spanhol" and part.isna().any():
        foreign = images.loc[part.isna(), "slide"].iloc[0]
        raise DataError(f"spanhol contains BreakHis's {names.N_SLIDES} slides only, not {foreign}; use case")
    for message in messages if warn else ():
        warnings.warn(message, stacklevel=2)
    return images.loc[part.notna()]


def assign_test(images: pd.DataFrame, split: Split) -> pd.DataFrame:
    """split.csv of one fold before a validation part is chosen, in the order of images. Part is train or test;
    validation only where a CSV has one of its own. Images outside the protocol are left out. Raises as select_images
    does."""
    return _assign_test(images, split)[0]


def _assign_test(images: pd.DataFrame, split: Split) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The table of assign_test, and (n,) the fold that tests each image where the protocol is computed. Folds are
    balanced over labels and subtypes together, so that both tasks share them."""
    images = select_images(images, split, warn=False)  # the caller has selected, and lost duplicates since
    if split.protocol not in protocols.COMPUTED:
        part = protocols.assign_parts(images, split.protocol, split.fold)
        return images.assign(fold=split.fold, part=part)[COLUMNS], None
    by, seed = split.protocol, (split.seed or 0, FOLDS)
    # The frozen folds let results of different people compare; a seed or foreign slides ask for new ones.
    is_frozen = split.n_folds == protocols.FROZEN_N_FOLDS and split.seed is None
    if by == "image":  # stratified by subtype and magnification, whatever the slide
        folds = _shuffled_ranks(images, seed) % split.n_folds
    elif by == "case" and is_frozen and set(images["slide"]) <= set(protocols.slides()["slide"]):
        folds = images["case"].map(protocols.frozen_case_folds()).to_numpy()
    elif (n_groups := images[by].nunique()) < split.n_folds:
        raise DataError(f"{n_groups} {by}s cannot fill {split.n_folds} folds; lower split.n_folds")
    else:
        folds = _balanced(images, by, [1 / split.n_folds] * split.n_folds, seed)
    return images.assign(fold=split.fold, part=np.where(folds == split.fold, "test", "train"))[COLUMNS], folds


def _balanced(images: pd.DataFrame, by: str, shares: list[float], seed: tuple[int, ...]) -> np.ndarray:
    return images[by].map(allocate_groups(images, by, shares, seed)).to_numpy()


def assign_split(images: pd.DataFrame, split: Split, task: str = "binary") -> pd.DataFrame:
    """split.csv (COLUMNS) of fold `split.fold`, rows in the order of images, each in train, validation or test. Equal
    images, settings and seed give equal parts, whatever the order of rows. Validation is the test part of the next
    fold, so that each image validates once in a cross-validation; a subtype that would leave train stays there, with a
    warning. DataError if a part would be empty."""
    table, groups = _assign_test(images, split)
    for part in ("train", "test"):
        if not (table["part"] == part).any():
            found = f"fold {split.fold} of {split.protocol} has no {part} image among these {len(table):,}"
            raise DataError(f"{found}; choose another split.fold, or set split.seed for folds of these images")
    if (table["part"] == "validation").any():
        return table  # of a table that has its own

    # --- which group of images validates: the next fold's test part, or the next one that has every class ---
    is_train, n_folds = np.asarray(table["part"] == "train"), count_folds(split)
    train, column = table.loc[is_train], "label" if task == "binary" else "subtype"
    first = (split.fold + 1) % n_folds
    if groups is None:
        # Test parts of published folds overlap. So cases are shared out anew, and every fold gets the group of which
        # it trains on most images.
        groups = _balanced(table, "case", [1 / n_folds] * n_folds, (split.seed or 0, VALIDATION))
        parts = [protocols.assign_parts(table, split.protocol, fold) for fold in range(n_folds)]
        n_images = [[((part == "train") & (groups == group)).sum() for group in range(n_folds)] for part in parts]
        first = int(linear_sum_assignment(n_images, maximize=True)[1][split.fold])
    for step in range(n_folds if n_folds > 2 else 0):
        chosen, kept = _without_leaving(train, groups[is_train] == (first + step) % n_folds)
        if set(train.loc[chosen, column]) == set(table[column]):
            break

    # --- otherwise a share of train: by image under protocol image, by case under every other ---
    else:
        share, seed = split.validation_share, (split.seed or 0, VALIDATION, split.fold)
        if split.protocol == "image":
            ranks = _shuffled_ranks(train, seed)
            cut = np.floor((ranks + 1) * share) > np.floor(ranks * share)  # evenly spaced over all subtypes
        elif train["case"].nunique() < 2:
            raise DataError(f"train of fold {split.fold} has one case, so no validation can be cut; add slides")
        else:
            cut = _balanced(train, "case", [1 - share, share], seed) == 1
        chosen, kept = _without_leaving(train, cut)
        if set(train.loc[chosen, "label"]) < set(train.loc[cut, "label"]):  # so few cases that these matter more
            chosen, kept = cut, []

    if kept:
        where = f"validation of fold {split.fold} has no image of {', '.join(kept)}"
        warnings.warn(f"{where}: they stay in train, which would have no other case", stacklevel=2)
    part = table["part"].copy()
    part.loc[train.index[chosen]] = "validation"
    return table.assign(part=part)


def _without_leaving(train: pd.DataFrame, chosen: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(n,) bool: `chosen` without the cases of subtypes of which nothing else would be left; and these subtypes."""
    leaving = sorted(set(train["subtype"]) - set(train.loc[~chosen, "subtype"]))
    stays = train["case"].isin(train.loc[chosen & train["subtype"].isin(leaving), "case"])
    return np.asarray(chosen & ~stays), leaving


def assign_inner_folds(seen: pd.DataFrame, split: Split) -> np.ndarray:
    """(n,) inner fold of each image that a head is fitted on, by case: for predictions of images it was not fitted on.
    As many folds as the rarest label has cases, five at most, so that the others always hold both labels; with a single
    case of a label all images are in fold 0."""
    n_folds = min(N_INNER_FOLDS, *seen.groupby("label")["case"].nunique())
    if n_folds < 2:
        return np.zeros(len(seen), dtype=int)
    return _balanced(seen, "case", [1 / n_folds] * n_folds, (split.seed or 0, INNER, split.fold))


def split_warnings(table: pd.DataFrame, task: str = "binary") -> list[str]:
    """What a reader of a fold's numbers should know, a sentence each: classes missing in a part, shared slides."""
    column = "label" if task == "binary" else "subtype"
    present = [value for value in (*names.LABELS, *names.SUBTYPES) if value in set(table[column])]
    messages = []
    for (fold, part), rows in table.groupby(["fold", "part"], sort=True):
        if missing := [value for value in present if value not in set(rows[column])]:
            messages.append(f"{part} of fold {fold} has no image of {', '.join(missing)}")
    for fold, rows in table.groupby("fold"):
        seen, test = rows.loc[rows["part"] != "test"], rows.loc[rows["part"] == "test"]
        for group, one, several in (("slide", "slide", "slides"), ("case", "case number", "case numbers")):
            if n_shared := len(set(seen[group]) & set(test[group])):
                who = f"1 {one} of fold {fold} is" if n_shared == 1 else f"{n_shared} {several} of fold {fold} are"
                share = f"{test[group].isin(seen[group]).mean():.1%} of the test images"
                messages.append(f"{who} both in test and in train or validation: {share}")
                break  # shared slides share their cases too
    return messages


def drop_duplicates(images: pd.DataFrame, policy="auto", task="binary") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(kept, dropped) of equal pixels in different files, by the policy `data.duplicates`. first keeps the first path
    in sorted order; auto is first for the binary task, drop for subtypes."""
    if policy == "keep":
        return images, images.iloc[:0]
    # keep=False: under two subtypes (slide 13412) nobody knows which label is right, so both go.
    keep = "first" if policy == "first" or (policy == "auto" and task == "binary") else False
    again = images.sort_values("file", key=_official_order).duplicated("pixel_sha256", keep=keep).reindex(images.index)
    return images.loc[~again], images.loc[again]


def _official_order(files: pd.Series) -> pd.Series:
    return files.map(names.canonical_path)  # so that splits do not depend on folders


def _shuffled_ranks(images: pd.DataFrame, seed: tuple[int, ...]) -> np.ndarray:
    """(n,) ranks in a random order of the images that keeps each subtype and magnification together."""
    table = images[["file", "label", "subtype", "magnification"]].reset_index(drop=True)
    table = table.sort_values("file", key=_official_order)
    table = table.assign(draw=np.random.default_rng(seed).permutation(len(table)))
    order = table.sort_values(["label", "subtype", "magnification", "draw"]).index.to_numpy()
    return np.argsort(order)  # the inverse of a permutation
