"""Anyone's CSV or folder of lists -> fold, part, and slide or file."""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path

import pandas as pd

from .. import files, names
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
        texts = [file for file in sorted(path.iterdir()) if file.suffix.lower() == ".txt"]
        lists = {file.stem.lower(): file for file in texts if file.stem.lower() in PARTS}
        if not {PARTS[name] for name in lists} >= {"train", "test"}:
            raise DataError(f"{path} has no train.txt and test.txt (a name a line); validation.txt is optional")
        table = _table_from_lists({name: files.read_text(file).splitlines() for name, file in lists.items()})
    else:
        table = files.read_table(path).rename(columns=str.lower)
        lists = [column for column in table.columns if column in PARTS]
        if {PARTS[column] for column in lists} >= {"train", "test"}:
            table = _table_from_lists({column: table[column].tolist() for column in lists})
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
    if table.empty or table.apply(files.is_empty).any(axis=None):
        raise DataError(f"{path} has {'no rows' if table.empty else 'empty cells'}; every row needs {kind} and part")
    parts = table["part"].str.strip().str.lower()
    if foreign := sorted(set(parts) - set(PARTS)):
        raise DataError(f"{path} has the parts {', '.join(foreign)}; expected train, validation or test")
    folds = table["fold"].map({fold: _natural(fold) for fold in set(table["fold"])})  # fold 2 before fold 10
    in_order = sorted(set(folds))
    table = table.assign(part=parts.map(PARTS), fold=folds.map({fold: at for at, fold in enumerate(in_order)}))
    table[kind] = table[kind].map(names.image_stem if kind == "file" else names.official_slide)
    table = table.drop_duplicates(ignore_index=True)
    twice = table.loc[table.duplicated([kind, "fold"]), kind]
    if len(twice):
        raise DataError(f"{path}: {len(twice):,} names are in two parts of one fold:{list_first(list(twice))}")
    messages = []
    if in_order != [("", float(at), "") for at in range(len(in_order))]:
        called = ", ".join("".join(f"{part:g}" if isinstance(part, float) else part for part in f) for f in in_order)
        messages.append(f"{path} calls its folds {called}; here they are {', '.join(map(str, range(len(in_order))))}")
    if "test" not in set(table["part"]):
        table["part"] = table["part"].replace("validation", "test")
        messages.append(f"{path} has no test part; its validation is used as the test")
    return table, messages


def _natural(fold: str) -> tuple[str | float, ...]:
    """What a fold is ordered by: `Fold_01` and `fold 1` are one, and come before `fold10`."""
    with contextlib.suppress(ValueError):
        return "", float(fold), ""
    words = re.split(r"(\d+)", fold.lower())  # text, digits, text, ...
    return tuple(float(word) if at % 2 else word.strip(" _-.") for at, word in enumerate(words))


def _table_from_lists(lists: dict[str, list[str]]) -> pd.DataFrame:
    rows = [(line.strip(), "0", name) for name, lines in lists.items() for line in lines]
    table = pd.DataFrame(rows, columns=["file", "fold", "part"])
    table = table[~files.is_empty(table["file"])]
    by_slide = table["file"].map(lambda name: names.SLIDE_NAME.fullmatch(names.official_slide(name)) is not None)
    return table.rename(columns={"file": "slide"}) if len(table) and by_slide.all() else table
