"""A tree of BreakHis images -> images.csv: what each is called, how it reads, what its pixels hash to.

Every image is decoded once, by threads on all cores: Pillow and hashlib let go of the interpreter's lock,
so two threads decode 1.9 times as fast as one. The table is kept under the cache, saved every few seconds
while it grows; a file is read again only when its size or modification time has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .. import config, files, names
from ..errors import DataError, list_first
from ..parallel import map_in_threads
from .png import decode_bytes, pixel_sha256, png_kind, read_error

VERSION = 1  # of what the kept table says about a file; a new number indexes every tree anew
TREE = "histology_slides"
COLUMNS: Any = {   # of images.csv
    "file": str, "label": str, "subtype": str, "slide": str, "case": str, "magnification": int,
    "sequence": int, "width_px": int, "height_px": int, "bytes": int, "sha256": str, "pixel_sha256": str,
}  # fmt: skip
KEPT: Any = COLUMNS | {"mtime_ns": int, "converted_from": str, "reason": str}  # of the kept table
STAMP = ["file", "bytes", "mtime_ns"]
JUNK = {".ds_store", "thumbs.db", "__macosx", "folds.csv"}  # what systems and Kaggle leave behind
SAVE_EVERY_S = 5.0


def load_images(data: config.Data) -> pd.DataFrame:
    """images.csv of the magnifications asked for, sorted by file; duplicates stay in.

    `file` is relative to `root_of(data)`, `case` is text. DataError if a file is foreign to its folder, if an
    image cannot be read (unless `data.skip_broken`), or if a magnification is absent. A tree smaller than
    BreakHis warns, and so do images that had to be converted to RGB.
    """
    table = _asked_for(data)
    bad = table.loc[table["reason"] != ""]
    if len(bad) and not data.skip_broken:
        raise DataError(_complaint(bad))
    images = table.loc[table["reason"] == ""].reset_index(drop=True)
    _check_magnifications(images, data)
    _warn_of_converted(images)
    return images.loc[:, list(COLUMNS)]


def list_images(data: config.Data) -> pd.DataFrame:
    """What the names alone say of the images asked for (images.csv up to `sequence`), sorted by file; opens none.

    DataError as of `load`.
    """
    files_found = _files(find_root(data))["file"]
    images = pd.DataFrame([{"file": file, **names.parse_image_name(Path(file).name)._asdict()} for file in files_found])
    images = images.loc[images["magnification"].isin(data.magnifications)].reset_index(drop=True)
    _check_magnifications(images, data)
    return images


def list_unreadable(data: config.Data) -> pd.DataFrame:
    """(file, reason) of the images that cannot be read, of the magnifications asked for, sorted by file."""
    table = _asked_for(data)
    return table.loc[table["reason"] != "", ["file", "reason"]].reset_index(drop=True)


def find_root(data: config.Data) -> Path:
    """The folder that holds `histology_slides`, at any depth under `data.root`; of several, the fullest."""
    if data.root == "synthetic":
        from ..synthetic.tree import default_tree

        return _holder(default_tree(data.cache))
    return _holder(Path(data.root).expanduser())


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of the cache atomically; DataError if it cannot be written."""
    try:
        files.write_csv(path, table)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); choose another folder with --data.cache") from None


def _check_magnifications(images: pd.DataFrame, data: config.Data) -> None:
    absent = sorted(set(data.magnifications) - set(images["magnification"]))
    if absent or images.empty:
        missing = " ".join(f"{magnification}X" for magnification in absent) or "no magnification"
        raise DataError(f"no images at {missing} under {data.root}; choose others with --data.magnifications")


def _asked_for(data: config.Data) -> pd.DataFrame:
    root = find_root(data)
    table = _kept_up_to_date(root, data.cache / "index" / files.sha256_of_values(VERSION, str(root.resolve()))[:16])
    if len(table) < names.N_IMAGES and data.root != "synthetic":
        warnings.warn(f"{root} holds {len(table):,} of BreakHis's {names.N_IMAGES:,} images", stacklevel=3)
    return table.loc[table["magnification"].isin(data.magnifications)].reset_index(drop=True)


def _kept_up_to_date(root: Path, folder: Path) -> pd.DataFrame:
    """The whole tree's table (columns KEPT, sorted by file); only files that `folder` lacks are read."""
    found = _files(root)
    kept = _read_kept(folder / "images.csv")
    table = kept.merge(found, on=STAMP)  # rows whose size and time still hold
    todo = found[~found["file"].isin(table["file"])]
    if len(todo) or len(table) != len(kept):
        save_table(table, folder / "images.csv")  # which also shows, before minutes of work, that it can be kept
    if len(todo):
        stamps = list(todo.itertuples(index=False, name=None))
        results = map_in_threads(lambda stamp: _row(root, *stamp), stamps, "reading images")
        with contextlib.closing(results):
            table = _collected(results, table, folder)
    return table.sort_values("file", ignore_index=True)


