"""Unpacking leaves a complete tree or none, whatever the archive holds."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breakhis_cls import config, names
from breakhis_cls.data import archive, index
from breakhis_cls.errors import DataError

IMAGE = f"BreaKHis_v1/{names.official_path('SOB_B_A-14-22549AB-40-001.png')}"
SYSTEM_FILES = ["__MACOSX/._x", "BreaKHis_v1/.DS_Store", "BreaKHis_v1/BreaKHis_v1/histology_slides/Thumbs.db",
                "BreaKHis_v1/BreaKHis_v1/histology_slides/__MACOSX/._SOB_B_A-14-22549AB-40-001.png"]  # fmt: skip


def read_files(folder: Path) -> dict[str, bytes]:
    """Of an index's view: without system files, and without our lock."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    found = [path for path in found if not any(map(names.is_system_file, path.relative_to(folder).parts))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def pack_zip(members: dict[str, bytes], path: Path, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as opened:
        for name, content in members.items():
            opened.writestr(zipfile.ZipInfo(name) if "\\" in name else name, content)
    return path


def pack_tar(members: dict[str, bytes], path: Path, extra: Iterable[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "").replace("archive", "")) as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        for info in extra:
            opened.addfile(info)
    return path


def write_folder(members: dict[str, bytes], folder: Path) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", ["b.zip", "b.tar.gz", "b.tar.xz", "b.tar.bz2", "b.tar"])
def test_every_kind_of_source_gives_the_same_tree(tiny_tree: Path, tmp_path: Path, kind: str) -> None:
    tree = read_files(tiny_tree)
    members = {f"BreaKHis_v1/{name}": content for name, content in tree.items()}  # doubled, as in Kaggle's zip
    members |= {"Folds.csv": b"mag,grp\n"} | dict.fromkeys(SYSTEM_FILES, b"stray")
    pack = pack_zip if kind == "b.zip" else pack_tar
    unpacked = archive.unpack(pack(members, tmp_path / kind), tmp_path / "root")
    assert unpacked == tmp_path / "root" / "BreaKHis_v1"
    assert read_files(tmp_path / "root") == tree | {"BreaKHis_v1/Folds.csv": b"mag,grp\n"}


def test_backslashes_in_names_are_read_as_slashes(tmp_path: Path) -> None:
    path = pack_zip({IMAGE.replace("/", "\\"): b"image"}, tmp_path / "b.zip")
    assert read_files(archive.unpack(path, tmp_path / "root").parent) == {IMAGE: b"image"}


def test_several_trees_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"several trees of BreakHis.*\n.*BreaKHis_v1\n.*copy/BreaKHis_v1"):
        archive.unpack(pack_zip({f"copy/{IMAGE}": b"old", IMAGE: b"new"}, tmp_path / "b.zip"), tmp_path / "root")
    assert read_files(tmp_path / "root") == {}


def test_folders_of_another_kind_stay_as_they_are(tmp_path: Path) -> None:
    name = IMAGE.rpartition("/")[2]
    members = {f"BreaKHis 400X/train/benign/{name}": b"image", "BreaKHis 400X/train/README.txt": b"read me"}
    unpacked = archive.unpack(pack_zip(members | {"__MACOSX/._x.png": b""}, tmp_path / "b.zip"), tmp_path / "root")
    assert read_files(unpacked) == members


