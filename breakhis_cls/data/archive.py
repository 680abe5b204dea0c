"""A zip or a tarball -> the tree `BreaKHis_v1/histology_slides/...`, complete or not there at all."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import filelock

from .. import files
from ..errors import DataError, list_first
from ..names import TREE, is_system_file, official_name
from .index import find_holder, is_image

FOLDER = "BreaKHis_v1"  # the top of the authors' tarball; in Kaggle's zip one lies in another
FOLDS = "Folds.csv"  # the published folds, beside the tree in Kaggle's zip

# How files begin: compressed tarballs, and what is no archive that Python can read
COMPRESSED = {
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
FOREIGN = {
    b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"<": "a web page, such as one that asks to log in", b"{": "an answer in JSON", b"%PDF": "a PDF",
}  # fmt: skip


class DamagedError(DataError):
    """An archive whose bytes are not those that were packed: cut short, or a checksum fails."""


def unpack(path: Path, root: Path) -> Path:
    """Unpack a .zip or a tarball into `root / "BreaKHis_v1"`, which must not exist, and return it.

    Every checksum of the archive is verified. DamagedError if a checksum fails or the archive is cut short; DataError
    if it is unsafe, holds no BreakHis or several trees of it, or does not fit on the disk.
    After an error or an interruption nothing is left that could be taken for a tree.
    """
    from rich.console import Console
    from rich.progress import Progress

    if not path.is_file():
        found = "is a folder; to use it in place, set --data.root" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {found}; expected BreakHis as a .zip or a .tar.gz")
    root.mkdir(parents=True, exist_ok=True)
    target, unfinished = root / FOLDER, root / f".{FOLDER}.unfinished"
    try:
        with files.lock(root / f".{FOLDER}.lock", 0), Progress(console=Console(stderr=True)) as bar:
            if target.exists():
                raise DataError(f"{target} exists already; move it away, or choose another --data.root")
            shutil.rmtree(unfinished, ignore_errors=True)  # a killed process left it
            try:
                # The index does not search hidden folders, so there is no tree before the last rename.
                extracted, kept = unfinished / "extracted", unfinished / FOLDER
                _extract(path, extracted, bar)
                holder = find_holder(extracted)
                for entry in sorted(holder.rglob("*"), reverse=True):  # files before folders
                    if is_system_file(entry.name):
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                if (holder / TREE).is_dir():
                    kept.mkdir()
                    (holder / TREE).rename(kept / TREE)
                    for folder in (holder, *holder.parents):
                        found = folder.is_relative_to(extracted) and (folder / FOLDS).is_file()
                        if found and not (kept / FOLDS).exists():
                            (folder / FOLDS).rename(kept / FOLDS)
                else:  # folders of another kind stay as they are
                    extracted.rename(kept)
                if hasattr(os, "sync"):  # not on Windows
                    os.sync()  # the rename must not overtake the data after a power cut
                kept.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except filelock.Timeout:
        raise DataError(f"another process unpacks into {target}; wait for it, or stop it") from None
    except (zipfile.BadZipFile, tarfile.ReadError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise DamagedError(f"{path} is damaged, or neither zip nor tar ({reason}); get another copy") from None
    except NotImplementedError as error:
        raise DataError(f"{path} is packed in an unknown way ({error}); pack it as a plain zip") from None
    return target


def check_free(needs: list[tuple[Path, int, str]]) -> None:
    """DataError unless the disks of the folders have room: (folder, bytes, what for) each."""
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, n_bytes, what in needs:
        existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        by_disk.setdefault(existing.stat().st_dev, []).append((existing, n_bytes, what))
    for parts in by_disk.values():
        folder, wanted = parts[0][0], sum(n_bytes for _, n_bytes, _ in parts)
        free = shutil.disk_usage(folder).free
        if wanted > free:
            what = " + ".join(f"{what} {format_bytes(n_bytes)}" for _, n_bytes, what in parts)
            found = f"{format_bytes(free)} are free under {folder}, but {format_bytes(wanted)} are needed ({what})"
            raise DataError(f"{found}; make room, or choose other folders with --data.root and --data.cache")


def format_bytes(n_bytes: int) -> str:
    """Bytes in powers of ten: 4_100_000_000 -> `4.1 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} bytes"


def _extract(path: Path, folder: Path, bar: Any) -> None:
    """Extract a zip or tarball once all its names have been checked."""
    with contextlib.ExitStack() as stack:
        packed = stack.enter_context(bar.open(path, "rb", description="unpacking and verifying"))
        start = packed.read(8)
        packed.seek(0)
        foreign = next((what for magic, what in FOREIGN.items() if start.lstrip().startswith(magic)), None)
        if foreign:
            advice = "get a zip or a tarball, or unpack it and name the folder with --data.root"
            raise DamagedError(f"{path} is {foreign}, which cannot be unpacked here; {advice}")

        # --- list the members: name (a folder's ends in /), what is wrong with it, bytes ---
        members: list[tuple[str, str, int]] = []
        if start.startswith(b"PK"):
            if not zipfile.is_zipfile(packed):
                raise zipfile.BadZipFile("its table of contents, at the end, is missing: it was cut short")
            archive = stack.enter_context(zipfile.ZipFile(packed))
            for info in archive.infolist():
                info.filename = info.filename.replace("\\", "/")  # some packers on Windows write these
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive comes from Windows
                # Bit 0 of the flags: encrypted (APPNOTE.TXT, 4.4.4).
                fault = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or device"
                members.append((info.filename, "an encrypted file" if info.flag_bits & 1 else fault, info.file_size))
        else:
            raw = next((unpack(packed) for magic, unpack in COMPRESSED.items() if start.startswith(magic)), packed)
            archive = stack.enter_context(tarfile.open(fileobj=raw, mode="r:"))
            for info in archive.getmembers():
                info.name = info.name.replace("\\", "/")
                fault = "" if info.isfile() or info.isdir() else "a link or device"
                members.append((info.name + "/" * info.isdir(), fault, info.size))
            while raw.read(1 << 20):  # the checksum, which covers all members, stands at the end
                pass

        # --- refuse what is unsafe; zipfile would repair such names silently ---
        known: dict[str, str] = {}
        for name, fault, _ in members:
            parts = name.split("/")
            if not name or name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name:
                raise DataError(f"{path} holds '{name}', which leads out of its folder; nothing was unpacked")
            if fault:
                raise DataError(f"{path} holds {fault}, '{name}'; expected plain files only")
            twin = None if name.endswith("/") else known.get(name.casefold())  # one file on Windows and macOS
            if twin is not None:
                raise DataError(f"{path} holds both '{twin}' and '{name}'; remove one of them from it")
            known[name.casefold()] = name
        if not any(is_image(name) and official_name(name) for name, _, _ in members):
            found = list_first(sorted({name.partition("/")[0] for name, _, _ in members})) or " nothing"
            raise DataError(f"no image of BreakHis in {path}; expected an archive of them, but it holds{found}")

        # --- extract, which verifies a zip's checksums ---
        check_free([(folder, sum(n_bytes for _, _, n_bytes in members), "tree")])
        if isinstance(archive, tarfile.TarFile):
            archive.extractall(folder, filter="data")  # PEP 706: refuses links and paths that lead out
        else:
            archive.extractall(folder, archive.infolist())  # not by name, as names were changed above
