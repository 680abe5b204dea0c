"""A zip or a tarball -> the tree `BreaKHis_v1/histology_slides/...`, complete or not there at all."""

import gzip
import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import filelock
from rich.console import Console
from rich.filesize import decimal as format_bytes  # in powers of ten: 4_100_000_000 -> `4.1 GB`
from rich.progress import Progress

from .. import files
from ..errors import DataError, list_first
from ..names import TREE, official_name
from .index import find_holder, is_image

FOLDER = "BreaKHis_v1"  # the top of the authors' tarball; in Kaggle's zip one lies in another
FOLDS = "Folds.csv"  # the published folds, beside the tree in Kaggle's zip


class DamagedError(DataError):
    """An archive whose bytes are not those that were packed: cut short, or a checksum fails."""


def unpack(path: Path, root: Path) -> Path:
    """Unpack a .zip or a tarball into `root / "BreaKHis_v1"`, which must not exist, and return it. Every checksum of
    the archive is verified. DamagedError if a checksum fails or the archive is cut short; DataError if it is unsafe,
    holds no BreakHis or several trees of it, or does not fit on the disk. After an error or an interruption nothing is
    left that could be taken for a tree."""
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
                if (holder / TREE).is_dir():
                    kept.mkdir()
                    (holder / TREE).rename(kept / TREE)
                    places = [
                        folder / FOLDS for folder in (holder, *holder.parents) if folder.is_relative_to(extracted)
                    ]
                    if folds := next(filter(Path.is_file, places), None):
                        folds.rename(kept / FOLDS)
                else:  # folders of another kind stay as they are
                    extracted.rename(kept)
                kept.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except filelock.Timeout:
        raise DataError(f"another process unpacks into {target}; wait for it, or stop it") from None
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        reason = str(error).partition(":\n")[0].rstrip(".") or type(error).__name__
        raise DamagedError(f"{path} is damaged, or neither zip nor tar ({reason}); get another copy") from None
    except (RuntimeError, ValueError) as error:  # encrypted, an unknown method of packing, a name with a zero byte
        raise DataError(f"{path} cannot be unpacked ({error}); pack it as a plain zip") from None
    return target


def check_free(needs: list[tuple[Path, int, str]]) -> None:
    """DataError unless the disks of the folders have room: (folder, bytes, what for) each."""
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, n_bytes, what in needs:
        existing = files.nearest_existing(folder)
        by_disk.setdefault(existing.stat().st_dev, []).append((existing, n_bytes, what))
    for parts in by_disk.values():
        folder, wanted = parts[0][0], sum(n_bytes for _, n_bytes, _ in parts)
        free = shutil.disk_usage(folder).free
        if wanted > free:
            what = " + ".join(f"{what} {format_bytes(n_bytes)}" for _, n_bytes, what in parts)
            found = f"{format_bytes(free)} are free under {folder}, but {format_bytes(wanted)} are needed ({what})"
            raise DataError(f"{found}; make room, or choose other folders with --data.root and --data.cache")


def _extract(path: Path, folder: Path, bar: Any) -> None:
    """Extract a zip or tarball below `folder`; no name leads out of it."""
    with bar.open(path, "rb", description="unpacking and verifying") as packed:
        is_zip = zipfile.is_zipfile(packed)
        packed.seek(0)
        with zipfile.ZipFile(packed) if is_zip else tarfile.open(fileobj=packed, mode="r:*") as archive:
            if isinstance(archive, zipfile.ZipFile):
                for info in archive.infolist():
                    info.filename = info.filename.replace("\\", "/")  # some packers on Windows write these
                sizes = {info.filename: info.file_size for info in archive.infolist()}
            else:
                sizes = {info.name: info.size for info in archive.getmembers()}
            if not any(is_image(name) and official_name(name) for name in sizes):
                found = list_first(sorted({name.partition("/")[0] for name in sizes})) or " nothing"
                raise DataError(f"no image of BreakHis in {path}; expected an archive of them, but it holds{found}")
            check_free([(folder, sum(sizes.values()), "tree")])
            if isinstance(archive, zipfile.ZipFile):
                archive.extractall(folder, archive.infolist())  # not by name, as names were changed; verifies checksums
                return
            archive.extractall(folder, filter="data")  # PEP 706: refuses devices, and links and paths that lead out
            while archive.fileobj and archive.fileobj.read(1 << 20):  # the checksum stands at the end
                pass
