"""predictions.csv: the table that all metrics, figures and reports are computed from, whatever framework wrote it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from .. import files, names
from ..data.protocols import PARTS
from ..errors import DataError, list_first

COLUMNS = (
    "file", "slide", "case", "magnification", "label", "subtype", "fold", "part", "protocol", "data", "model", "seed",
)  # fmt: skip
IDENTITY = ["protocol", "data", "model"]  # one experiment has one value of each
INTEGERS = ("magnification", "fold", "seed")
NAMED = ("label", "subtype", "slide", "case", "magnification")  # columns that an official file name also gives
TOLERANCE = 1e-3  # of a row's sum: eight classes rounded to four decimals are off by 4e-4 at most


def read_predictions(path: Path, only: str | None = None) -> pd.DataFrame:
    """A predictions.csv, checked; `case` is text, probabilities are float64. `only` names a part: rows of others are
    dropped before their content is looked at. Raises DataError with one sentence for each kind of fault."""
    if not path.exists():
        raise DataError(f"no such table: {path}; expected a predictions.csv or a run's folder")
    return validate_predictions(files.read_table(path), str(path), only)


def validate_predictions(table: pd.DataFrame, source: str = "the table", only: str | None = None) -> pd.DataFrame:
    """The table with its columns in their types, or DataError; rows of part `only`, or else of test, must be there.
    Columns, labels and parts may be written in capitals, parts as `val` and the like, numbers with a decimal comma."""
    known = {name.lower(): name for name in (*COLUMNS, *(f"p_{one}" for one in (*names.LABELS, *names.SUBTYPES)))}
    table = table.rename(columns=lambda name: known.get(str(name).strip().lower(), name))
    scores = [column for column in table.columns if column.startswith("p_")]
    missing = [name for name in COLUMNS if name not in table] + ([] if scores else ["p_<class> for each class"])
    if missing:
        expected = f"it needs {', '.join(COLUMNS)} and p_<class> for each class"
        raise DataError(f"{source} lacks columns: {', '.join(missing)}; {expected}")
    table["part"] = table["part"].astype(str).str.strip().str.lower().replace(PARTS)
    # Hyperparameter search reads validation rows: a fault or a label among the test rows must not be seen.
    needed = only or "test"
    if only:
        table = table[table["part"] == only]
    if table.empty:
        raise DataError(f"{source} has no rows of part {needed}; expected one for each image of validation and test")
    classes = {column[2:] for column in scores}
    if classes != set(names.LABELS) and not (len(classes) > 1 and classes <= set(names.SUBTYPES)):
        raise DataError(
            f"{source}: probabilities of {', '.join(column[2:] for column in scores)}; expected p_benign and "
            f"p_malignant, or at least two of {' '.join(f'p_{name}' for name in names.SUBTYPES)}"
        )
    numbers, texts = [*INTEGERS, *scores], [name for name in COLUMNS if name not in INTEGERS]
    table = table.assign(
        **{name: table[name].fillna("").astype(str).str.strip() for name in texts},
        # A spreadsheet writes a decimal comma, a person 40X.
        **{name: pd.to_numeric(table[name].astype(str).str.strip(" xX").str.replace(",", "."), errors="coerce")
           for name in numbers},
    )  # fmt: skip
    table["label"], table["subtype"] = table["label"].str.lower(), table["subtype"].str.upper()
    binary, known = is_binary(table), table["subtype"].isin([*names.SUBTYPES])
    # The binary task is scored without subtypes too.
    table["subtype"] = table["subtype"].where(known if binary else ~files.is_empty(table["subtype"]), "")

    # --- faults: which rows, in words, and how to show one ---
    is_number, total = np.isfinite(table[numbers]), table[scores].sum(axis=1, skipna=False)
    is_number[list(INTEGERS)] &= table[list(INTEGERS)] % 1 == 0
    blank = table[["file", "slide", "case"]].apply(files.is_empty)
    is_probability = table[scores].ge(0).all(axis=1) & ((total - 1).abs() <= TOLERANCE)  # so that none is above 1
    contradiction = [find_contradiction(*row) for row in table[["file", *NAMED]].itertuples(index=False)]
    table = table.assign(total=total, contradiction=contradiction)
    faults = [
        (~is_number.all(axis=1), f"with no finite or whole number in {', '.join(is_number.columns[~is_number.all()])}",
         "{file}"),
        # NaN is no probability, but it is counted above.
        (~is_probability & np.isfinite(total), "whose probabilities leave [0, 1] or do not add up to 1; are they "
         "logits? Apply softmax first", "{file}: they add up to {total:.4g}"),
        (blank.any(axis=1), f"with an empty cell in {', '.join(blank.columns[blank.any()])}", "{file}, slide {slide}"),
        (table.assign(file=image_keys(table)).duplicated(["file", *IDENTITY, "fold", "seed"]), "that repeat an image "
         "within one fold and seed; keep one row for each", "{file} (fold {fold:g}, seed {seed:g})"),
        (~table["part"].isin(PARTS.values()), "whose part is none of train, validation, test", "{file}: '{part}'"),
        ((true_labels(table) < 0) | ~table["label"].isin(names.LABELS), "whose class has no probability column, or "
         "whose label is neither benign nor malignant", "{file}: {label}, {subtype}"),
        (table["contradiction"] != "", "that contradict their file name; labels come from names",
         "{file}: {contradiction}"),
        # Numbers depend on slides and cases: a slide in two cases would count twice.
        (differs_within(table, table["slide"]), "of slides that have two cases, labels or subtypes", "{slide}"),
    ]  # fmt: skip
    complaints = (
        [] if (table["part"] == needed).any() else [f"no row is of part {needed}; metrics are computed from it"]
    )
    for is_wrong, fault, show in faults:
        if np.any(is_wrong):
            shown = [show.format(**row) for row in table[np.asarray(is_wrong)].to_dict("records")]
            complaints.append(f"{len(shown):,} of {len(table):,} rows {fault}:" + list_first(shown))
    if complaints:
        raise DataError(f"{source}: " + "\n".join(complaints))
    ordered = [f"p_{name}" for name in class_names(table)]
    types = dict.fromkeys(INTEGERS, np.int64) | dict.fromkeys(ordered, np.float64)
    return table[[*COLUMNS, *ordered]].astype(types).reset_index(drop=True)


def find_contradiction(file: str, *found: object) -> str:
    """Where the columns NAMED differ from what an official file name says; a name of another grammar says nothing."""
    if names.official_name(file) is None:
        return ""
    try:
        expected = names.parse_image_name(file)
    except DataError:  # label and subtype in the name contradict each other
        return "the name contradicts itself"
    pairs = zip(NAMED, found, expected, strict=False)
    return ", ".join(f"{name} {value}, the name says {said}" for name, value, said in pairs if value not in (said, ""))


def image_keys(table: pd.DataFrame) -> pd.Series:
    """What an image is known by in tables of any origin: its official name, or else its file with plain slashes."""
    return table["file"].map(
        {file: names.official_name(file) or file.replace("\\", "/") for file in set(table["file"])}
    )


def differs_within(
    table: pd.DataFrame, groups: pd.Series, columns: Sequence[str] = ("case", "label", "subtype")
) -> pd.Series:
    """Whether the rows of a row's group disagree in one of the columns; a subtype that is not known says nothing."""
    known = table[list(columns)].mask(table[list(columns)] == "")
    return (known.groupby(groups).transform("nunique") > 1).any(axis=1)


