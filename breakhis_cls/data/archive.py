"""A zip, a tarball or a folder -> the tree `BreaKHis_v1/histology_slides/...`, whole or not there.

An archive says only which bytes a file has. Where it goes, and that it is a plain file, is decided here:
names that climb out, links and devices are refused before the first byte is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import DataError, list_first
from .sources import CHUNK_BYTES, TREE, DamagedError, Member, Source, opened, progress

__all__ = ["FOLDER", "DamagedError", "check_free", "placed", "size", "unpack"]

FOLDER = "BreaKHis_v1"  # the top of the authors' tarball; Kaggle's zip has it twice, one in the other
FOLDS = "Folds.csv"  # the published folds, beside the tree in Kaggle's zip
JUNK = {".ds_store", "thumbs.db", "__macosx", "desktop.ini"}

Placed = tuple[Member, PurePosixPath | None]


def unpack(path: Path, root: Path) -> Path:
    """Unpack a .zip, a .tar.gz or a folder into `root / "BreaKHis_v1"` and return that folder.

    Every member is read to its end, so every checksum of the archive is verified. DamagedError if one fails
    or the archive is cut short; DataError if it is unsafe, holds no BreakHis, or does not fit on the disk.
    After an error or an interruption nothing is left that could be taken for a tree. The target must not
    exist yet.
    """
    with opened(path) as source:
        places = placed(source)
        check_free([(root, sum(member.n_bytes for member, place in places if place), "tree")])
        with _whole_or_nothing(root / FOLDER) as unfinished:
            _copy(source, places, unfinished)
    return root / FOLDER


def placed(source: Source) -> list[Placed]:
    """Each file of the archive, and where it goes below `BreaKHis_v1`; None for what is not kept.

    Folders above `histology_slides` are dropped, however many; of several trees the fullest is taken.
    """
    members = [(member, _safe(member, source.path)) for member in source.members]
    files = [(member, parts) for member, parts in members if member.kind == "file"]
    in_a_tree = [parts for _, parts in files if TREE in parts[:-1] and not _is_junk(parts)]
    if not in_a_tree:
        found = list_first(sorted({parts[0] for _, parts in members if parts})) or " nothing"
        raise DataError(f"no '{TREE}' in {source.path}; expected an archive of BreakHis, but it holds{found}")
    above = Counter(parts[: parts.index(TREE)] for parts in in_a_tree).most_common(1)[0][0]
    places = [(member, _place(parts, above)) for member, parts in files]
    _refuse_twins(places, source.path)
    return places


def check_free(needs: list[tuple[Path, int, str]]) -> None:
    """DataError unless the disks of the named folders can take what comes: (folder, bytes, what) each."""
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, n_bytes, what in needs:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        by_disk.setdefault(there.stat().st_dev, []).append((there, n_bytes, what))
    for parts in by_disk.values():
        wanted, free = sum(n_bytes for _, n_bytes, _ in parts), shutil.disk_usage(parts[0][0]).free
        if wanted > free:
            what = " + ".join(f"{what} {size(n_bytes)}" for _, n_bytes, what in parts)
            raise DataError(
                f"{size(free)} are free under {parts[0][0]}, but {size(wanted)} are needed ({what}); "
                "free some, or name other folders with --data.root and --data.cache"
            )


def size(n_bytes: int) -> str:
    """Bytes for people, in powers of ten: 4_100_000_000 -> `4.1 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} bytes"


def _safe(member: Member, path: Path) -> tuple[str, ...]:
    """The parts of a member's name; DataError if it is not a plain file or folder below the top."""
    name = member.name.replace("\\", "/")  # some packers on Windows write these
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{path} holds '{member.name}', which leads out of its folder; nothing was unpacked")
    if member.kind not in ("file", "folder"):
        hint = "; use the folder where it lies with --data.root" if path.is_dir() else ""
        raise DataError(f"{path} holds {member.kind}, '{member.name}'; expected plain files only{hint}")
    return parts


def _is_junk(parts: tuple[str, ...]) -> bool:
    return any(part.lower() in JUNK or part.startswith("._") for part in parts)


def _place(parts: tuple[str, ...], above: tuple[str, ...]) -> PurePosixPath | None:
    if _is_junk(parts):
        return None
    if parts[: len(above) + 1] == (*above, TREE):
        return PurePosixPath(*parts[len(above) :])
    beside = parts[-1:] == (FOLDS,) and parts[:-1] == above[: len(parts) - 1]
    return PurePosixPath(FOLDS) if beside else None


def _refuse_twins(places: list[Placed], path: Path) -> None:
    """Two members of one place, be it in other letters' case, would silently overwrite each other."""
    first: dict[str, Member] = {}
    for member, place in places:
        twin = first.setdefault(str(place).casefold(), member)
        if place and twin is not member:
            raise DataError(
                f"{path} holds both '{twin.name}' and '{member.name}'; expected one such file; remove the other from it"
            )


@contextlib.contextmanager
def _whole_or_nothing(target: Path) -> Iterator[Path]:
    """Yield a folder that becomes `target` on success and vanishes on any error.

    Until then its tree has another name, so that no search for `histology_slides` can find half of one. A
    folder left by a killed process is removed first; the lock, which the kernel lets go of, keeps two apart.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process unpacks into {target}; wait for it, or stop it") from None
        try:
            if target.exists():
                raise DataError(f"{target} is there already; move it away, or name another --data.root")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            yield unfinished
            os.sync()  # the renames must not overtake the data after a power cut
            (unfinished / _hidden(TREE)).rename(unfinished / TREE)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def _hidden(part: str) -> str:
    return f"{part}.unfinished" if part == TREE else part


def _copy(source: Source, places: list[Placed], folder: Path) -> None:
    """Write the files that have a place. An archive's others are read too: every checksum is verified."""
    if source.path.is_dir():
        places = [(member, place) for member, place in places if place]
    with progress() as bar:
        task = bar.add_task("unpacking and verifying", total=sum(member.n_bytes for member, _ in places))
        for member, place in places:
            with contextlib.ExitStack() as stack:
                content = stack.enter_context(source.open(member))
                target = folder.joinpath(*map(_hidden, place.parts)) if place else Path(os.devnull)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfileobj(content, stack.enter_context(target.open("wb")), CHUNK_BYTES)
            bar.advance(task, member.n_bytes)
