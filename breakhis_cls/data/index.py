"""A tree of BreakHis images -> images.csv: what each name says, its size, and the hash of its pixels.

Every image is decoded once, by threads on all cores: Pillow and hashlib release the interpreter's lock, so two
threads decode 1.9 times as fast as one. What was found is kept under the cache and saved every few seconds; a file is
read again only when its size or modification time has changed, or if it could not be read.
"""

import contextlib
import functools
import hashlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from .. import config, files, names
from ..errors import DataError, list_first
from ..names import TREE, ImageName
from ..parallel import map_in_threads
from .png import decode_bytes, pixel_sha256, read_error

VERSION = 1  # of what is kept about a file; a new number indexes every tree again
COLUMNS = ("file", *ImageName._fields, "width_px", "height_px", "bytes", "sha256", "pixel_sha256")  # of images.csv
STAMP = ("file", "bytes", "mtime_ns")
KEPT: Any = {   # mtime_ns last: a row that was cut short then counts as another file's
    "file": str, "sha256": str, "pixel_sha256": str, "reason": str, "width_px": int, "height_px": int, "bytes": int,
    "mtime_ns": int,
}  # fmt: skip
SAVE_EVERY_S = 5.0  # the threads go on decoding meanwhile


class NoImagesError(DataError):
    """A folder that holds no image of BreakHis at all."""


def load_images(data: config.Data) -> pd.DataFrame:
    """images.csv of `data.magnifications`, in the order of the official tree; duplicates stay in. `file` is relative to
    `find_root(data)`, `case` is text. DataError if a folder contradicts a name, if two files of one name hold other
    pixels, if an image cannot be read (unless `data.skip_broken`), or if a magnification is missing. Warns of a tree
    smaller than BreakHis, and of copies under one name, of which the first counts."""
    table = _load_table(data)
    is_bad = table["reason"] != ""
    if is_bad.any() and not data.skip_broken:
        found = f"{is_bad.sum():,} images cannot be read as 8-bit RGB"
        lines = (table["file"] + ": " + table["reason"])[is_bad].tolist()
        raise DataError(f"{found}; replace them, or use --data.skip_broken:{list_first(lines, len(lines))}")
    images = table[~is_bad].reset_index(drop=True)

    # --- one file of each name: folders for folds hold copies of the same images ---
    stems = images["file"].map(names.image_stem)
    first = images.groupby(stems)["pixel_sha256"].transform("first")
    if len(other := images.loc[images["pixel_sha256"] != first, "file"]):
        found = f"{len(other):,} files have other pixels than a file of the same name"
        raise DataError(f"{found}; keep one of each, or name one tree with --data.root:{list_first(list(other))}")
    if len(copies := images.loc[stems.duplicated(), "file"]):
        found = f"{len(copies):,} files are copies of others of the same name, and are left out"
        warnings.warn(f"{found}, such as {copies.iloc[0]}", stacklevel=2)
        images = images[~stems.duplicated()].reset_index(drop=True)

    return images[list(COLUMNS)]


def list_images(data: config.Data) -> pd.DataFrame:
    """What the names alone say (images.csv up to `sequence`), in the order of the official tree; opens no image.
    DataError as in load_images."""
    listed = _list_tree(data, find_root(data))
    listed = listed[listed["magnification"].isin(data.magnifications)]
    is_copy = listed["file"].map(names.image_stem).duplicated()
    return listed.loc[~is_copy, ["file", *ImageName._fields]].reset_index(drop=True)


def list_unreadable(data: config.Data) -> pd.DataFrame:
    """(file, reason) of the images that cannot be read, of `data.magnifications`, sorted by file."""
    table = _load_table(data)
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
    holders, others = [], []
    for folder, subfolders, filenames in walk_tree(base):
        if TREE in subfolders:
            holders.append(Path(folder))
            subfolders.remove(TREE)  # do not search its 7,909 images
        if not others and any(is_image(name) and names.official_name(name) for name in filenames):
            others.append(Path(folder))
    trees = [str(folder) for folder in holders + others]
    if holders and len(trees) > 1:
        found = f"{base} holds several trees of BreakHis, which are not mixed; name one of them"
        raise DataError(f"{found}:{list_first(trees, len(trees))}")
    if not trees:
        entries = ", ".join(sorted(entry.name for entry in base.iterdir())[:5]) if base.is_dir() else ""
        found = f"it holds {entries or 'nothing'}" if base.is_dir() else "there is no such folder"
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
        subfolders[:] = sorted(name for name in subfolders if real not in seen and not names.is_system_file(name))
        if real not in seen:
            yield folder, subfolders, sorted(name for name in filenames if not names.is_system_file(name))
        seen.add(real)