def class_names(table: pd.DataFrame) -> tuple[str, ...]:
    """The classes that have a probability, in the table's order; of the binary task always (benign, malignant)."""
    classes = tuple(column[2:] for column in table.columns if column.startswith("p_"))
    return names.LABELS if set(classes) == set(names.LABELS) else classes


def is_binary(table: pd.DataFrame) -> bool:
    """Whether the task is benign or malignant; otherwise it is the subtypes, or some of them."""
    return class_names(table) == names.LABELS


def true_labels(table: pd.DataFrame) -> np.ndarray:
    """(n,) index of the true class in `class_names(table)`; -1 for a class without a probability."""
    return pd.Index(class_names(table)).get_indexer(table["label" if is_binary(table) else "subtype"])


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """(n, n_classes) float64 in [0, 1], raw as in the table."""
    return table[[f"p_{name}" for name in class_names(table)]].to_numpy(np.float64)


def predicted_labels(table: pd.DataFrame, threshold: float = 0.5) -> np.ndarray:
    """(n,) index of the predicted class: malignant from `threshold` on, or the most probable subtype."""
    scores = probabilities(table)
    return (scores[:, 1] >= threshold).astype(int) if is_binary(table) else scores.argmax(axis=1)


def count_confusions(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers of images by true label (rows) and predicted label (columns); every class, in the table's order."""
    classes = class_names(table)
    counts = confusion_matrix(true_labels(table), predicted_labels(table), labels=range(len(classes)))
    return pd.DataFrame(
        counts, index=pd.Index(classes, name="True label"), columns=pd.Index(classes, name="Predicted label")
    )


def select_part(table: pd.DataFrame, part: str) -> pd.DataFrame:
    return table[table["part"] == part].reset_index(drop=True)


def count_units(table: pd.DataFrame) -> dict[str, int]:
    """Numbers of distinct images, slides and cases: n_images, n_slides, n_cases."""
    units = {"n_images": "file", "n_slides": "slide", "n_cases": "case"}
    return {unit: int(table[column].nunique()) for unit, column in units.items()}


def replicates(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The table in pieces in which each image occurs once: one for each seed, and for each fold where folds overlap.
    Metrics are averaged over pieces, never pooled over them as if they were independent."""
    # The published folds test an image up to five times; of a cross-validation each image is tested once.
    again = table.assign(file=image_keys(table)).duplicated(["file", "seed"]).any()
    return [piece for _, piece in table.groupby(["seed", "fold"] if again else ["seed"], sort=True)]
