"""A tree of BreakHis images -> images.csv: what each name says, its size, and the hash of its pixels.

Every image is decoded once, by threads on all cores: Pillow and hashlib release the interpreter's lock, so two
threads decode 1.9 times as fast as one. The table is kept under the cache and saved every few seconds while it
grows; a file is read again only when its size or modification time has changed.
"""

import contextlib
import hashlib
import itertools
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .. import config, files, names
from ..errors import DataError, list_first
from ..names import TREE
from ..parallel import map_in_threads
from .png import decode_bytes, pixel_sha256, png_kind, read_error

VERSION = 1  # of what the kept table says about a file; a new number indexes every tree again
COLUMNS: Any = {   # of images.csv
    "file": str, "label": str, "subtype": str, "slide": str, "case": str, "magnification": int,
    "sequence": int, "width_px": int, "height_px": int, "bytes": int, "sha256": str, "pixel_sha256": str,
}  # fmt: skip
KEPT: Any = COLUMNS | {"mtime_ns": int, "converted_from": str, "reason": str}  # of the kept table
STAMP = ["file", "bytes", "mtime_ns"]
SAVE_EVERY_S = 5.0  # the threads go on decoding meanwhile


class NoImagesError(DataError):
    """A folder that holds no image of BreakHis at all."""


def load_images(data: config.Data) -> pd.DataFrame:
    """images.csv of `data.magnifications`, in the order of the official tree; duplicates stay in. `file` is relative to
    `find_root(data)`, `case` is text. DataError if a folder contradicts a name, if two files of one name hold other
    pixels, if an image cannot be read (unless `data.skip_broken`), or if a magnification is missing. Warns of a tree
    smaller than BreakHis, of copies under the same name, of which the first counts, and of images that had to be
    converted to RGB."""
    table = _update_table(data)
    bad = table.loc[table["reason"] != ""]
    if len(bad) and not data.skip_broken:
        lines = [f"{row.file}: {row.reason}" for row in bad.itertuples()]
        found = f"{len(lines):,} images cannot be read as 8-bit RGB"
        raise DataError(f"{found}; replace them, or use --data.skip_broken:{list_first(lines, len(lines))}")
    images = _at_magnifications(table.loc[table["reason"] == ""], data)

    # --- one file of each name: folders for folds hold copies of the same images ---
    named = images["file"].map(names.image_stem)
    first = images.groupby(named)["pixel_sha256"].transform("first")
    if len(other := images.loc[images["pixel_sha256"] != first, "file"]):
        found = f"{len(other):,} files have other pixels than a file of the same name"
        raise DataError(f"{found}; keep one of each, or name one tree with --data.root:{list_first(list(other))}")
    if (again := named.duplicated()).any():
        found = f"{again.sum():,} files are copies of others of the same name, and are left out"
        warnings.warn(f"{found}, such as {images.loc[again, 'file'].iloc[0]}", stacklevel=2)
        images = images.loc[~again].reset_index(drop=True)
    converted = images.loc[images["converted_from"] != ""]
    if lines := [f"{row.file}: {row.converted_from}" for row in converted.itertuples()]:
        found = f"{len(lines):,} images are not plain RGB and were converted exactly"
        warnings.warn(f"{found}:{list_first(lines, len(lines))}", stacklevel=2)
    return images.loc[:, list(COLUMNS)]


def list_images(data: config.Data) -> pd.DataFrame:
    """What the names alone say (images.csv up to `sequence`), in the order of the official tree; opens no image.
    DataError as in load_images."""
    listed = _list_files(find_root(data))["file"]
    listed = listed[~listed.map(names.image_stem).duplicated()]
    return _at_magnifications(pd.DataFrame([{"file": file, **_parse(file)._asdict()} for file in listed]), data)


