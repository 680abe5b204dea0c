"""predictions.csv: the table that all metrics, figures and reports are made of, whatever framework wrote
it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from .. import names
from ..errors import DataError, list_first

TEXT = ("file", "slide", "case", "label", "subtype", "part", "protocol", "data", "model")
WHOLE = ("magnification", "fold", "seed")
COLUMNS = (
    "file",
    "slide",
    "case",
    "magnification",
    "label",
    "subtype",
    "fold",
    "part",
    "protocol",
    "data",
    "model",
    "seed",
)
PARTS = ("train", "validation", "test")
NAMED = ("label", "subtype", "slide", "case", "magnification")  # what an official file name says
TOLERANCE = 1e-3  # of a row's sum: eight classes rounded to four decimals are off by 4e-4 at most


def read_predictions(path: Path, only: str | None = None) -> pd.DataFrame:
    """A predictions.csv, checked; `case` is text, probabilities are float64.

    `only` names a part: rows of others are dropped as text, before anything in them is looked at.
    Raises DataError with one sentence for each kind of fault: all rows with it counted, the first ones shown.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"no such table: {path}; expected a predictions.csv or a run's folder") from None
    except (OSError, ValueError) as error:  # ValueError is the base of pandas' parser errors and of bad UTF-8
        raise DataError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from None
    if only is not None and "part" in table:
        table = table[table["part"] == only]
    return validate_predictions(table, str(path), only or "test")


def validate_predictions(table: pd.DataFrame, source: str = "the table", needed: str = "test") -> pd.DataFrame:
    """The table with its columns in their types, or a DataError that
    names every kind of fault found in it; rows of part `needed` must be there."""
    missing = [name for name in COLUMNS if name not in table]
    if missing or not _probability_columns(table):
        lacks = ", ".join(missing + ([] if _probability_columns(table) else ["p_<class> for each class"]))
        raise DataError(f"{source} lacks columns: {lacks}; it needs {', '.join(COLUMNS)} and p_<class> for each class")
    if table.empty:
        raise DataError(f"{source} has no rows of part {needed}; expected one for each image of validation and test")
    if complaint := _unknown_classes(table):
        raise DataError(f"{source}: {complaint}")
    table = _typed(table)
    complaints = [sentence for check in CHECKS if (sentence := check(table))]
    if not (table["part"] == needed).any():
        complaints.append(f"no row is of part {needed}; metrics are read from those")
    if complaints:
        raise DataError(f"{source}: " + "\n".join(complaints))
    return _whole_numbers(table)


def class_names(table: pd.DataFrame) -> tuple[str, ...]:
    """The classes that have a probability, in the table's order;
    the binary task always as (benign, malignant)."""
    found = tuple(column[2:] for column in _probability_columns(table))
    return names.LABELS if set(found) == set(names.LABELS) else found


def is_binary(table: pd.DataFrame) -> bool:
    """Whether the task is benign or malignant; otherwise it is the subtypes, or some of them."""
    return set(class_names(table)) == set(names.LABELS)


def true_labels(table: pd.DataFrame) -> np.ndarray:
    """(n,) index of the true class in `classes(table)`."""
    return pd.Index(class_names(table)).get_indexer(table["label" if is_binary(table) else "subtype"])


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """(n, n_classes) float64 in [0, 1], raw as in the table."""
    return table[[f"p_{name}" for name in class_names(table)]].to_numpy(np.float64)


def predicted_labels(table: pd.DataFrame, threshold: float = 0.5) -> np.ndarray:
    """(n,) index of the predicted class: malignant from `threshold` on, or the most probable subtype."""
    scores = probabilities(table)
    return (scores[:, 1] >= threshold).astype(int) if is_binary(table) else scores.argmax(axis=1)


def select_part(table: pd.DataFrame, part: str) -> pd.DataFrame:
    """The rows of one part, numbered anew."""
    return table[table["part"] == part].reset_index(drop=True)


def count_units(table: pd.DataFrame) -> dict[str, int]:
    """Numbers of distinct images, slides and cases: n_images, n_slides, n_cases."""
    return {
        f"n_{column.replace('file', 'image')}s": int(table[column].nunique()) for column in ("file", "slide", "case")
    }


