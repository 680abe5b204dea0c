"""Which test images has the model seen? From a split's table alone, and from pixels where images are there.

Near duplicates are found by the signs of the 255 lowest cosine coefficients of the grey field squeezed to
64x64 (a "pHash" of 16x16). A flip changes the sign of every other coefficient and a quarter turn swaps rows
and columns, so all eight views of a field are compared without looking at its pixels again.
"""

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from .. import config, files
from ..parallel import map_in_threads
from . import index, protocols, splits
from .png import decode

KINDS = ("slide", "case", "pixels", "near_duplicate")
COLUMNS = ["fold", "file", "kind", "key", "seen_file", "n_seen"]  # of leaks.csv

SIDE_PX, N_LOW = 64, 16
N_BITS = N_LOW**2 - 1  # the mean is left out
# Counted on 779 real images (docs/protocols.md): 5,453 flipped, turned, resized and JPEG copies lie within
# 36 bits of their originals, one field photographed twice is 62 apart, the closest of 303,007 other pairs 88.
NEAR_BITS = 64
CHUNK = 512  # rows compared at once: against 7,909 images some 16 MB of float32 a view


@dataclass(frozen=True)
class Audit:
    """The split and the leaks of all folds of a protocol, and warnings for the reader."""

    protocol: str
    with_images: bool  # False: official names alone, so pixels were not compared
    split: pd.DataFrame  # split.csv of all folds, without a cut validation
    leaks: pd.DataFrame  # leaks.csv
    folds: list[dict[str, Any]]  # see summarize_folds
    messages: list[str]


def audit_split(split: config.Split | Path | str, data: config.Data | None = None) -> Audit:
    """Audit every fold of a split, named by settings, a protocol or a CSV file, over the images under `data.root`.
    Without data, or with an empty `data.root`, the 7,909 official names are audited and no image is opened."""
    data = data or config.Data(root="")
    split = split if isinstance(split, config.Split) else config.Split(protocol=str(split))
    with_images = data.root != ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)  # else one that was shown before is not caught
        images = index.load_images(data) if with_images else protocols.official_images()
        images = images.loc[images["magnification"].isin(data.magnifications)]
        # Looking at a leak is always allowed: protocol `image` needs no split.allow_leaks here.
        split = split.model_copy(update={"allow_leaks": True})
        folds = [split.model_copy(update={"fold": fold}) for fold in range(splits.count_folds(split))]
        tables = [splits.assign_test(splits.select_images(images, fold), fold) for fold in folds]
    table = pd.concat(tables, ignore_index=True)
    messages = [str(warning.message) for warning in caught]
    fingerprints = None
    if with_images:
        images = images.loc[images["file"].isin(table["file"])]
        fingerprints = compute_fingerprints(images, index.find_root(data), data.cache)
        if groups := find_equal_pixels(images):
            one, other = (file.rpartition("/")[2] for file in groups[0][:2])
            found = f"{sum(map(len, groups)):,} files hold {len(groups):,} images: equal pixels under several names"
            messages.append(f"{found}, such as {one} and {other}")
    leaks = find_leaks(table, fingerprints)
    messages = list(dict.fromkeys(messages + validation_messages(table, leaks)))
    return Audit(split.protocol, with_images, table, leaks, summarize_folds(table, leaks, with_images), messages)