def scan_tree(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """STAMP and ImageName of every image under `root` that bears an official name, in the order of the official tree;
    and a sentence for each other image: no official name, or a folder that contradicts it. Opens no image."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {read_error(error)}; allow reading it, or images would be missed")

    rows, misplaced = [], []
    for folder, _, filenames in walk_tree(root / TREE if (root / TREE).is_dir() else root, refuse):
        for path in (Path(folder, filename) for filename in filenames if is_image(filename)):
            file = path.relative_to(root).as_posix()
            try:
                name, expected = names.parse_image_name(file), names.official_path(file)
                if names.contradicts_folders(file):
                    raise DataError(f"its name says {expected.rpartition('/')[0]}")
            except DataError as error:
                misplaced.append(f"{file}: {error}")
                continue
            stat = path.stat() if path.exists() else None  # a dangling link: reading it gives the reason
            rows.append((expected, file, stat.st_size if stat else 0, stat.st_mtime_ns if stat else 0, *name))
    return pd.DataFrame([row[1:] for row in sorted(rows)], columns=[*STAMP, *ImageName._fields]), sorted(misplaced)


scan_once = functools.cache(scan_tree)
IS_SCANNED_ONCE = False  # in a sweep's worker, whose many runs would each look at 7,909 files for a second


def _list_tree(data: config.Data, root: Path) -> pd.DataFrame:
    listed, misplaced = scan_once(root) if IS_SCANNED_ONCE else scan_tree(root)
    if misplaced:
        found = f"{len(misplaced):,} files do not belong where they lie under {root}; move or remove them"
        raise DataError(f"{found}:{list_first(misplaced, len(misplaced))}")
    if absent := [f"{each}X" for each in sorted(data.magnifications) if each not in set(listed["magnification"])]:
        raise DataError(f"no images at {' '.join(absent)} under {root}; choose others with --data.magnifications")
    return listed


def _load_table(data: config.Data) -> pd.DataFrame:
    """ImageName and KEPT of the images of `data.magnifications`, in the order of the official tree."""
    root = find_root(data)
    listed = _list_tree(data, root)
    n_images = listed["file"].map(names.image_stem).nunique()
    if n_images < names.N_IMAGES and data.root != "synthetic":
        warnings.warn(f"{root} holds {n_images:,} of BreakHis's {names.N_IMAGES:,} images", stacklevel=3)
    listed = listed[listed["magnification"].isin(data.magnifications)]

    # --- what is kept of files whose size and time still hold ---
    # Resolved, so that a tree is indexed once, whichever link leads to it.
    kept_at = data.cache / "index" / files.sha256_of_values(VERSION, str(root.resolve()))[:16] / "images.csv"
    try:
        kept = pd.read_csv(kept_at, dtype=KEPT, usecols=list(KEPT), keep_default_na=False)[list(KEPT)]
    except (OSError, ValueError):  # none yet, or not one of ours
        kept = pd.DataFrame(columns=list(KEPT)).astype(KEPT)
    kept = kept[kept["reason"] == ""]  # rights can be restored without a new modification time
    todo = listed[~listed["file"].isin(listed.merge(kept, on=STAMP)["file"])]
    kept = kept[~kept["file"].isin(todo["file"])]

    # --- read the others; save every few seconds, on interruption and at the end ---
    fresh: list[dict[str, Any]] = []

    def save() -> pd.DataFrame:
        grown = pd.concat([kept, pd.DataFrame(fresh, columns=list(KEPT)).astype(KEPT)])
        files.write_csv(kept_at, grown)
        return grown

    if len(todo):
        save()  # fails before minutes of work if the cache cannot be written
        saved_s = time.monotonic()
        stamps = todo[list(STAMP)].to_dict("records")
        rows = map_in_threads(lambda stamp: stamp | _read_image(root / stamp["file"]), stamps, "reading images")
        with contextlib.closing(rows):
            try:
                for row in rows:
                    fresh.append(row)
                    if time.monotonic() - saved_s > SAVE_EVERY_S:
                        save()
                        saved_s = time.monotonic()
            finally:
                kept = save()
    return listed.merge(kept, on=STAMP)


def _read_image(path: Path) -> dict[str, Any]:
    """What KEPT says of an image beside its STAMP; `reason` says why it cannot be read, and is empty if it can."""
    try:
        raw = path.read_bytes()
        rgb = decode_bytes(raw)
    except (OSError, DataError) as error:
        return {"sha256": "", "pixel_sha256": "", "reason": read_error(error), "width_px": 0, "height_px": 0}
    sizes = {"width_px": rgb.shape[1], "height_px": rgb.shape[0]}
    return {"sha256": hashlib.sha256(raw).hexdigest(), "pixel_sha256": pixel_sha256(rgb), "reason": "", **sizes}