def _at_magnifications(images: pd.DataFrame, data: config.Data) -> pd.DataFrame:
    images = images.loc[images["magnification"].isin(data.magnifications)].reset_index(drop=True)
    if absent := sorted(set(data.magnifications) - set(images["magnification"])):
        missing = " ".join(f"{magnification}X" for magnification in absent)
        raise DataError(f"no images at {missing} under {data.root}; choose others with --data.magnifications")
    return images


def list_unreadable(data: config.Data) -> pd.DataFrame:
    """(file, reason) of the images that cannot be read, of `data.magnifications`, sorted by file."""
    table = _update_table(data)
    return table.loc[table["reason"] != "", ["file", "reason"]].reset_index(drop=True)


def find_root(data: config.Data) -> Path:
    """The folder that `file` is relative to: see find_holder."""
    if data.root == "synthetic":
        from ..synthetic.tree import default_tree

        return find_holder(default_tree(data.cache))
    return find_holder(Path(data.root))


def find_holder(base: Path) -> Path:
    """The folder that holds `histology_slides`, at any depth under `base`; without one, `base` if it holds images of
    BreakHis in folders of any other kind. NoImagesError if there are none, DataError if there are several trees."""
    if base.name == TREE and base.is_dir():
        return base.parent

    def holds_image(filenames: list[str]) -> bool:
        return any(names.official_name(name) for name in filenames if is_image(name))

    holders, others = [], []
    for folder, subfolders, filenames in walk_tree(base):
        if TREE in subfolders:
            holders.append(Path(folder))
            subfolders.remove(TREE)  # do not search its 7,909 images
        if not others and holds_image(filenames):
            others.append(Path(folder))
    if len(holders) > 1:  # empty ones do not count
        filled = [one for one in holders if any(holds_image(names) for _, _, names in walk_tree(one / TREE))]
        holders = filled or holders[:1]
    if len(trees := holders + others) > 1 and holders:
        found = f"{base} holds several trees of BreakHis, which are not mixed; name one of them"
        raise DataError(f"{found}:{list_first([str(tree) for tree in trees], len(trees))}")
    if not trees:
        found = "it is no folder" if base.exists() else "it does not exist"
        if base.is_dir():
            entries = ", ".join(sorted(entry.name for entry in base.iterdir())[:5])
            found = f"it holds {entries}" if entries else "it is empty"
        what = f"no folder '{TREE}' under {base}, and no image with a name of BreakHis"
        raise NoImagesError(f"{what}: {found}; run `breakhis download`, or set --data.root")
    return holders[0] if holders else base


def is_image(filename: str) -> bool:
    """Whether a file is an image by its suffix; whatever else lies in a tree, such as README.txt, is ignored."""
    return Path(filename).suffix.lower() in names.IMAGE_SUFFIXES


