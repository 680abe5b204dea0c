"""Who is where under a protocol that is a table: the published ones, our frozen folds, and anyone's CSV."""

from __future__ import annotations

import difflib
import functools
import hashlib
from pathlib import Path

import pandas as pd

from .. import names
from ..errors import ConfigError, DataError, list_first
from . import split_files

TABLES = Path(__file__).parent / "tables"
PUBLISHED = ("spanhol", "kaiko_eva")
MADE_HERE = ("case", "slide", "image")
FROZEN_VERSION = 1
FROZEN_N_FOLDS = 5


@functools.cache
def slides() -> pd.DataFrame:
    """The 82 slides: slide, label, subtype, case, n_40x, n_100x, n_200x, n_400x. Do not change it."""
    table = pd.read_csv(TABLES / "slides.csv", dtype={f"sequences_{m}x": str for m in names.MAGNIFICATIONS})
    parts = [names.parse_slide_name(slide)._asdict() for slide in table["slide"]]
    return table.assign(**pd.DataFrame(parts, dtype=str))


def official_images() -> pd.DataFrame:
    """The 7,909 official images, sorted by file: file, slide, case, magnification, label, subtype."""
    return _official().copy()


@functools.cache
def _official() -> pd.DataFrame:
    columns = ["file", "slide", "case", "magnification", "label", "subtype"]
    rows = []
    for slide in slides().to_dict("records"):
        kind, _, number = slide["slide"].rpartition("_")
        for magnification in names.MAGNIFICATIONS:
            for sequence in _sequences(slide[f"sequences_{magnification}x"]):
                file = names.official_path(f"{kind}-{number}-{magnification}-{sequence:03}.png")
                rows.append({**slide, "file": file, "magnification": magnification})
    return pd.DataFrame(rows)[columns].sort_values("file", ignore_index=True)


def _sequences(ranges: str) -> list[int]:
    """`1-3 7` -> [1, 2, 3, 7]: the official numbers have gaps."""
    numbers = []
    for ends in ranges.split():
        first, _, last = ends.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@functools.cache
def frozen_case_folds() -> pd.Series:
    """The fold (0 to 4) in which each of the 70 case numbers is tested. Do not change it.

    DataError if the table is not the one that was frozen: results under another would not compare.
    """
    table = pd.read_csv(TABLES / "case.csv", dtype={"case": str}, comment="#")
    header = (TABLES / "case.csv").read_text(encoding="utf-8").splitlines()[0]
    if f"version {FROZEN_VERSION}, sha256 {frozen_sha256(table)}" not in header:
        where = TABLES / "case.csv"
        raise DataError(f"{where} is not the frozen version {FROZEN_VERSION}; install the package anew")
    return table.set_index("case")["fold"]


def frozen_sha256(table: pd.DataFrame) -> str:
    """SHA-256 in hex of the lines `case,fold`, in the table's order, each ended by a newline."""
    lines = "".join(f"{case},{fold}\n" for case, fold in zip(table["case"], table["fold"], strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_protocol(protocol: str) -> pd.DataFrame:
    """A protocol that is a table: fold (from 0), part, and slide or file (a name without folder and suffix).

    `protocol` is spanhol, kaiko_eva, or a path: a CSV with a file or slide column, a part column and perhaps
    a fold column; Kaggle's fold,mag,grp,filename; a CSV with the columns train and test (names below each); a
    folder with train.txt and test.txt (a name a line). ConfigError if there is no such thing, DataError if it
    is wrong.
    """
    return _read(protocol)[0].copy()


def _read(protocol: str) -> tuple[pd.DataFrame, list[str]]:
    if protocol in PUBLISHED:
        return _published(protocol), []
    path = Path(protocol).expanduser()
    if not path.exists():
        raise ConfigError(_no_such_protocol(protocol))
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return _read_once(path, tuple((stat.st_mtime_ns, stat.st_size) for stat in stats))


@functools.cache
def _published(protocol: str) -> pd.DataFrame:
    table = pd.read_csv(TABLES / f"{protocol}.csv")
    return table.assign(fold=table.get("fold", 0))


@functools.lru_cache(maxsize=4)
def _read_once(path: Path, stamp: tuple[tuple[int, int], ...]) -> tuple[pd.DataFrame, list[str]]:
    """The tidy table, and what its reader should be told; a file that has changed is read again."""
    return split_files.read_split_file(path)


def _no_such_protocol(protocol: str) -> str:
    known = (*MADE_HERE[:2], *PUBLISHED, MADE_HERE[2])
    near = difflib.get_close_matches(protocol, known, n=1)
    expected = f"expected {', '.join(known)}, a CSV file, or a folder of lists"
    hint = f"did you mean '{near[0]}'?" if near else expected
    return f"split.protocol is '{protocol}', which is no protocol and no file; {hint}"


def assign_parts(images: pd.DataFrame, protocol: str, fold: int) -> pd.Series:
    """The part of each image in one fold of a listed protocol, NaN where the protocol does not name it."""
    table = read_protocol(protocol)
    table = table.loc[table["fold"] == fold]
    if "slide" in table.columns:
        part = images["slide"].map(table.set_index("slide")["part"])
    else:
        part = images["file"].map(split_files.image_stem).map(table.set_index("file")["part"])
    if protocol == "kaiko_eva":
        part = part.where(images["magnification"] == 40)
    return part


def protocol_warnings(images: pd.DataFrame, protocol: str, fold: int) -> list[str]:
    """What a table names that BreakHis and the images lack, and what it leaves out: a sentence each.

    DataError if names are unknown: neither BreakHis's nor of an image at hand.
    """
    if protocol in PUBLISHED or protocol in MADE_HERE:
        return []
    table, told = _read(protocol)
    table = table.loc[table["fold"] == fold]
    kind = "slide" if "slide" in table.columns else "file"
    official = slides()["slide"] if kind == "slide" else _official()["file"].map(split_files.image_stem)
    here = set(images["slide"] if kind == "slide" else images["file"].map(split_files.image_stem))
    named = set(table[kind])
    if unknown := sorted(named - set(official) - here):
        found = f"{len(unknown):,} {kind}s that BreakHis does not have:{list_first(unknown)}"
        raise DataError(f"{protocol} names {found}")
    found = {
        f"names {kind}s that are not among the images": sorted(named - here),
        f"leaves out {kind}s in fold {fold}": sorted(here - named),
    }
    return told + [f"{protocol} {what}: {len(them):,}, such as {them[0]}" for what, them in found.items() if them]
