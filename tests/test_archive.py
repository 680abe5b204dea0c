"""Unpacking leaves a whole tree or none, whatever the archive holds; the census says what a tree lacks."""

from __future__ import annotations

import fcntl
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SLIDES, image_name
from hypothesis import given
from hypothesis import strategies as some

from breakhis_cls import config, names
from breakhis_cls.data import archive, completeness, index, sources
from breakhis_cls.errors import DataError

IMAGE = f"BreaKHis_v1/{names.official_path('SOB_B_A-14-22549AB-40-001.png')}"
TINY = {(slide, m): 2 if m == 200 else 1 for slide in SLIDES for m in names.MAGNIFICATIONS}  # of conftest
STRAY = ["__MACOSX/._x", "BreaKHis_v1/.DS_Store", "BreaKHis_v1/histology_slides/Thumbs.db",
         "BreaKHis_v1/histology_slides/breast/._SOB_B_A-14-22549AB-40-001.png"]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of a busy machine takes its time."""
    monkeypatch.setattr(os, "sync", lambda: None)


def contents(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def zipped(members: dict[str, bytes], path: Path, packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as opened:
        for name, content in members.items():
            opened.writestr(zipfile.ZipInfo(name) if "\\" in name else name, content)
    return path


def tarred(members: dict[str, bytes], path: Path, extra: Iterable[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        for info in extra:
            opened.addfile(info)
    return path


def written(members: dict[str, bytes], folder: Path) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def disk(free: int) -> SimpleNamespace:
    return SimpleNamespace(free=free)


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*")) if root.exists() else []


@pytest.mark.parametrize("kind", ["b.zip", "b.tar.gz", "b.tar", "folder"])
def test_the_tree_of_any_source_is_the_same(tiny_tree: Path, tmp_path: Path, kind: str) -> None:
    tree = contents(tiny_tree)
    members = {f"BreaKHis_v1/{name}": content for name, content in tree.items()}  # doubled, as Kaggle's
    members |= {"Folds.csv": b"mag,grp\n"} | dict.fromkeys(STRAY, b"stray")
    pack = {"b.zip": zipped, "folder": written}.get(kind, tarred)
    unpacked = archive.unpack(pack(members, tmp_path / kind), tmp_path / "root")
    assert unpacked == tmp_path / "root" / "BreaKHis_v1"
    assert contents(tmp_path / "root") == tree | {"BreaKHis_v1/Folds.csv": b"mag,grp\n"}
    assert completeness.check_tree(unpacked, TINY).is_whole


def test_a_folder_may_be_the_tree_itself(tiny_tree: Path, tmp_path: Path) -> None:
    archive.unpack(tiny_tree / "BreaKHis_v1" / "histology_slides", tmp_path)
    assert contents(tmp_path) == contents(tiny_tree)


def test_of_several_trees_the_fullest_is_taken(tmp_path: Path) -> None:
    other = IMAGE.replace("-001.png", "-002.png")
    members = {f"copy/{IMAGE}": b"old", IMAGE: b"new", other: b"new"}
    unpacked = archive.unpack(zipped(members, tmp_path / "b.zip"), tmp_path / "root")
    assert set(contents(unpacked).values()) == {b"new"}


@pytest.mark.parametrize("name", [
    "../evil.png", f"{IMAGE}/../../../x.png", "/etc/evil", "C:/evil", "..\\evil",
    "BreaKHis_v1/histology_slides/../../x.png",
])  # fmt: skip
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, pack, name: str) -> None:
    path = pack({IMAGE: b"image", name: b"evil"}, tmp_path / "b.archive")
    with pytest.raises(DataError, match="leads out of its folder"):
        archive.unpack(path, tmp_path / "root")
    assert left_in(tmp_path / "root") == [] and left_in(tmp_path) == ["b.archive"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_in_a_tarball_is_refused(tmp_path: Path, kind: bytes) -> None:
    odd = tarfile.TarInfo("BreaKHis_v1/histology_slides/odd.png")
    odd.type, odd.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match=r"holds a (link|device), .*odd.png"):
        archive.unpack(tarred({IMAGE: b"image"}, tmp_path / "b.tar.gz", [odd]), tmp_path / "root")
    assert left_in(tmp_path / "root") == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = zipped({IMAGE: b"image"}, tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as opened:
        link = zipfile.ZipInfo("BreaKHis_v1/histology_slides/link.png")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"holds a link, .*link.png"):
        archive.unpack(path, tmp_path / "root")


def test_a_link_in_a_folder_is_refused_only_in_its_tree(tmp_path: Path) -> None:
    folder = written({IMAGE: b"image"}, tmp_path / "folder")
    (folder / "elsewhere").symlink_to("/etc")
    assert len(contents(archive.unpack(folder, tmp_path / "root"))) == 1
    (folder / IMAGE).with_name("link.png").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=r"link.png.*--data.root"):
        archive.unpack(folder, tmp_path / "root_2")


PIECES = ["a", ".", "..", "/", "\\", "C:", "histology_slides/", "BreaKHis_v1/", "Folds.csv", "\0"]


@given(some.lists(some.sampled_from(PIECES)).map("".join))
def test_no_name_lands_outside(name: str) -> None:
    members = [sources.Member(spelled, "file", 1, None) for spelled in (IMAGE, name)]
    try:
        places = archive.placed(sources.Source(Path("b.zip"), members, lambda _: io.BytesIO()))
    except DataError:
        return
    for _, place in places:
        if place is not None:
            assert place.parts[0] in ("histology_slides", "Folds.csv") and "\0" not in str(place)
            assert ".." not in place.parts


def test_two_members_of_one_place_are_refused(tmp_path: Path) -> None:
    path = zipped({IMAGE: b"image", IMAGE.replace(".png", ".PNG"): b"other"}, tmp_path / "b.zip")
    with pytest.raises(DataError, match="holds both"):
        archive.unpack(path, tmp_path / "root")


def test_something_else_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no 'histology_slides' in .*\n  holiday.txt"):
        archive.unpack(zipped({"holiday.txt": b"sun"}, tmp_path / "b.zip"), tmp_path / "root")
    with pytest.raises(DataError, match="does not exist"):
        archive.unpack(tmp_path / "none.zip", tmp_path / "root")


@pytest.mark.parametrize("damaged", [IMAGE, "__MACOSX/._x"])
def test_a_wrong_checksum_of_any_member_is_found(tmp_path: Path, damaged: str) -> None:
    members = {IMAGE: b"image", damaged: b"PRECIOUS", f"{IMAGE[:-5]}2.png": b"image"}
    path = zipped(members, tmp_path / "b.zip", zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"PRECIOUS", b"PRECIOUZ"))
    with pytest.raises(archive.DamagedError, match="Bad CRC-32 for file"):
        archive.unpack(path, tmp_path / "root")
    assert left_in(tmp_path / "root") == []


def test_a_wrong_checksum_of_a_tarball_is_found(tmp_path: Path) -> None:
    path = tarred({IMAGE: os.urandom(100_000)}, tmp_path / "b.tar.gz")
    raw = bytearray(path.read_bytes())
    raw[50_000] ^= 1  # in a stored block: only the checksum at the end can tell
    path.write_bytes(raw)
    with pytest.raises(archive.DamagedError):
        archive.unpack(path, tmp_path / "root")
    assert left_in(tmp_path / "root") == []


@pytest.mark.parametrize("kind", ["b.zip", "b.tar.gz", "b.tar"])
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_an_archive_cut_short_is_found(tmp_path: Path, kind: str, share: float) -> None:
    members = {IMAGE: os.urandom(50_000), f"{IMAGE[:-5]}2.png": os.urandom(50_000)}
    path = (zipped if kind == "b.zip" else tarred)(members, tmp_path / kind)
    size = 100_000 if kind == "b.tar" else path.stat().st_size  # tar pads its end
    os.truncate(path, int(size * share))
    with pytest.raises(archive.DamagedError, match=r"damaged, or neither zip nor tar \(.+\); get it anew"):
        archive.unpack(path, tmp_path / "root")
    assert left_in(tmp_path / "root") == []


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    path = zipped({IMAGE: b"image"}, tmp_path / "b.zip")
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the table of contents
    path.write_bytes(raw)
    with pytest.raises(DataError, match="holds an encrypted file"):
        archive.unpack(path, tmp_path / "root")


def test_an_interruption_leaves_nothing(tiny_tree: Path, tmp_path: Path, monkeypatch) -> None:
    path = zipped(contents(tiny_tree), tmp_path / "b.zip")
    root, seen = tmp_path / "root", []

    def interrupted(content, target, length) -> None:
        target.write(content.read())
        seen.append(None)
        assert not list(root.rglob("histology_slides")), "half a tree can be found"
        if len(seen) == 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            archive.unpack(path, root)
    assert left_in(root) == []
    assert contents(archive.unpack(path, root).parent) == contents(tiny_tree)


def test_what_a_killed_process_left_is_no_tree_and_is_replaced(tmp_path: Path) -> None:
    root = tmp_path / "root"
    written({".BreaKHis_v1.unfinished/histology_slides.unfinished/half.png": b"half"}, root)
    with pytest.raises(DataError, match="no folder 'histology_slides'"):
        index.find_root(config.Data(root=str(root)))
    archive.unpack(zipped({IMAGE: b"image"}, tmp_path / "b.zip"), root)
    assert contents(root) == {IMAGE: b"image"}


def test_two_at_once_and_a_tree_that_is_there_are_refused(tmp_path: Path) -> None:
    path, root = zipped({IMAGE: b"image"}, tmp_path / "b.zip"), tmp_path / "root"
    root.mkdir()
    with (root / ".BreaKHis_v1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process unpacks"):
            archive.unpack(path, root)
    archive.unpack(path, root)
    with pytest.raises(DataError, match="is there already"):
        archive.unpack(path, root)
    assert contents(root) == {IMAGE: b"image"}


def test_a_full_disk_is_told_before_and_during(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, root = zipped({IMAGE: bytes(5_000_000)}, tmp_path / "b.zip"), tmp_path / "a" / "root"
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: disk(4_000_000))
        with pytest.raises(DataError, match=r"4.0 MB are free .* 5.0 MB are needed \(tree 5.0 MB\)"):
            archive.unpack(path, root)

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(DataError, match="No space left on device"):
        archive.unpack(path, root)
    assert left_in(root) == []


def test_needs_on_one_disk_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(8_000_000_000))
    archive.check_free([(tmp_path / "x", 4_000_000_000, "archive"), (tmp_path, 4_000_000_000, "tree")])
    with pytest.raises(DataError, match=r"8.1 GB are needed \(archive 4.1 GB \+ tree 4.0 GB\)"):
        archive.check_free([(tmp_path / "x", 4_100_000_000, "archive"), (tmp_path, 4_000_000_000, "tree")])


def test_the_table_is_of_breakhis() -> None:
    table = completeness.official()
    assert len({slide for slide, _ in table}) == names.N_SLIDES
    assert len({names.parse_slide_name(slide).case for slide, _ in table}) == names.N_CASES
    assert sum(table.values()) == names.N_IMAGES


def test_a_full_tree_is_whole_and_one_image_less_is_not(tmp_path: Path) -> None:
    for (slide, magnification), n in completeness.official().items():
        first = tmp_path / names.official_path(image_name(slide, magnification, 1))
        first.parent.mkdir(parents=True)
        for sequence in range(1, n + 1):
            first.with_name(image_name(slide, magnification, sequence)).write_bytes(b"x")
    found = completeness.check_tree(tmp_path)
    assert found.is_whole and str(found) == f"{tmp_path} holds 7,909 of 7,909 images: it is whole"
    (tmp_path / names.official_path("SOB_B_A-14-22549AB-40-001.png")).unlink()
    found = completeness.check_tree(tmp_path)
    assert not found.is_whole and found.missing == ["SOB_B_A_14-22549AB 40X: 28 of 29"]
    assert str(found) == f"{tmp_path} holds 7,908 of 7,909 images; missing: SOB_B_A_14-22549AB 40X: 28 of 29"


def test_what_is_not_expected_is_told(tiny_tree: Path, tmp_path: Path) -> None:
    root = archive.unpack(tiny_tree, tmp_path)
    one, two = (root / names.official_path(f"SOB_B_A-14-22549AB-200-00{i}.png") for i in (1, 2))
    one.rename(root / names.official_path("SOB_B_A-14-22549AB-40-001.png").replace("-001", "-009"))
    two.rename(two.parents[1] / "40X" / two.name)
    (one.parent / "holiday.png").write_bytes(b"sun")
    (root / names.official_path("SOB_B_A-14-22549AB-100-001.png")).write_bytes(b"")
    found = completeness.check_tree(root, TINY)
    assert found.missing == ["SOB_B_A_14-22549AB 100X: 0 of 1", "SOB_B_A_14-22549AB 200X: 0 of 2"]
    assert found.extra[0] == "SOB_B_A_14-22549AB 40X: 2 instead of 1"
    home = two.parent.relative_to(root).as_posix()
    reasons = [extra.partition("(")[2] for extra in found.extra[1:]]
    assert reasons == ["empty)", "no BreakHis name)", f"belongs under {home})"]


def test_sizes_are_for_people() -> None:
    assert [archive.size(n) for n in (12, 3_400, 5_600_000, 4_300_000_000)] == [
        "12 bytes", "3.4 kB", "5.6 MB", "4.3 GB"]  # fmt: skip


def test_a_gzip_that_is_no_tarball_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(archive.DamagedError):
        archive.unpack(tmp_path / "b.tar.gz", tmp_path / "root")
