"""Atomic writes, so that a file is complete or absent, hashes, and tables as people save them."""

from __future__ import annotations

import codecs
import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import AcquireReturnProxy, FileLock, SoftFileLock

from .errors import NO_FUNCTION, ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

EMPTY = ("", "nan", "none", "na", "n/a", "null", "<na>")  # how programs write an empty cell, in lower case


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, of its suffix; on success it is renamed over `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")  # several may write one path
    try:
        yield temporary
        with temporary.open("rb+") as written, ignore_missing_function():
            os.fsync(written.fileno())  # the rename must not overtake the data after a power cut
        temporary.replace(path)  # atomic, because both are in one folder and so on one file system
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it is renamed to `folder`, on any error it is removed. If
    two processes write one folder, the first to finish wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.replace(folder)  # replaces an empty folder only
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path need not be UTF-8


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically; floats keep all their digits, so that equal tables give equal bytes."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", errors="backslashreplace")  # on Windows too


@contextlib.contextmanager
def ignore_missing_function() -> Iterator[None]:
    """Go on where a file system lacks a function that is optional."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*NO_FUNCTION, errno.EINVAL):
            raise


def lock(path: Path, timeout_s: float = -1) -> AcquireReturnProxy:
    """The lock of a file, held until the end of a `with`; filelock.Timeout if another process keeps it. Disks without
    locks, such as Lustre without `-o flock`, get a file beside it that says who holds it, and a warning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Its own fallback would take the file that an ordinary lock leaves behind for one that is held.
        return FileLock(path, timeout=timeout_s, fallback_to_soft=False).acquire()
    except OSError as error:
        if error.errno not in NO_FUNCTION:
            raise
        # One text and one place, so that Python shows it once, however many locks a run takes.
        warnings.warn(f"this disk has no locks ({error.strerror}); files named *.held are used instead", stacklevel=1)
        return SoftFileLock(path.with_name(f"{path.name}.held"), timeout=timeout_s).acquire()


def nearest_existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def check_folder(folder: Path, option: str) -> None:
    """ConfigError if a file lies where a folder is to be made, before any work is done for it."""
    if not (existing := nearest_existing(folder)).is_dir():
        raise ConfigError(f"{folder} cannot be a folder: {existing} is a file; choose another with {option}")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sha256_of_values(*parts: Any) -> str:
    """SHA-256 in hex of JSON-able values: the key of whatever depends on them and on nothing else."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def read_text(path: Path) -> str:
    """The text of a file that anyone made: UTF-8 or UTF-16, without comment lines on top. DataError says what it is."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if raw.startswith(b"PK"):
        raise DataError(f"{path} cannot be read as text: it is a workbook or a zip; save the table as CSV (UTF-8)")
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return re.sub(r"\A(#\s.*\n|\s*\n)+", "", raw.decode("utf-16" if is_utf16 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"byte {raw[error.start]:#04x} at {error.start:,} is not UTF-8; an older encoding such as CP1252, or no"
        raise DataError(f"{path} cannot be read as text: {found} text at all? Save it as UTF-8") from None


def read_table(path: Path) -> pd.DataFrame:
    """A table of text cells, separated by commas, semicolons, tabs or bars; empty ones are "". Raises as read_text."""
    import pandas as pd

    text = read_text(path)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, sep=separator, skipinitialspace=True)
    except ValueError as error:  # the base of pandas' parser errors
        raise DataError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from None
    return table.rename(columns=lambda name: str(name).strip())


def is_empty(cells: pd.Series) -> pd.Series:
    """Whether text cells are empty: blank, or a word that programs write for a missing value."""
    return cells.str.strip().str.lower().isin(EMPTY)