def walk_tree(base: Path, refuse: Any = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in sorted order, through links (each folder once), without hidden and system files and folders."""
    seen = set[str]()
    for folder, subfolders, filenames in os.walk(base, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [] if real in seen else sorted(itertools.filterfalse(names.is_system_file, subfolders))
        if real not in seen:
            yield folder, subfolders, sorted(itertools.filterfalse(names.is_system_file, filenames))
        seen.add(real)


def _update_table(data: config.Data) -> pd.DataFrame:
    """The kept table (columns KEPT) of `data.magnifications`, sorted by file; only new and changed files are read."""
    root = find_root(data)
    # Resolved, so that a tree is indexed once, whichever link leads to it.
    kept_at = data.cache / "index" / files.sha256_of_values(VERSION, str(root.resolve()))[:16] / "images.csv"
    listed = _list_files(root)

    # --- rows whose size and time still hold; an empty reason is text and not NaN ---
    try:
        kept = pd.read_csv(kept_at, dtype=KEPT, usecols=list(KEPT), keep_default_na=False)[list(KEPT)]
        # Rights can be restored without a new modification time, so such files are always read again.
        kept = kept.loc[~pd.Series(kept["reason"]).str.startswith("cannot be read")]
    except (OSError, ValueError):  # none yet, or not one of ours
        kept = pd.DataFrame(columns=list(KEPT)).astype(KEPT)
    table = kept.merge(listed, on=STAMP)
    todo = listed[~listed["file"].isin(table["file"])]
    if len(todo) or len(table) != len(kept):
        files.write_csv(kept_at, table)  # fails before minutes of work if the cache cannot be written

    # --- read the others; save every few seconds, on interruption and at the end ---
    fresh: list[dict[str, Any]] = []

    def save() -> pd.DataFrame:
        grown = pd.concat([table, pd.DataFrame(fresh, columns=list(KEPT)).astype(KEPT)])
        files.write_csv(kept_at, grown)
        return grown

    if len(todo):
        saved_s = time.monotonic()
        stamps = list(todo.itertuples(index=False, name=None))
        with contextlib.closing(
            map_in_threads(lambda stamp: _read_image(root, *stamp), stamps, "reading images")
        ) as rows:
            try:
                for row in rows:
                    fresh.append(row)
                    if time.monotonic() - saved_s > SAVE_EVERY_S:
                        save()
                        saved_s = time.monotonic()
            finally:
                table = save()

    n_images = table["file"].map(names.image_stem).nunique()
    if n_images < names.N_IMAGES and data.root != "synthetic":
        warnings.warn(f"{root} holds {n_images:,} of BreakHis's {names.N_IMAGES:,} images", stacklevel=3)
    table = table.set_index("file").loc[listed["file"]].reset_index()
    return table.loc[table["magnification"].isin(data.magnifications)].reset_index(drop=True)


def _read_image(root: Path, file: str, n_bytes: int, mtime_ns: int) -> dict[str, Any]:
    """The row of one image; `reason` says why it cannot be read, and is empty if it can."""
    row = {"file": file, **_parse(file)._asdict(), "bytes": n_bytes, "mtime_ns": mtime_ns}
    row |= {"width_px": 0, "height_px": 0} | dict.fromkeys(("sha256", "pixel_sha256", "converted_from", "reason"), "")
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


def _parse(file: str) -> names.ImageName:
    return names.parse_image_name(names.official_name(file) or Path(file).name)


def _list_files(root: Path) -> pd.DataFrame:
    """STAMP of every image under `root`, in the order of the official tree; DataError lists what does not belong."""
    listed, misplaced = scan_tree(root)
    if misplaced:
        found = f"{len(misplaced):,} files do not belong where they lie under {root}; move or remove them"
        raise DataError(f"{found}:{list_first(misplaced, len(misplaced))}")
    if listed.empty:
        raise DataError(f"{root / TREE} holds no images; run `breakhis download`, or name a --data.root")
    return listed


def scan_tree(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """STAMP of every image under `root` that bears an official name, in the order of the official tree; and a sentence
    for each file that does not belong: another name, or a folder that contradicts the name. Opens no image."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {read_error(error)}; allow reading it, or images would be missed")

    stamps, misplaced = [], []
    for folder, _, filenames in walk_tree(root / TREE if (root / TREE).is_dir() else root, refuse):
        for path in (Path(folder, filename) for filename in filenames if is_image(filename)):
            file = path.relative_to(root).as_posix()
            try:
                expected = names.official_path(file)
            except DataError as error:
                misplaced.append(f"{file}: {error}")
                continue
            if names.contradicts_folders(file):
                misplaced.append(f"{file}: its name says {expected.rpartition('/')[0]}")
            elif file.encode(errors="ignore").decode() != file:
                misplaced.append(f"{file!a}: its path is not UTF-8, so that no table can hold it")
            else:
                about = path.stat() if path.exists() else None  # None of a dangling link: reading it gives the reason
                stamps.append((expected, file, about.st_size if about else 0, about.st_mtime_ns if about else 0))
    listed = pd.DataFrame([stamp[1:] for stamp in sorted(stamps)], columns=STAMP)
    return listed.astype({name: KEPT[name] for name in STAMP}), sorted(misplaced)