def _collected(results: Iterator[dict[str, Any]], table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The table with the rows of results added, saved every few seconds, on interruption and at the end."""
    fresh, saved_s, cost_s = [], time.monotonic(), 0.0
    try:
        for row in results:
            fresh.append(row)
            if time.monotonic() - saved_s > max(SAVE_EVERY_S, 20 * cost_s):  # at most 5 % of the time saves
                began_s = time.monotonic()
                save_table(pd.concat([table, _frame(fresh)]), folder / "images.csv")
                saved_s = time.monotonic()
                cost_s = saved_s - began_s
    finally:
        table = pd.concat([table, _frame(fresh)])
        save_table(table, folder / "images.csv")
    return table


def _row(root: Path, file: str, size: int, mtime_ns: int) -> dict[str, Any]:
    """What one image is; `reason` is not empty where it cannot be read."""
    row = {"file": file, **names.parse_image_name(Path(file).name)._asdict(), "bytes": size, "mtime_ns": mtime_ns}
    row |= {"width_px": 0, "height_px": 0, "sha256": "", "pixel_sha256": ""}
    row |= {"converted_from": "", "reason": ""}
    try:
        raw = (root / file).read_bytes()
        row["sha256"] = hashlib.sha256(raw).hexdigest()
        rgb = decode_bytes(raw)
    except OSError as error:
        return row | {"reason": read_error(error)}
    except DataError as error:
        return row | {"reason": str(error)}
    row["height_px"], row["width_px"], _ = rgb.shape
    kind = png_kind(raw)
    return row | {"pixel_sha256": pixel_sha256(rgb), "converted_from": "" if kind == "8-bit RGB" else kind}


def _files(root: Path) -> pd.DataFrame:
    """STAMP of every image under `root`, sorted by file; DataError lists what does not belong there."""
    stamps, wrong = [], []
    for folder, _, filenames in _walk(root / TREE, _refuse):
        for filename in filenames:
            path = Path(folder, filename)
            complaint = _misplaced(path.relative_to(root).as_posix(), filename)
            wrong += [complaint] if complaint else []
            stamps += [] if complaint else [_stamp(path, root)]
    if wrong:
        raise DataError(
            f"{len(wrong):,} files do not belong where they lie under {root}; move or remove them:"
            + list_first(sorted(wrong), len(wrong))
        )
    if not stamps:
        raise DataError(f"{root / TREE} holds no images; run scripts/download.py, or name a --data.root")
    return pd.DataFrame(sorted(stamps), columns=STAMP).astype({name: KEPT[name] for name in STAMP})


def _misplaced(found: str, filename: str) -> str:
    try:
        expected = names.official_path(filename)
    except DataError as error:
        return f"{found}: {error}"
    return "" if found == expected else f"{found}: its name says {expected.rpartition('/')[0]}"


def _stamp(path: Path, root: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a dangling link: reading it gives the reason
        return path.relative_to(root).as_posix(), 0, 0
    return path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: {read_error(error)}; mend its rights, or images would be missed")


def _walk(base: Path, refuse: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in sorted order, through links (each folder once), without what is junk."""
    seen = set[str]()
    for folder, subfolders, filenames in os.walk(base, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(name for name in subfolders if not _is_junk(name))
        if real not in seen:
            yield folder, subfolders, sorted(name for name in filenames if not _is_junk(name))
        seen.add(real)


def _is_junk(name: str) -> bool:
    return name.lower() in JUNK or name.startswith("._")


def _holder(base: Path) -> Path:
    if base.name == TREE and base.is_dir():
        return base.parent
    holders = []
    for folder, subfolders, _ in _walk(base):
        if TREE in subfolders:
            holders.append(Path(folder))
            subfolders.remove(TREE)
    if not holders:
        raise DataError(
            f"no folder '{TREE}' under {base}: {_what_lies_in(base)}. "
            "Run scripts/download.py, or name the folder with --data.root"
        )
    return max(holders, key=_n_images) if len(holders) > 1 else holders[0]


def _n_images(root: Path) -> int:
    return sum(name.endswith(".png") for _, _, filenames in _walk(root / TREE) for name in filenames)


def _what_lies_in(base: Path) -> str:
    if not base.is_dir():
        return "it is no folder" if base.exists() else "it does not exist"
    entries = sorted(entry.name for entry in base.iterdir())
    more = f" and {len(entries) - 5:,} more" if len(entries) > 5 else ""
    return f"it holds {', '.join(entries[:5])}{more}" if entries else "it is empty"


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(KEPT)).astype(KEPT)


def _read_kept(path: Path) -> pd.DataFrame:
    try:
        kept = pd.read_csv(path, dtype=KEPT, usecols=list(KEPT), keep_default_na=False)[list(KEPT)]
    except (OSError, ValueError):  # none yet, or not one of ours: indexed anew
        return _frame([])
    mendable = pd.Series(kept["reason"]).str.startswith("cannot be read")  # without a new modification time
    return kept.loc[~mendable]


def _complaint(bad: pd.DataFrame) -> str:
    pairs = zip(bad["file"], bad["reason"], strict=True)
    lines = [f"{file}: {reason}" for file, reason in pairs]
    return (
        f"{len(lines):,} images cannot be read as 8-bit RGB; replace them (scripts/download.py --verify), "
        f"or leave them out with --data.skip_broken True:{list_first(lines, len(lines))}"
    )


def _warn_of_converted(images: pd.DataFrame) -> None:
    pairs = zip(images["file"], images["converted_from"], strict=True)
    lines = [f"{file}: {kind}" for file, kind in pairs if kind]
    if lines:
        found = f"{len(lines):,} images are not plain RGB and were converted exactly"
        warnings.warn(f"{found}:{list_first(lines, len(lines))}", stacklevel=3)
