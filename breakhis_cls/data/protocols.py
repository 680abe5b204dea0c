"""Protocols that are tables: the published ones, our frozen case folds, and anyone's CSV or folder of lists."""

import contextlib
import difflib
import functools
import hashlib
import re
from pathlib import Path

import pandas as pd

from .. import files, names
from ..errors import ConfigError, DataError, list_first

TABLES = Path(__file__).parent / "tables"
# Fixed splits of leaderboards, 40X and four subtypes: https://kaiko-ai.github.io/eva/main/datasets/breakhis, its test
# part with the validation folders of MICS-Lab/thunder, and nanopath, which uses thunder's train and validation alone.
LEADERBOARDS = ("kaiko_eva", "thunder", "nanopath")
PUBLISHED = ("spanhol", *LEADERBOARDS)  # Spanhol 2016's five folds, counted from fold 0
COMPUTED = ("case", "slide", "image")  # from the images at hand
FROZEN_VERSION, FROZEN_N_FOLDS = 1, 5
FILE_COLUMNS = ("file", "filename", "path", "image", "image_path", "name")
PART_COLUMNS = ("part", "grp", "split", "set", "subset", "group")
PARTS = {   # as others write them
    "train": "train", "training": "train", "trn": "train", "test": "test", "testing": "test", "tst": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip


@functools.cache
def slides() -> pd.DataFrame:
    """The 82 slides: slide, label, subtype, case, n_40x, n_100x, n_200x, n_400x. Do not change it."""
    table = pd.read_csv(TABLES / "slides.csv", dtype={f"sequences_{m}x": str for m in names.MAGNIFICATIONS})
    parts = [names.parse_slide_name(slide)._asdict() for slide in table["slide"]]
    return table.assign(**pd.DataFrame(parts, dtype=str))


@functools.cache
def official_images() -> pd.DataFrame:
    """The 7,909 official images, sorted by file: file, slide, case, magnification, label, subtype. Do not change it."""
    rows = []
    for slide in slides().to_dict("records"):
        for magnification in names.MAGNIFICATIONS:
            for ends in slide[f"sequences_{magnification}x"].split():  # `1-3 7`: the official numbers have gaps
                first, _, last = ends.partition("-")
                for sequence in range(int(first), int(last or first) + 1):
                    name = f"{'-'.join(slide['slide'].rsplit('_', 1))}-{magnification}-{sequence:03}.png"
                    rows.append({**slide, "file": names.official_path(name), "magnification": magnification})
    table = pd.DataFrame(rows).sort_values("file", ignore_index=True)
    return table[["file", "slide", "case", "magnification", "label", "subtype"]]


@functools.cache
def frozen_case_folds() -> pd.Series:
    """The fold (0 to 4) in which each of the 70 case numbers is tested. Do not change it. DataError if the table is not
    the one that was frozen: results under another would not compare."""
    path = TABLES / "case.csv"
    table = pd.read_csv(path, dtype={"case": str}, comment="#")
    header = path.read_text(encoding="utf-8").splitlines()[0]
    if f"version {FROZEN_VERSION}, sha256 {frozen_sha256(table)}" not in header:
        raise DataError(f"{path} is not the frozen version {FROZEN_VERSION}; install the package again")
    return table.set_index("case")["fold"]


def frozen_sha256(table: pd.DataFrame) -> str:
    """SHA-256 in hex of the lines `case,fold`, in the table's order, each ended by a newline."""
    lines = "".join(f"{case},{fold}\n" for case, fold in zip(table["case"], table["fold"], strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_protocol(protocol: str) -> tuple[pd.DataFrame, list[str]]:
    """A protocol that is a table, (fold from 0, part, slide or file), without folder and suffix, and messages on it.
    `protocol` is one of PUBLISHED, or a path: a CSV with a file or slide column, a part column and perhaps a fold
    column; Kaggle's fold,mag,grp,filename; a CSV with the columns train and test (names below each); a folder with
    train.txt and test.txt (a name a line). ConfigError if there is no such file, DataError if it is invalid. Do not
    change the table."""
    path = TABLES / f"{protocol}.csv" if protocol in PUBLISHED else Path(protocol)
    if not path.exists():
        known = ("case", "slide", *PUBLISHED, "image")
        near = difflib.get_close_matches(protocol, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected {', '.join(known)}, a CSV or a folder of lists"
        raise ConfigError(f"split.protocol is '{protocol}', which is no protocol and no file; {hint}")
    read = sorted(path.iterdir()) if path.is_dir() else [path]
    return _read_table(path, tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in read))


@functools.lru_cache(maxsize=4)  # an audit asks some 40 times for the 39,545 rows of Kaggle's Folds.csv
def _read_table(path: Path, stamp: object) -> tuple[pd.DataFrame, list[str]]:
    """See read_protocol; `stamp` changes with the content."""
    table = pd.DataFrame()
    if path.is_dir():
        texts = {file.stem.lower(): file for file in sorted(path.iterdir()) if file.suffix.lower() == ".txt"}
        lists = {name: files.read_text(file).splitlines() for name, file in texts.items() if name in PARTS}
        if not {PARTS[name] for name in lists} >= {"train", "test"}:
            raise DataError(f"{path} has no train.txt and test.txt (a name a line); validation.txt is optional")
    else:
        table = files.read_table(path).rename(columns=str.lower)
        lists = {column: table[column].tolist() for column in table.columns if column in PARTS}
    if {PARTS[name] for name in lists} >= {"train", "test"}:
        rows = [(line.strip(), "0", name) for name, lines in lists.items() for line in lines]
        table = pd.DataFrame(rows, columns=["file", "fold", "part"])
        table = table[~files.is_empty(table["file"])]
        if len(table) and all(names.SLIDE_NAME.fullmatch(names.official_slide(name)) for name in table["file"]):
            table = table.rename(columns={"file": "slide"})
    else:
        part = next((column for column in PART_COLUMNS if column in table.columns), None)
        name = next((column for column in (*FILE_COLUMNS, "slide") if column in table.columns), None)
        if part is None or name is None:
            found = ", ".join(table.columns)
            raise DataError(f"{path} has the columns {found}; expected file or slide, part, and perhaps fold")
        fold, kind = table["fold"] if "fold" in table.columns else "0", "slide" if name == "slide" else "file"
        table = pd.DataFrame({kind: table[name], "fold": fold, "part": table[part]})

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
    if len(twice := table.loc[table.duplicated([kind, "fold"]), kind]):
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


def protocol_name(protocol: str) -> str:
    """What tables call a protocol: of a file its stem and a hash of its content, however its path is typed."""
    if protocol in (*PUBLISHED, *COMPUTED):
        return protocol
    path = Path(protocol).resolve()
    content = hashlib.sha256(read_protocol(protocol)[0].to_csv(index=False).encode()).hexdigest()
    return f"{path.name if path.is_dir() else path.stem}-{content[:8]}"


def assign_parts(images: pd.DataFrame, protocol: str, fold: int) -> pd.Series:
    """The part of each image in one fold of a protocol that is a table; NaN where the protocol does not name it."""
    table, _ = read_protocol(protocol)
    kind = "slide" if "slide" in table.columns else "file"
    part = _names(images, kind).map(table.loc[table["fold"] == fold].set_index(kind)["part"])
    if protocol in LEADERBOARDS:  # whose tables name slides, of which they use one magnification
        part = part.where(images["magnification"] == 40)
    return part


def protocol_warnings(images: pd.DataFrame, protocol: str, fold: int) -> list[str]:
    """A sentence each for names of a CSV that are not among the images, and for images that it leaves out. DataError if
    names are unknown: neither BreakHis's nor of an image at hand."""
    if protocol in PUBLISHED or protocol in COMPUTED:
        return []
    table, messages = read_protocol(protocol)
    kind = "slide" if "slide" in table.columns else "file"
    official, here = (set(_names(known, kind)) for known in (official_images(), images))
    named = set(table.loc[table["fold"] == fold, kind])
    if unknown := sorted(named - official - here):
        what = f"{protocol} names {len(unknown):,} {kind}s that BreakHis does not have"
        raise DataError(f"{what}:{list_first(unknown)}\nCorrect or remove these rows.")
    found = {
        f"names {kind}s that are not among the images": sorted(named - here),
        f"leaves out {kind}s in fold {fold}": sorted(here - named),
    }
    return messages + [f"{protocol} {what}: {len(some):,}, such as {some[0]}" for what, some in found.items() if some]


def _names(images: pd.DataFrame, kind: str) -> pd.Series:
    return images["slide"] if kind == "slide" else images["file"].map(names.image_stem)
