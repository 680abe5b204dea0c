"""The pixel store: every image decoded and resized once, kept as uint8 in one .npy file that all runs map.

A plain array on disk needs no index and no decompression, and memory stays flat however large the set is. A build takes
some 43 s for all of BreakHis on two cores, in a temporary file that is renamed at the end; one that was killed starts
again.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import Timeout
from PIL import Image, ImageOps

from .. import config, files
from ..data import archive, png
from ..errors import DataError
from ..parallel import map_in_threads

VERSION = 2  # of fit_image and of the layout; a new number makes new stores. 1 wrote in chunks, with a journal
GLASS = 245  # grey level of margins; the brightest 1 % of BreakHis's pixels are about RGB 252 236 242


@dataclass(frozen=True)
class PixelStore:
    """`array[rows[i]]` are the pixels of row i of the images that the store was opened with."""

    array: np.memmap  # uint8 (n, height_px, width_px, 3) RGB, read-only, sorted by file
    rows: np.ndarray  # int64 (n,): where each row of the images lies in `array`; 0 1 2 ... for images sorted by file
    key: str  # SHA-256 of all that the bytes depend on: pixel hashes in order, image settings, code version
    path: Path

    @staticmethod
    def open(images: pd.DataFrame, root: Path, image: config.Image, cache: Path) -> PixelStore:
        """Map the store of these images (columns file, pixel_sha256); build it first where it is missing or damaged.
        `root` is `index.find_root`. DataError if there are no images, if one has changed since it was indexed, or if
        the disk is too full. One process builds at a time; another waits and then finds the store."""
        if images.empty:
            raise DataError("no images to put into a pixel store; see --data.magnifications")
        order = np.argsort(images["file"].to_numpy(dtype=str), kind="stable")
        rows = np.empty(len(order), np.int64)
        rows[order] = np.arange(len(order))
        images = images.iloc[order]

        # Paths are not part of the key: equal pixels under another root share the store.
        key = files.sha256_of_values("pixels", VERSION, image.model_dump(), images["pixel_sha256"].tolist())
        path = cache / "pixels" / key[:16] / "pixels.npy"
        shape = len(images), image.height_px, image.width_px, 3
        if (array := _map_array(path, shape)) is None:
            try:
                held = files.lock(path.parent / "lock", 0)
            except Timeout:
                print(f"another process builds {path.parent}; waiting for it", file=sys.stderr)
                held = files.lock(path.parent / "lock")
            with held:
                array = _map_array(path, shape)  # another process may have built it meanwhile
                if array is None:
                    with files.atomic_path(path) as temporary:
                        _write_array(temporary, shape, images, root, image)
                    array = np.lib.format.open_memmap(path, mode="r")
        return PixelStore(array, rows, key, path)


def fit_image(image: np.ndarray, settings: config.Image) -> np.ndarray:
    """uint8 (h, w, 3) RGB -> uint8 (height_px, width_px, 3), read-only. By Pillow's bilinear filter, which averages
    over what it shrinks. stretch: the whole field, whatever its shape. crop: the largest centred part of the wanted
    shape. pad: the whole field in its own shape, centred, with margins of empty glass (grey level 245)."""
    picture, size, bilinear = Image.fromarray(image), (settings.width_px, settings.height_px), Image.Resampling.BILINEAR
    if settings.fit == "pad":
        scale = min(size[0] / picture.width, size[1] / picture.height)
        inner = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
        canvas = Image.new("RGB", size, (GLASS, GLASS, GLASS))
        canvas.paste(picture.resize(inner, bilinear), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        return np.asarray(canvas)
    return np.asarray((ImageOps.fit if settings.fit == "crop" else Image.Image.resize)(picture, size, bilinear))


def _map_array(path: Path, shape: tuple[int, ...]) -> np.memmap | None:
    """The stored array, read-only; None where the file is missing, cut short, or holds something else."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # ValueError if the file is shorter than its header says
    except (OSError, ValueError):
        return None
    return array if (array.shape, array.dtype) == (shape, np.uint8) else None


def _write_array(path: Path, shape: tuple[int, ...], images: pd.DataFrame, root: Path, image: config.Image) -> None:
    """Decode and fit all images into a new .npy file, a thread per core; call it under the lock."""
    for leftover in path.parent.glob(".pixels.*.npy"):
        leftover.unlink()  # of a build that was killed: up to 2 GB, and nobody writes to it while we hold the lock
    archive.check_free([(path.parent, math.prod(shape), "pixel store")])
    array: Any = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        # Reserve the blocks: on a disk that fills up meanwhile a mapped write ends in SIGBUS, not in an exception.
        with path.open("rb+") as opened, files.ignore_missing_function():
            os.posix_fallocate(opened.fileno(), 0, path.stat().st_size)
    sources, hashes = [root / file for file in images["file"]], images["pixel_sha256"].tolist()

    def store_row(row: int) -> None:
        rgb = png.decode(sources[row])
        if png.pixel_sha256(rgb) != hashes[row]:
            raise DataError(f"{sources[row]} has changed since it was indexed; run the command again")
        array[row] = fit_image(rgb, image)

    # Closing stops the threads after an error, before their file is removed.
    try:
        with contextlib.closing(map_in_threads(store_row, range(len(sources)), "storing pixels")) as stored:
            deque(stored, maxlen=0)
        array.flush()
    finally:
        array = None  # Windows neither renames nor removes a file that is mapped
