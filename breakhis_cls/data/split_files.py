"""Anyone's CSV or folder of lists -> fold, part, and slide or file."""

from __future__ import annotations

import functools
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


@functools.lru_cache(maxsize=4)  # an audit asks some 40 times for the 39,545 rows of Kaggle's Folds.csv
def read_split_file(path: Path, stamp: object) -> tuple[pd.DataFrame, list[str]]:
    """(fold from 0, part, slide or file) of a CSV or a folder of lists, and messages: see protocols.read_protocol.

    `stamp` changes with the content. Do not change the table.
    """
    if path.is_dir():  # train.txt, test.txt, ...: a name a line
        lists = {file.stem.lower(): file for file in sorted(path.glob("*.txt")) if file.stem.lower() in PARTS}
        if not {PARTS[name] for name in lists} >= {"train", "test"}:
            raise DataError(f"{path} has no train.txt and test.txt (a name a line); validation.txt is optional")
        texts = {name: file.read_text(encoding="utf-8", errors="replace") for name, file in lists.items()}
        table = _table_from_lists({name: text.split("\n") for name, text in texts.items()})
    else:
        try:
            table = pd.read_csv(path, dtype=str, comment="#", skipinitialspace=True)
        except (OSError, ValueError) as error:  # pandas' parser errors and invalid UTF-8 are ValueErrors
            raise DataError(f"{path} is not a readable CSV: {error}") from None
        table = table.rename(columns=lambda name: str(name).strip().lower())
        lists = [column for column in table.columns if column in PARTS]
        if {PARTS[column] for column in lists} >= {"train", "test"}:
            table = _table_from_lists({column: table[column].dropna().tolist() for column in lists})
        else:
            part = next((column for column in PART_COLUMNS if column in table.columns), None)
            file = next((column for column in FILE_COLUMNS if column in table.columns), None)
            if part is None or (file is None and "slide" not in table.columns):
                found = ", ".join(table.columns)
                raise DataError(f"{path} has the columns {found}; expected file or slide, part, and perhaps fold")
            fold = table["fold"] if "fold" in table.columns else "0"
            name = table[file or "slide"]
            table = pd.DataFrame({"file" if file else "slide": name, "fold": fold, "part": table[part]})

    # --- our words for parts, folds from 0, names without folder and suffix ---
    kind = "file" if "file" in table.columns else "slide"
    if table.empty or table.isna().any(axis=None):
        raise DataError(f"{path} has {'no rows' if table.empty else 'empty cells'}; every row needs {kind} and part")
    parts = table["part"].str.strip().str.lower()
    if foreign := sorted(set(parts) - set(PARTS)):
        raise DataError(f"{path} has the parts {', '.join(foreign)}; expected train, validation or test")
    folds = table["fold"].str.strip()
    in_order = sorted(set(folds), key=lambda fold: (len(fold) if fold.isdigit() else 99, fold))  # 2 before 10
    table = table.assign(part=parts.map(PARTS), fold=folds.map({fold: rank for rank, fold in enumerate(in_order)}))
    table[kind] = table[kind].map(image_stem)
    table = table.drop_duplicates(ignore_index=True)
    twice = table.loc[table.duplicated([kind, "fold"]), kind]
    if len(twice):
        raise DataError(f"{path}: {len(twice):,} names are in two parts of one fold:{list_first(list(twice))}")
    if "test" in set(table["part"]):
        return table, []
    table["part"] = table["part"].replace("validation", "test")
    return table, [f"{path} has no test part; its validation is used as the test"]


def image_stem(name: str) -> str:
    """`any/folder/SOB_B_A-14-22549AB-40-001.jpg` -> `SOB_B_A-14-22549AB-40-001`."""
    last = name.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix.isalnum() else last


def _table_from_lists(lists: dict[str, list[str]]) -> pd.DataFrame:
    rows = [(line.strip(), "0", name) for name, lines in lists.items() for line in lines if line.strip()]
    table = pd.DataFrame(rows, columns=["file", "fold", "part"])
    by_slide = table["file"].map(lambda name: names.SLIDE_NAME.fullmatch(image_stem(name)) is not None)
    return table.rename(columns={"file": "slide"}) if len(table) and by_slide.all() else table
