"""What of a test set has the model seen? From a split's table alone, and from pixels where images are there.

Near duplicates are found by the signs of the 255 lowest cosine coefficients of the grey field squeezed to
64x64 (a "pHash" of 16x16). A flip changes the sign of every other coefficient and a quarter turn swaps rows
and columns, so all eight views of a field are compared without looking at its pixels again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.fft import dctn

from .. import files
from ..errors import DataError
from ..parallel import map_in_threads
from .png import decode

KINDS = ("slide", "case", "pixels", "near_duplicate")
COLUMNS = ["fold", "file", "kind", "key", "seen_file", "n_seen"]  # of leaks.csv

SIDE_PX, N_LOW = 64, 16
N_BITS = N_LOW**2 - 1  # the mean is left out
# Counted on 779 real images (docs/protocols.md): 5,453 flipped, turned, resized and JPEG copies lie within
# 36 bits of their originals, one field photographed twice is 62 apart, the closest of 303,007 other pairs 88.
NEAR_BITS = 64
CHUNK = 512


def find_leaks(split: pd.DataFrame, fingerprints: pd.DataFrame | None = None) -> pd.DataFrame:
    """leaks.csv of one or more folds: a row for each test image and kind of leak; empty if there are none.

    `split` is split.csv, cut or not: train and validation together are the seen side. `fingerprints` (of the
    function below) adds equal pixels in different files and near duplicates. `key` is what is shared: the
    slide, the case number, the pixel hash, or the name of the nearest seen image. `n_seen` counts images.
    """
    tables = []
    pairs = None if fingerprints is None else find_near_pairs(fingerprints)
    for fold, rows in split.groupby("fold", sort=True):
        seen, test = rows.loc[rows["part"] != "test"], rows.loc[rows["part"] == "test"]
        found = {kind: _shared(seen, test, kind) for kind in ("slide", "case")}
        if fingerprints is not None:
            pixels = fingerprints[["file", "pixel_sha256"]].rename(columns={"pixel_sha256": "pixels"})
            found["pixels"] = _shared(seen.merge(pixels, on="file"), test.merge(pixels, on="file"), "pixels")
            found["near_duplicate"] = _near(seen, test, pairs)
        tables += [table.assign(fold=fold, kind=kind) for kind, table in found.items() if len(table)]
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def summarize_folds(split: pd.DataFrame, leaks: pd.DataFrame, with_images: bool) -> list[dict[str, Any]]:
    """The entries of audit.json, one a fold.

    Shares are in [0, 1], null without test images. Without images, the numbers of pixels and near_duplicate
    are null, which is not 0: nobody has looked.
    """
    return [
        _entry(int(str(fold)), rows, leaks.loc[leaks["fold"] == fold], with_images)
        for fold, rows in split.groupby("fold", sort=True)
    ]


def validation_warnings(split: pd.DataFrame) -> list[str]:
    """A sentence for each fold whose validation is grouped less strictly than its test."""
    told = []
    for fold, rows in split.groupby("fold", sort=True):
        train, validation, test = (rows.loc[rows["part"] == part] for part in ("train", "validation", "test"))
        inner, outer = _closest(train, validation), _closest(pd.concat([train, validation]), test)
        if len(validation) and inner > outer:
            shared = ("nothing", "case numbers", "slides")
            told.append(
                f"validation of fold {fold} is grouped less strictly than test: it shares {shared[inner]} "
                f"with train, test shares {shared[outer]}; what is chosen on it looks better than it is"
            )
    return told


def compute_fingerprints(images: pd.DataFrame, root: Path, cache: Path) -> pd.DataFrame:
    """file, pixel_sha256, signs (64 hex digits) of each image of images.csv below `root`.

    Computed on all cores with a progress bar and kept under `cache` by pixel hash: a second call is instant.
    """
    kept_at = cache / "fingerprints" / f"signs-{N_LOW}-{SIDE_PX}.csv"
    kept = pd.read_csv(kept_at, dtype=str) if kept_at.is_file() else _no_signs()
    todo = images.loc[~images["pixel_sha256"].isin(kept["pixel_sha256"])].drop_duplicates("pixel_sha256")
    if len(todo):
        paths = [root / file for file in todo["file"]]
        signs = list(map_in_threads(lambda path: fingerprint(decode(path)), paths, "fingerprints"))
        kept = pd.concat([kept, pd.DataFrame({"pixel_sha256": todo["pixel_sha256"], "signs": signs})])
        _save(kept, kept_at)
    return images[["file", "pixel_sha256"]].merge(kept, on="pixel_sha256", how="left", validate="many_to_one")


def fingerprint(rgb: np.ndarray) -> str:
    """(height, width, 3) uint8 -> 256 bits as hex: which low cosine coefficients are positive."""
    grey = Image.fromarray(rgb).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, dtype=np.float32), norm="ortho")[:N_LOW, :N_LOW]
    positive = np.asarray(low) > 0
    positive[0, 0] = False  # the mean, which is always positive
    return np.packbits(positive).tobytes().hex()


def fingerprint_distance(one: str, other: str) -> int:
    """How many of 255 bits differ, at the best of the eight flips and quarter turns."""
    return int(_distances(_unpacked([one]), _unpacked([other]))[0, 0])


def find_near_pairs(fingerprints: pd.DataFrame) -> pd.DataFrame:
    """file, other, n_bits: pairs of different pixels within NEAR_BITS, each in both orders; nearest first."""
    unique = fingerprints.drop_duplicates("pixel_sha256")
    signs = _unpacked(unique["signs"].tolist())
    starts = range(0, len(signs), CHUNK)
    found = list(map_in_threads(lambda start: _near_from(signs, start), starts, "comparing images"))
    at = np.concatenate(found) if found else np.empty((0, 3), int)
    hashes = unique["pixel_sha256"].to_numpy()
    pairs = pd.DataFrame({"one": hashes[at[:, 0]], "two": hashes[at[:, 1]], "n_bits": at[:, 2]})
    by_hash = fingerprints[["file", "pixel_sha256"]]
    pairs = pairs.merge(by_hash.rename(columns={"pixel_sha256": "one"}), on="one")
    pairs = pairs.merge(by_hash.rename(columns={"pixel_sha256": "two", "file": "other"}), on="two")
    return pairs.sort_values(["n_bits", "file", "other"], ignore_index=True)[["file", "other", "n_bits"]]


def find_equal_pixels(images: pd.DataFrame) -> list[list[str]]:
    """Groups of files with equal pixels, whatever their bytes and parts; sorted."""
    groups = images.sort_values("file").groupby("pixel_sha256")["file"].agg(list)
    return sorted(group for group in groups if len(group) > 1)


def _shared(seen: pd.DataFrame, test: pd.DataFrame, column: str) -> pd.DataFrame:
    grouped = seen.groupby(column)["file"]
    known = pd.DataFrame({"seen_file": grouped.min(), "n_seen": grouped.size()})
    rows = test[["file", column]].rename(columns={column: "key"})
    return rows.merge(known, left_on="key", right_index=True)


def _near(seen: pd.DataFrame, test: pd.DataFrame, pairs: Any) -> pd.DataFrame:
    across = pairs.loc[pairs["file"].isin(test["file"]) & pairs["other"].isin(seen["file"])]
    grouped = across.groupby("file")["other"]
    rows = pd.DataFrame({"seen_file": grouped.first(), "n_seen": grouped.size()}).reset_index()
    return rows.assign(key=rows["seen_file"].map(lambda file: file.rpartition("/")[2]))


def _entry(fold: int, rows: pd.DataFrame, leaks: pd.DataFrame, with_images: bool) -> dict[str, Any]:
    test = rows.loc[rows["part"] == "test"]
    return {
        "fold": fold,
        "n_train": int((rows["part"] != "test").sum()),
        "n_test": len(test),
        "test_slides": int(test["slide"].nunique()),
        "test_cases": int(test["case"].nunique()),
        "leaks": {
            kind: _touched(test, leaks.loc[leaks["kind"] == kind], with_images or kind in ("slide", "case"))
            for kind in KINDS
        },
    }


def _touched(test: pd.DataFrame, leaks: pd.DataFrame, looked: bool) -> dict[str, Any]:
    touched = test["file"].isin(leaks["file"])
    benign = touched[test["label"] == "benign"]
    return {
        "keys": sorted(set(leaks["key"])),
        "test_images": int(touched.sum()) if looked else None,
        "test_share": float(touched.mean()) if looked and len(test) else None,
        "benign_test_share": float(benign.mean()) if looked and len(benign) else None,
    }


def _closest(seen: pd.DataFrame, other: pd.DataFrame) -> int:
    """0: no case shared; 1: a case; 2: a slide."""
    if set(seen["slide"]) & set(other["slide"]):
        return 2
    return int(bool(set(seen["case"]) & set(other["case"])))


def _near_from(signs: np.ndarray, start: int) -> np.ndarray:
    """(n, 3): row, row of another image, bits between them, for the rows of one chunk."""
    bits = _distances(signs[start : start + CHUNK], signs)
    one, other = np.nonzero(bits <= NEAR_BITS)
    found = np.stack([one + start, other, bits[one, other].astype(int)], axis=1)
    return found[found[:, 0] != found[:, 1]]


def _unpacked(signs: list[str]) -> np.ndarray:
    """Hex -> (n, 16, 16) float32 of -1 and 1."""
    raw = np.frombuffer(bytes.fromhex("".join(signs)), dtype=np.uint8)
    return np.unpackbits(raw).reshape(-1, N_LOW, N_LOW).astype(np.float32) * 2 - 1


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, 16, 16), (m, 16, 16) -> (n, m) bits that differ, at the best of the eight views of `other`."""
    best = np.full((len(one), len(other)), -np.inf, dtype=np.float32)
    for view in _views(other):
        np.maximum(best, _flat(one) @ _flat(view).T, out=best)
    return (N_BITS - best) / 2


def _views(signs: np.ndarray) -> list[np.ndarray]:
    odd = (-1.0) ** np.arange(N_LOW, dtype=np.float32)  # mirrored, cosines of odd frequency change sign
    flips = [np.float32(1), odd[:, None], odd[None, :], odd[:, None] * odd[None, :]]
    return [turned * flip for turned in (signs, signs.transpose(0, 2, 1)) for flip in flips]


def _flat(signs: np.ndarray) -> np.ndarray:
    return signs.reshape(len(signs), -1)[:, 1:]


def _no_signs() -> pd.DataFrame:
    return pd.DataFrame({"pixel_sha256": [], "signs": []}, dtype=str)


def _save(table: pd.DataFrame, path: Path) -> None:
    try:
        with files.atomic_path(path) as temporary:
            table.to_csv(temporary, index=False)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}); name another place with --data.cache") from None