def replicates(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The table cut so that each image occurs once in each piece.

    Disjoint folds of one seed make one piece (pooled, out of fold); another seed, or a fold that tests the
    same images again, makes another. Metrics are averaged over pieces, never pooled over them as if
    independent.
    """
    again = table.duplicated(["file", "seed"]).any()
    return [piece for _, piece in table.groupby(["seed", "fold"] if again else ["seed"], sort=True)]


def _probability_columns(table: pd.DataFrame) -> list[str]:
    return [column for column in table.columns if column.startswith("p_")]


def _unknown_classes(table: pd.DataFrame) -> str:
    found = [column[2:] for column in _probability_columns(table)]
    if set(found) == set(names.LABELS) or (len(found) > 1 and set(found) <= set(names.SUBTYPES)):
        return ""
    return (
        f"probabilities of {', '.join(found)}; expected p_benign and p_malignant, "
        f"or at least two of {' '.join(f'p_{name}' for name in names.SUBTYPES)}"
    )


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    numbers = [*WHOLE, *_probability_columns(table)]
    typed = {name: table[name].astype(str) for name in TEXT}
    return table.assign(**typed, **{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})


def _whole_numbers(table: pd.DataFrame) -> pd.DataFrame:
    order = [*COLUMNS, *(f"p_{name}" for name in class_names(table))]
    floats = {f"p_{name}": np.float64 for name in class_names(table)}
    return table.astype(dict.fromkeys(WHOLE, np.int64) | floats)[order].reset_index(drop=True)


def _not_numbers(table: pd.DataFrame) -> str:
    numbers = table[[*WHOLE, *_probability_columns(table)]]
    wrong = ~np.isfinite(numbers.to_numpy(np.float64)) | ~_are_whole(numbers)
    columns = ", ".join(numbers.columns[wrong.any(axis=0)])
    return _complaint(table, wrong.any(axis=1), f"with no finite or whole number in {columns}", lambda row: row["file"])


def _are_whole(numbers: pd.DataFrame) -> np.ndarray:
    values = numbers.to_numpy(np.float64)
    whole = numbers.columns.isin(WHOLE)
    return ~whole[None, :] | (values == np.round(values))


def _not_probabilities(table: pd.DataFrame) -> str:
    values = table[_probability_columns(table)].to_numpy(np.float64)
    wrong = (values.min(axis=1) < 0) | (values.max(axis=1) > 1) | (np.abs(values.sum(axis=1) - 1) > TOLERANCE)
    wrong &= np.isfinite(values).all(axis=1)
    found = "whose probabilities leave [0, 1] or do not add up to 1; were logits passed by mistake? Apply softmax first"
    return _complaint(table, wrong, found, lambda row: f"{row['file']}: they add up to {_sum(row):.4g}")


def _sum(row: pd.Series) -> float:
    return float(sum(value for name, value in row.items() if str(name).startswith("p_")))


def _duplicates(table: pd.DataFrame) -> str:
    again = table.duplicated(["file", "fold", "seed"]).to_numpy()
    found = "that repeat an image within one fold and seed; keep one row for each"
    return _complaint(table, again, found, lambda row: f"{row['file']} (fold {row['fold']:g}, seed {row['seed']:g})")


def _wrong_parts(table: pd.DataFrame) -> str:
    return _complaint(
        table, ~table["part"].isin(PARTS).to_numpy(), f"whose part is none of {', '.join(PARTS)}",
        lambda row: f"{row['file']}: '{row['part']}'",
    )  # fmt: skip


def _wrong_labels(table: pd.DataFrame) -> str:
    wrong = (true_labels(table) < 0) | ~table["label"].isin(names.LABELS).to_numpy()
    column = "label" if is_binary(table) else "subtype"
    found = f"whose {column} has no probability column, or whose label is neither benign nor malignant"
    return _complaint(table, wrong, found, lambda row: f"{row['file']}: {row['label']}, {row['subtype']}")


def _against_names(table: pd.DataFrame) -> str:
    said = [_said(file) for file in table["file"]]
    have = table[list(NAMED)].itertuples(index=False, name=None)
    wrong = np.array([name is not None and name != tuple(row) for name, row in zip(said, have, strict=True)])
    found = "that contradict their file name; labels come from names"
    return _complaint(table, wrong, found, lambda row: f"{row['file']}: {_contradiction(row)}")


def _said(file: str) -> tuple | None:
    """What an official name says, as NAMED; None for a name of another grammar."""
    filename = file.replace("\\", "/").rpartition("/")[2]
    if not names.IMAGE_NAME.fullmatch(filename):
        return None
    try:
        return names.parse_image_name(filename)[: len(NAMED)]
    except DataError:  # a name that contradicts itself agrees with no row
        return ()


def _contradiction(row: pd.Series) -> str:
    said = _said(row["file"]) or ("a consistent name",) * len(NAMED)
    pairs = [(name, row[name], want) for name, want in zip(NAMED, said, strict=True) if row[name] != want]
    return ", ".join(f"{name} {found}, the name says {want}" for name, found, want in pairs)


def _torn_slides(table: pd.DataFrame) -> str:
    kinds = table.groupby("slide")[["case", "label", "subtype"]].nunique()
    torn = table["slide"].isin(kinds.index[(kinds > 1).any(axis=1)]).to_numpy()
    return _complaint(table, torn, "of slides that have two cases, labels or subtypes", lambda row: row["slide"])


def _complaint(table: pd.DataFrame, wrong: np.ndarray, what: str, show) -> str:
    if not wrong.any():
        return ""
    rows = [row for _, row in table[wrong].iterrows()]
    return f"{len(rows):,} of {len(table):,} rows {what}:" + list_first([show(row) for row in rows])


CHECKS = (
    _not_numbers, _not_probabilities, _duplicates, _wrong_parts, _wrong_labels, _against_names, _torn_slides,
)  # fmt: skip
