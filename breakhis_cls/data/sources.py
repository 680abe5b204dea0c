"""What BreakHis comes as, zip, tarball or folder, read in one way: its members, and how to open one."""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import DataError

TREE = "histology_slides"
CHUNK_BYTES = 1 << 20


class DamagedError(DataError):
    """An archive whose bytes are not those that were packed: cut short, or a checksum fails."""


class Member(NamedTuple):
    """One entry of an archive; `name` as the archive spells it, `handle` is what its library calls it."""

    name: str
    kind: str  # file, folder, or what it should not be: a link, a device, an encrypted file
    n_bytes: int
    handle: Any


class Source(NamedTuple):
    """An opened archive or folder. Reading a member to its end verifies its checksum where there is one."""

    path: Path
    members: list[Member]
    open: Callable[[Member], IO[bytes]]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Source]:
    """The archive or folder at `path`, whatever its suffix says.

    What goes wrong while it is open is told as DamagedError (the archive's fault) or DataError (the disk's).
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; expected BreakHis as a .zip, a .tar.gz or a folder")
    try:
        with _opener(path)(path) as source:
            yield source
    except (zipfile.BadZipFile, tarfile.ReadError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise DamagedError(f"{path} is damaged, or neither zip nor tar ({reason}); get it anew") from None
    except NotImplementedError as error:
        raise DataError(f"{path} is packed in an unknown way ({error}); pack it as a plain zip") from None
    except OSError as error:
        raise DataError(f"unpacking {path} stopped: {error}; mend that and run the command again") from None


def progress() -> Any:
    """A bar on stderr that counts bytes and says when it will be done."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True))


def _opener(path: Path) -> Callable[[Path], contextlib.AbstractContextManager[Source]]:
    if path.is_dir():
        return _folder
    with path.open("rb") as start:
        return {b"PK": _zip, b"\x1f\x8b": _gzipped_tar}.get(start.read(2), _tar)


@contextlib.contextmanager
def _zip(path: Path) -> Iterator[Source]:
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile("its table of contents, at the end, is missing: it was cut short")
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        members = [Member(info.filename, _zip_kind(info), info.file_size, info) for info in infos]
        yield Source(path, members, lambda member: archive.open(member.handle))


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive comes from Windows
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link" if kind == stat.S_IFLNK else "a device"
    if info.flag_bits & 0x1:
        return "an encrypted file"
    return "folder" if info.is_dir() else "file"


@contextlib.contextmanager
def _gzipped_tar(path: Path) -> Iterator[Source]:
    with path.open("rb") as packed, gzip.GzipFile(fileobj=packed) as raw, progress() as bar:
        task = bar.add_task("verifying the tarball", total=path.stat().st_size)
        with tarfile.open(fileobj=raw, mode="r:") as archive:
            for _ in archive:  # keeps what it reads, for getmembers
                bar.update(task, completed=packed.tell())
            while raw.read(CHUNK_BYTES):  # to the end, where gzip has the checksum that covers all members
                pass
            bar.update(task, completed=packed.tell())
            bar.stop()
            yield _of_tar(path, archive)


@contextlib.contextmanager
def _tar(path: Path) -> Iterator[Source]:
    with tarfile.open(path, mode="r:") as archive:
        yield _of_tar(path, archive)


def _of_tar(path: Path, archive: tarfile.TarFile) -> Source:
    members = [Member(info.name, _tar_kind(info), info.size, info) for info in archive.getmembers()]
    return Source(path, members, lambda member: archive.extractfile(member.handle) or io.BytesIO())


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    return "file" if info.isfile() else "a link" if info.issym() or info.islnk() else "a device"


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Source]:
    """Only what lies in or beside a tree: links elsewhere in the folder are nobody's concern."""
    top = path.absolute()
    base = top.parent if top.name == TREE else top
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "a link"}
    members = []
    for found in sorted(top.rglob("*")):
        about = found.lstat()
        kind = kinds.get(stat.S_IFMT(about.st_mode), "a device")
        if kind in ("file", "folder") or TREE in found.parts:
            members.append(Member(found.relative_to(base).as_posix(), kind, about.st_size, found))
    yield Source(path, members, lambda member: member.handle.open("rb"))
