"""Anyone's list of who is in train and who is in test -> fold, part, and slide or file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from .. import names
from ..errors import DataError, list_first

PARTS = {   # as others write them
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
FILE_COLUMNS = ("file", "filename", "path", "image", "image_path", "name")
PART_COLUMNS = ("part", "grp", "split", "set", "subset", "group")


def read_split_file(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """(fold from 0, part, slide or file) of a CSV or a folder of lists, and what its reader should be told.

    The forms are those of `protocols.listed`. DataError says what is wrong.
    """
    return _tidy(_from_folder(path) if path.is_dir() else _from_csv(path), path)


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV as text, its column names in lower case; DataError if it is none."""
    try:
        table = pd.read_csv(path, dtype=str, comment="#", skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' parser errors and bad UTF-8 are ValueErrors
        raise DataError(f"{path} is not a readable CSV: {error}") from None
    return table.rename(columns=lambda name: str(name).strip().lower())


def _from_csv(path: Path) -> pd.DataFrame:
    table = read_csv(path)
    lists = [column for column in table.columns if column in PARTS]
    if {PARTS[column] for column in lists} >= {"train", "test"}:
        return _from_lists({column: table[column].dropna().tolist() for column in lists})
    part = next((column for column in PART_COLUMNS if column in table.columns), None)
    file = next((column for column in FILE_COLUMNS if column in table.columns), None)
    if part is None or (file is None and "slide" not in table.columns):
        found = ", ".join(table.columns)
        raise DataError(f"{path} has the columns {found}; expected file or slide, part, and perhaps fold")
    kind = "file" if file else "slide"
    fold = table["fold"] if "fold" in table.columns else "0"
    return pd.DataFrame({kind: table[file or "slide"], "fold": fold, "part": table[part]})


def _from_folder(folder: Path) -> pd.DataFrame:
    found = {path.stem.lower(): path for path in sorted(folder.glob("*.txt"))}
    lists = {name: path for name, path in found.items() if name in PARTS}
    if not {PARTS[name] for name in lists} >= {"train", "test"}:
        raise DataError(f"{folder} has no train.txt and test.txt (a name a line); validation.txt is optional")
    texts = {name: path.read_text(encoding="utf-8", errors="replace") for name, path in lists.items()}
    return _from_lists({name: text.split("\n") for name, text in texts.items()})


def _from_lists(lists: dict[str, list[str]]) -> pd.DataFrame:
    rows = [(line.strip(), "0", name) for name, lines in lists.items() for line in lines if line.strip()]
    table = pd.DataFrame(rows, columns=["file", "fold", "part"])
    by_slide = table["file"].map(lambda name: names.SLIDE_NAME.fullmatch(image_stem(name)) is not None)
    return table.rename(columns={"file": "slide"}) if len(table) and by_slide.all() else table


def _tidy(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Parts in our words, folds from 0, names without folders; DataError lists what stands in two parts."""
    kind = "file" if "file" in table.columns else "slide"
    if table.empty or table.isna().any(axis=None):
        lacks = "no rows" if table.empty else "empty cells"
        raise DataError(f"{path} has {lacks}; every row needs {kind} and part")
    parts = table["part"].str.strip().str.lower()
    if foreign := sorted(set(parts) - set(PARTS)):
        raise DataError(f"{path} has the parts {', '.join(foreign)}; expected train, validation or test")
    table = table.assign(part=parts.map(PARTS), fold=fold_numbers(table["fold"]))
    table[kind] = table[kind].map(image_stem)
    table = table.drop_duplicates(ignore_index=True)
    twice = table.loc[table.duplicated([kind, "fold"]), kind]
    if len(twice):
        found = list_first(list(twice))
        raise DataError(f"{path}: {len(twice):,} names stand in two parts of one fold:{found}")
    if "test" in set(table["part"]):
        return table, []
    told = [f"{path} has no test part; its validation is taken for the test"]
    return table.assign(part=table["part"].replace("validation", "test")), told


def fold_numbers(folds: pd.Series) -> pd.Series:
    """Any fold names -> 0, 1, ... in their order; numbers as numbers."""
    found = sorted(set(folds.str.strip()), key=lambda fold: (len(fold) if fold.isdigit() else 99, fold))
    return folds.str.strip().map({fold: rank for rank, fold in enumerate(found)})


def image_stem(name: str) -> str:
    """`any/folder/SOB_B_A-14-22549AB-40-001.jpg` -> `SOB_B_A-14-22549AB-40-001`."""
    last = name.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix.isalnum() else last
