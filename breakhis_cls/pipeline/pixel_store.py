"""The pixel store: every image decoded and resized once, kept as uint8 in one file that all runs map.

A plain .npy map, because rows of equal size need no chunk index and no decompression: zarr, HDF5 and
TFRecord put a copy, a codec or a shuffle buffer between the disk's pages and a batch.

On disk a store is `pixels.npy`, `chunks.txt` (SHA-256 of each chunk that is done) and `checked.json` (size
and times of the file when every chunk last held). A fresh build, one that was killed and one whose store is
damaged go the same way: chunks that do not hold are made (again), and the stamp is written last. One process
builds at a time under a file lock (POSIX), which the kernel frees however its owner ends; a second waits,
then finds the store done.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from .. import config, files
from ..data import png
from ..data.png import pixel_sha256
from ..errors import DataError
from ..parallel import map_in_threads
from . import stain_normalization

VERSION = 1  # of fit() and of the layout; a new number makes new stores
CHUNK_BYTES = 1 << 20  # what a thread makes at a time; 4 images of 230x350
CHUNK_LINE = re.compile(r"^([0-9]{1,9}) ([0-9a-f]{64})$", re.MULTILINE)
GLASS = 245  # grey level of margins; the brightest 1 % of BreakHis's pixels are about RGB 252 236 242


@dataclass(frozen=True)
class PixelStore:
    """`array[rows[i]]` are the pixels of row i of the images that the store was opened with."""

    array: np.memmap
    """uint8 (n, height_px, width_px, 3) RGB, read-only, sorted by file."""
    rows: np.ndarray
    """int64 (n,): where each row of the images lies in `array`; 0 1 2 ... for images sorted by file."""
    key: str
    """SHA-256 of everything that the bytes depend on: pixel hashes in order, image settings, code version."""
    path: Path
    """The .npy file."""

    @staticmethod
    def open(images: pd.DataFrame, root: Path, image: config.Image, cache: Path) -> PixelStore:
        """Map the store of these images (columns file, pixel_sha256), building what is missing of it first.

        `root` is `index.root_of`. DataError if there are no images, if one has changed since it was indexed,
        or if the disk is too full. Memory stays flat: a chunk of 1 MiB a core.
        """
        if images.empty:
            raise DataError("no images to put into a pixel store; see --data.magnifications")
        order = np.argsort(images["file"].to_numpy(dtype=str), kind="stable")
        rows = np.empty(len(order), np.int64)
        rows[order] = np.arange(len(order))
        plan = _Plan.of(images.iloc[order], root, image, cache)
        if not plan.is_checked():
            with _alone(plan.folder):
                _complete(plan)
        array = np.memmap(plan.path, np.uint8, "r", offset=len(plan.header), shape=plan.shape)
        return PixelStore(array, rows, plan.key, plan.path)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)


def fit_image(image: np.ndarray, settings: config.Image) -> np.ndarray:
    """uint8 (h, w, 3) RGB -> uint8 (height_px, width_px, 3), read-only.

    By Pillow's bilinear filter, which averages over what it shrinks. stretch: the whole field, whatever its
    shape. crop: the largest centred part of the wanted shape. pad: the whole field in its own shape, centred,
    with margins of empty glass (grey level 245). Stains are normalised first, on the whole field at its full size.
    """
    image = stain_normalization.normalize_stains(image) if settings.stains == "macenko" else image
    size = settings.width_px, settings.height_px
    height_px, width_px, _ = image.shape
    picture = Image.fromarray(image)
    if settings.fit == "pad":
        return np.asarray(_padded(picture, size))
    scale = min(width_px / size[0], height_px / size[1])
    box = (0.0, 0.0, float(width_px), float(height_px))
    if settings.fit == "crop":
        margin_x = max(0.0, (width_px - scale * size[0]) / 2)  # rounding can leave -1e-14
        margin_y = max(0.0, (height_px - scale * size[1]) / 2)
        box = (margin_x, margin_y, width_px - margin_x, height_px - margin_y)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=box))


def _padded(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / picture.width, size[1] / picture.height)
    inner = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
    canvas = Image.new("RGB", size, (GLASS, GLASS, GLASS))
    corner = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas.paste(picture.resize(inner, Image.Resampling.BILINEAR), corner)
    return canvas


@dataclass(frozen=True)
class _Plan:
    """What a store must hold and where; nothing in it depends on the number of workers."""

    key: str
    folder: Path
    sources: list[Path]
    pixel_hashes: list[str]
    image: config.Image

    @staticmethod
    def of(images: pd.DataFrame, root: Path, image: config.Image, cache: Path) -> _Plan:
        hashes = images["pixel_sha256"].tolist()
        key = files.sha256_of_values("pixels", VERSION, image.model_dump(), hashes)
        sources = [root / file for file in images["file"]]
        return _Plan(key, cache / "pixels" / key[:16], sources, hashes, image)

    @property
    def path(self) -> Path:
        return self.folder / "pixels.npy"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.sources), self.image.height_px, self.image.width_px, 3

    @property
    def header(self) -> bytes:
        """Of a version 1.0 .npy file: 128 bytes."""
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {self.shape}, }}"
        return b"\x93NUMPY\x01\x00\x76\x00" + text.encode().ljust(117) + b"\n"

    @property
    def n_bytes(self) -> int:
        return len(self.header) + int(np.prod(self.shape, dtype=np.int64))

    def chunks(self) -> list[range]:
        """Rows of each chunk."""
        step = max(1, CHUNK_BYTES // (3 * self.image.height_px * self.image.width_px))
        rows = range(len(self.sources))
        return [rows[first : first + step] for first in rows[::step]]

    def offset(self, row: int) -> int:
        return len(self.header) + row * 3 * self.image.height_px * self.image.width_px

    def is_checked(self) -> bool:
        """Every chunk held when last looked at, and the file has not been touched since."""
        try:
            return json.loads((self.folder / "checked.json").read_text()) == self.stamp()
        except (OSError, ValueError):
            return False

    def stamp(self) -> dict[str, int | str]:
        stat = self.path.stat()
        times = {"mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}  # the latter cannot be set back
        return {"key": self.key, "bytes": stat.st_size, **times}


def _complete(plan: _Plan) -> None:
    """Make the chunks that do not hold; call it under the lock."""
    if plan.is_checked():  # another process was faster
        return
    with _opened(plan) as fd:
        held = _held(plan, fd)
        missing = [number for number in range(len(plan.chunks())) if number not in held]
        files.write_text(plan.folder / "chunks.txt", "".join(f"{number} {held[number]}\n" for number in held))
        _build(plan, fd, missing)
        os.fsync(fd)  # the stamp must not outlive the bytes in a power cut
    files.write_json(plan.folder / "checked.json", plan.stamp())


def _build(plan: _Plan, fd: int, missing: list[int]) -> None:
    chunks = plan.chunks()

    def made(number: int) -> tuple[int, str]:
        return number, _make_chunk(plan, fd, chunks[number])

    results = map_in_threads(made, missing, "storing pixels")
    with contextlib.closing(results), (plan.folder / "chunks.txt").open("a", encoding="utf-8") as journal:
        for number, checksum in results:
            journal.write(f"{number} {checksum}\n")
            journal.flush()


def _make_chunk(plan: _Plan, fd: int, rows: range) -> str:
    pixels = np.empty((len(rows), *plan.shape[1:]), np.uint8)
    for at, row in enumerate(rows):
        rgb = png.decode(plan.sources[row])
        if pixel_sha256(rgb) != plan.pixel_hashes[row]:
            raise DataError(f"{plan.sources[row]} has changed since it was indexed; run the command again")
        pixels[at] = fit_image(rgb, plan.image)
    _write_all(fd, pixels.reshape(-1).data, plan.offset(rows.start))
    return hashlib.sha256(pixels.data).hexdigest()


def _write_all(fd: int, content: memoryview, offset: int) -> None:
    while content:  # pwrite may write less than it is given
        n_written = os.pwrite(fd, content, offset)
        content, offset = content[n_written:], offset + n_written


def _held(plan: _Plan, fd: int) -> dict[int, str]:
    """Number -> checksum of the chunks whose bytes are what chunks.txt says."""
    chunks, noted = plan.chunks(), _noted(plan)

    def holds(number: int) -> bool:
        rows = chunks[number]
        content = os.pread(fd, plan.offset(rows.stop) - plan.offset(rows.start), plan.offset(rows.start))
        return hashlib.sha256(content).hexdigest() == noted[number]

    numbers = sorted(number for number in noted if number < len(chunks))
    checked = map_in_threads(holds, numbers, "checking pixels")
    return {number: noted[number] for number, held in zip(numbers, checked, strict=True) if held}


def _noted(plan: _Plan) -> dict[int, str]:
    """What chunks.txt says; a torn line counts for nothing."""
    path = plan.folder / "chunks.txt"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return {int(number): checksum for number, checksum in CHUNK_LINE.findall(text)}


@contextlib.contextmanager
def _opened(plan: _Plan) -> Iterator[int]:
    """The .npy file at its full size with its header, as a descriptor to write to."""
    fd = os.open(plan.path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        missing_bytes = plan.n_bytes - os.fstat(fd).st_blocks * 512
        free_bytes = shutil.disk_usage(plan.folder).free
        if missing_bytes > free_bytes:
            raise DataError(
                f"the pixel store needs {missing_bytes / 1e9:.1f} GB more under {plan.folder}, where "
                f"{free_bytes / 1e9:.1f} GB are free; name another place with --data.cache"
            )
        os.ftruncate(fd, plan.n_bytes)
        _write_all(fd, memoryview(plan.header), 0)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait for whoever holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise DataError(f"cannot write under {folder} ({error}); name another --data.cache") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process builds {folder}; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