PIECES = ["a", ".", "..", "/", "\\", "C:", "histology_slides/", "BreaKHis_v1/", "Folds.csv", "\0"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES)).map("".join).filter(lambda name: name.partition("\0")[0]))
@pytest.mark.parametrize("pack", [pack_zip, pack_tar])
def test_no_name_lands_outside(tmp_path: Path, pack, name: str) -> None:
    shutil.rmtree(tmp_path / "root", ignore_errors=True)
    path = pack({IMAGE: b"image", name: b""}, tmp_path / "b.archive")
    try:
        archive.unpack(path, tmp_path / "root")
    except (DataError, OSError):  # a name may be that of a folder
        assert list(read_files(tmp_path)) == ["b.archive"]
        return
    for file in set(read_files(tmp_path)) - {"b.archive"}:
        assert file.startswith(("root/BreaKHis_v1/histology_slides/", "root/BreaKHis_v1/Folds.csv"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_device_or_a_link_that_leads_out_of_a_tarball_is_refused(tmp_path: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("BreaKHis_v1/histology_slides/odd.png")
    odd.type, odd.linkname = kind, "../../../../etc/passwd"
    with pytest.raises(DataError, match=r"odd.png"):
        archive.unpack(pack_tar({IMAGE: b"image"}, tmp_path / "b.tar.gz", [odd]), tmp_path / "root")
    assert read_files(tmp_path / "root") == {}


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = pack_zip({IMAGE: b"image"}, tmp_path / "b.zip")
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the table of contents
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"is encrypted.*pack it as a plain zip"):
        archive.unpack(path, tmp_path / "root")


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image of BreakHis in .*\n  holiday.txt"):
        archive.unpack(pack_zip({"holiday.txt": b"sun"}, tmp_path / "b.zip"), tmp_path / "root")
    with pytest.raises(DataError, match="does not exist"):
        archive.unpack(tmp_path / "none.zip", tmp_path / "root")
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(archive.DamagedError):
        archive.unpack(tmp_path / "b.tar.gz", tmp_path / "root")


@pytest.mark.parametrize("damaged", [IMAGE, "__MACOSX/._x"])
def test_an_invalid_checksum_of_any_member_is_found(tmp_path: Path, damaged: str) -> None:
    members = {IMAGE: b"image", damaged: b"PRECIOUS", f"{IMAGE[:-5]}2.png": b"image"}
    path = pack_zip(members, tmp_path / "b.zip", zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"PRECIOUS", b"PRECIOUZ"))
    with pytest.raises(archive.DamagedError, match="Bad CRC-32 for file"):
        archive.unpack(path, tmp_path / "root")
    assert read_files(tmp_path / "root") == {}


def test_an_invalid_checksum_of_a_tarball_is_found(tmp_path: Path) -> None:
    path = pack_tar({IMAGE: os.urandom(100_000)}, tmp_path / "b.tar.gz")
    raw = bytearray(path.read_bytes())
    raw[50_000] ^= 1  # in a stored block: only the checksum at the end shows it
    path.write_bytes(raw)
    with pytest.raises(archive.DamagedError):
        archive.unpack(path, tmp_path / "root")
    assert read_files(tmp_path / "root") == {}


@pytest.mark.parametrize("kind", ["b.zip", "b.tar.gz", "b.tar"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_found(tmp_path: Path, kind: str, share: float) -> None:
    members = {IMAGE: os.urandom(50_000), f"{IMAGE[:-5]}2.png": os.urandom(50_000)}
    path = (pack_zip if kind == "b.zip" else pack_tar)(members, tmp_path / kind)
    size = 100_000 if kind == "b.tar" else path.stat().st_size  # tar pads its end
    os.truncate(path, int(size * share))
    with pytest.raises(archive.DamagedError, match=r"damaged, or neither zip nor tar \(.+\); get another copy"):
        archive.unpack(path, tmp_path / "root")
    assert read_files(tmp_path / "root") == {}


@pytest.mark.parametrize("kind", ["b.zip", "b.tar"])
def test_an_interruption_leaves_nothing(tiny_tree: Path, tmp_path: Path, monkeypatch, kind: str) -> None:
    pack, module = (pack_zip, shutil) if kind == "b.zip" else (pack_tar, tarfile)
    path, root = pack(read_files(tiny_tree), tmp_path / kind), tmp_path / "root"
    n_written = []

    def interrupt(*_) -> None:
        n_written.append(None)
        with pytest.raises(DataError, match="no folder 'histology_slides'"):
            index.find_root(config.Data(root=str(root)))  # half a tree is not found
        if len(n_written) == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            archive.unpack(path, root)
    assert len(n_written) == 20 and read_files(root) == {}
    assert read_files(archive.unpack(path, root).parent) == read_files(tiny_tree)


def test_the_rest_of_a_killed_process_is_no_tree_and_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_folder({f".BreaKHis_v1.unfinished/extracted/{IMAGE[:-5]}2.png": b"half"}, root)
    with pytest.raises(DataError, match="no folder 'histology_slides'"):
        index.find_root(config.Data(root=str(root)))
    archive.unpack(pack_zip({IMAGE: b"image"}, tmp_path / "b.zip"), root)
    assert read_files(root) == {IMAGE: b"image"}


def test_a_second_process_and_an_existing_tree_are_refused(tmp_path: Path) -> None:
    path, root = pack_zip({IMAGE: b"image"}, tmp_path / "b.zip"), tmp_path / "root"
    root.mkdir()
    with filelock.FileLock(root / ".BreaKHis_v1.lock"), pytest.raises(DataError, match="another process unpacks"):
        archive.unpack(path, root)
    archive.unpack(path, root)
    with pytest.raises(DataError, match="exists already"):
        archive.unpack(path, root)
    assert read_files(root) == {IMAGE: b"image"}


def test_a_full_disk_is_reported_before_and_during(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, root = pack_zip({IMAGE: bytes(5_000_000)}, tmp_path / "b.zip"), tmp_path / "a" / "root"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4_000_000))
        with pytest.raises(DataError, match=r"4.0 MB are free .* 5.0 MB are needed \(tree 5.0 MB\)"):
            archive.unpack(path, root)

    def fail(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match="No space left on device"):
        archive.unpack(path, root)
    assert read_files(root) == {}


def test_needs_on_one_disk_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=8_000_000_000))
    archive.check_free([(tmp_path / "x", 4_000_000_000, "archive"), (tmp_path, 4_000_000_000, "tree")])
    with pytest.raises(DataError, match=r"8.1 GB are needed \(archive 4.1 GB \+ tree 4.0 GB\)"):
        archive.check_free([(tmp_path / "x", 4_100_000_000, "archive"), (tmp_path, 4_000_000_000, "tree")])