def find_leaks(split: pd.DataFrame, fingerprints: pd.DataFrame | None = None) -> pd.DataFrame:
    """leaks.csv of one or more folds: a row for each test image and kind of leak; empty if there are none. `split` is
    split.csv, with or without validation: train and validation together are the seen side. `fingerprints` (of
    compute_fingerprints) adds equal pixels in different files and near duplicates. `key` is what is shared: the slide,
    the case number, the pixel hash, or the name of the nearest seen image. `n_seen` counts images."""
    tables, pairs = [], None if fingerprints is None else find_near_pairs(fingerprints)
    for fold, rows in split.groupby("fold", sort=True):
        seen, test = rows.loc[rows["part"] != "test"], rows.loc[rows["part"] == "test"]
        found = {kind: _shared(seen, test, kind) for kind in ("slide", "case")}
        if fingerprints is not None and pairs is not None:
            pixels = fingerprints[["file", "pixel_sha256"]].rename(columns={"pixel_sha256": "pixels"})
            found["pixels"] = _shared(seen.merge(pixels, on="file"), test.merge(pixels, on="file"), "pixels")
            across = pairs.loc[pairs["file"].isin(test["file"]) & pairs["other"].isin(seen["file"])]
            grouped = across.groupby("file")["other"]  # nearest first
            near = pd.DataFrame({"seen_file": grouped.first(), "n_seen": grouped.size()}).reset_index()
            found["near_duplicate"] = near.assign(key=near["seen_file"].map(lambda file: file.rpartition("/")[2]))
        tables += [table.assign(fold=fold, kind=kind) for kind, table in found.items() if len(table)]
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def summarize_folds(split: pd.DataFrame, leaks: pd.DataFrame, with_images: bool) -> list[dict[str, Any]]:
    """The entries of audit.json, one a fold. Shares are in [0, 1], None without test images. Without images, the
    numbers of pixels and near_duplicate are None, which is not 0: pixels were not compared."""
    summary = []
    for fold, rows in split.groupby("fold", sort=True):
        test, kinds = rows.loc[rows["part"] == "test"], {}
        for kind in KINDS:
            found = leaks.loc[(leaks["fold"] == fold) & (leaks["kind"] == kind)]
            touched = test["file"].isin(found["file"])
            benign = touched[test["label"] == "benign"]
            looked = with_images or kind in ("slide", "case")
            kinds[kind] = {
                "keys": sorted(set(found["key"])),
                "test_images": int(touched.sum()) if looked else None,
                "test_share": float(touched.mean()) if looked and len(test) else None,
                "benign_test_share": float(benign.mean()) if looked and len(benign) else None,
            }
        summary.append({
            "fold": int(str(fold)), "n_train": int((rows["part"] != "test").sum()), "n_test": len(test),
            "test_slides": int(test["slide"].nunique()), "test_cases": int(test["case"].nunique()), "leaks": kinds,
        })  # fmt: skip
    return summary


def validation_messages(split: pd.DataFrame, leaks: pd.DataFrame) -> list[str]:
    """Of each fold with a validation part of its own: whether that is grouped less strictly than test, and which of the
    case numbers that test shares are in train, and which in validation alone."""
    messages, words = [], ("nothing", "case numbers", "slides")
    for fold, rows in split[split["part"].eq("validation").groupby(split["fold"]).transform("any")].groupby("fold"):
        train, validation, test = (rows[rows["part"] == part] for part in ("train", "validation", "test"))
        # 1: a case is shared; 2: a slide, whose case is then shared too
        inner, outer = (
            sum(one[group].isin(other[group]).any() for group in ("slide", "case"))
            for one, other in ((validation, train), (test, pd.concat([train, validation])))
        )
        if inner > outer:
            messages.append(
                f"validation of fold {fold} is grouped less strictly than test: it shares {words[inner]} "
                f"with train, test shares {words[outer]}; what is chosen on it looks better than it is"
            )
        shared = leaks.loc[(leaks["fold"] == fold) & (leaks["kind"] == "case"), "key"]
        in_train = shared.isin(train["case"])
        if len(shared):
            found = " and ".join(
                f"{where} {', '.join(sorted(set(cases))) or 'none'} ({len(cases):,} test images)"
                for where, cases in (("with train", shared[in_train]), ("with validation alone", shared[~in_train]))
            )
            messages.append(f"case numbers that test of fold {fold} shares {found}")
    return messages


def compute_fingerprints(images: pd.DataFrame, root: Path, cache: Path) -> pd.DataFrame:
    """file, pixel_sha256, signs (64 hex digits) of each image of images.csv below `root`. Computed on all cores with a
    progress bar and kept under `cache` by pixel hash: a second call is instant."""
    kept_at = cache / "fingerprints" / f"signs-{N_LOW}-{SIDE_PX}.csv"
    kept = pd.DataFrame({"pixel_sha256": [], "signs": []}, dtype=str)
    kept = pd.read_csv(kept_at, dtype=str) if kept_at.is_file() else kept
    todo = images.loc[~images["pixel_sha256"].isin(kept["pixel_sha256"])].drop_duplicates("pixel_sha256")
    if len(todo):
        paths = [root / file for file in todo["file"]]
        signs = list(map_in_threads(lambda path: fingerprint(decode(path)), paths, "fingerprints"))
        kept = pd.concat([kept, pd.DataFrame({"pixel_sha256": todo["pixel_sha256"], "signs": signs})])
        files.write_csv(kept_at, kept)
    return images[["file", "pixel_sha256"]].merge(kept, on="pixel_sha256", how="left", validate="many_to_one")


def fingerprint(rgb: np.ndarray) -> str:
    """(height, width, 3) uint8 -> 256 bits as hex: which low cosine coefficients are positive."""
    grey = Image.fromarray(rgb).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float32), norm="ortho")[:N_LOW, :N_LOW]
    positive = np.asarray(low) > 0
    positive[0, 0] = False  # the mean, which is always positive
    return np.packbits(positive).tobytes().hex()


def find_near_pairs(fingerprints: pd.DataFrame) -> pd.DataFrame:
    """file, other, n_bits: pairs of different pixels within NEAR_BITS, each in both orders; nearest first."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(fingerprints["signs"])), dtype=np.uint8))
    signs = bits.reshape(-1, N_LOW, N_LOW).astype(np.float32) * 2 - 1
    odd = (-1.0) ** np.arange(N_LOW, dtype=np.float32)  # mirrored, cosines of odd frequency change sign
    flips = [np.float32(1), odd[:, None], odd[None, :], odd[:, None] * odd[None, :]]
    views = [turned * flip for turned in (signs, signs.transpose(0, 2, 1)) for flip in flips]
    flat_views = [view.reshape(len(signs), -1)[:, 1:] for view in views]  # without the mean

    def find_in_chunk(start: int) -> np.ndarray:  # (n, 3): row, row of a near image or of itself, bits between them
        chunk = flat_views[0][start : start + CHUNK]
        agreement = functools.reduce(np.maximum, (chunk @ view.T for view in flat_views))  # of the best of eight views
        n_bits = (N_BITS - agreement) / 2
        one, other = np.nonzero(n_bits <= NEAR_BITS)
        return np.stack([one + start, other, n_bits[one, other].astype(int)], axis=1)

    at = np.concatenate(list(map_in_threads(find_in_chunk, range(0, len(signs), CHUNK), "comparing images")))
    hashes, file = (fingerprints[column].to_numpy() for column in ("pixel_sha256", "file"))
    at = at[hashes[at[:, 0]] != hashes[at[:, 1]]]
    pairs = pd.DataFrame({"file": file[at[:, 0]], "other": file[at[:, 1]], "n_bits": at[:, 2]})
    return pairs.sort_values(["n_bits", "file", "other"], ignore_index=True)


def find_equal_pixels(images: pd.DataFrame) -> list[list[str]]:
    """Groups of files with equal pixels, whatever their bytes and parts; sorted."""
    groups = images.sort_values("file").groupby("pixel_sha256")["file"].agg(list)
    return sorted(group for group in groups if len(group) > 1)


def _shared(seen: pd.DataFrame, test: pd.DataFrame, column: str) -> pd.DataFrame:
    grouped = seen.groupby(column)["file"]
    known = pd.DataFrame({"seen_file": grouped.min(), "n_seen": grouped.size()})
    rows = test[["file", column]].rename(columns={column: "key"})
    return rows.merge(known, left_on="key", right_index=True)
