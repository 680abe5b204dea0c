"""index.py: every oddity of a tree is found and named; nothing is read twice."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_png import CAN, CANNOT, PIXELS, RGB

from breakhis_cls import config, names, parallel
from breakhis_cls.data import completeness, index, png
from breakhis_cls.errors import DataError

ADENOSIS = "SOB_B_A-14-22549AB-40-001.png"
PAPILLARY = "SOB_M_PC-15-190EF-400-001.png"
pytestmark = pytest.mark.filterwarnings("ignore:.*of BreakHis's:UserWarning")


@pytest.fixture
def tree(tiny_tree, tmp_path) -> Path:
    """A copy of the tiny tree that a test may change."""
    return Path(shutil.copytree(tiny_tree, tmp_path / "tree"))


def settings(root: Path, tmp_path: Path, **changes) -> config.Data:
    return config.Data(root=str(root), cache=tmp_path / "cache", **changes)


def image_in(tree: Path, filename: str = ADENOSIS) -> Path:
    return tree / "BreaKHis_v1" / names.official_path(filename)


def test_every_bad_image_is_listed_at_once_or_left_out(tree, tmp_path):
    paths = sorted(tree.rglob("*.png"))
    bad = dict(zip(paths, CANNOT.values(), strict=False))
    for path, (content, _) in bad.items():
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        index.load_images(settings(tree, tmp_path))
    for path, (_, reason) in bad.items():
        assert any(path.name in line and reason in line for line in str(caught.value).splitlines())
    lenient = settings(tree, tmp_path, skip_broken=True)
    left_out = index.list_unreadable(lenient)
    assert [Path(file).name for file in left_out["file"]] == [path.name for path in bad]
    assert set(index.load_images(lenient)["file"]).isdisjoint(left_out["file"])
    assert len(index.load_images(lenient)) == len(paths) - len(bad)


def test_grey_and_palettes_are_read_as_rgb(tree, tmp_path):
    paths = sorted(tree.rglob("*.png"))
    for path, (content, _) in zip(paths, CAN.values(), strict=False):
        path.write_bytes(content)
    images = index.load_images(settings(tree, tmp_path))
    for (_, pixels), hashed in zip(CAN.values(), images["pixel_sha256"], strict=False):
        assert hashed == png.pixel_sha256(pixels)


def test_the_table_of_a_sound_tree(tiny_tree, tmp_path):
    data = settings(tiny_tree, tmp_path)
    images = index.load_images(data)
    assert list(images.columns) == list(index.COLUMNS)
    assert len(images) == 75 and images["file"].is_monotonic_increasing
    assert all(isinstance(case, str) for case in images["case"])
    assert images["magnification"].dtype == int and images["slide"].nunique() == 15
    row = images.set_index("file").loc[names.official_path(PAPILLARY)]
    path = index.find_root(data) / row.name
    assert (row["label"], row["case"], row["width_px"], row["height_px"]) == ("malignant", "190", 70, 46)
    assert (row["bytes"], row["sha256"]) == (path.stat().st_size, index.files.sha256_of_file(path))
    assert row["pixel_sha256"] == index.pixel_sha256(np.asarray(Image.open(path)))
    assert index.load_images(data).equals(images)


def test_equal_pixels_in_different_bytes_are_seen(tiny_tree, tmp_path):
    images = index.load_images(settings(tiny_tree, tmp_path))
    twins = images[images.duplicated("pixel_sha256", keep=False)]
    assert set(twins["slide"]) == {"SOB_M_DC_14-13412", "SOB_M_LC_14-13412"} and len(twins) == 10
    assert images["sha256"].is_unique


def test_a_second_call_decodes_nothing_and_a_change_only_what_changed(tree, tmp_path, monkeypatch):
    data = settings(tree, tmp_path)
    first = index.load_images(data)
    decoded = []
    monkeypatch.setattr(index, "decode_bytes", lambda raw: decoded.append(raw) or png.decode_bytes(raw))
    assert index.load_images(data).equals(first) and decoded == []
    assert len(index.load_images(data.model_copy(update={"magnifications": (200,)}))) == 30 and decoded == []

    changed, removed = image_in(tree), image_in(tree, PAPILLARY)
    added = image_in(tree, ADENOSIS.replace("001", "002"))
    changed.write_bytes(RGB)
    removed.unlink()
    added.write_bytes(RGB)
    second = index.load_images(data)
    assert len(decoded) == 2 and len(second) == 75
    hashes = second.set_index("file")["pixel_sha256"]
    assert hashes[names.official_path(changed.name)] == index.pixel_sha256(PIXELS)
    assert hashes[names.official_path(added.name)] == index.pixel_sha256(PIXELS)
    assert names.official_path(removed.name) not in hashes


def test_a_worker_of_a_sweep_lists_a_tree_once(tree, tmp_path, monkeypatch):
    data = settings(tree, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(index, "IS_SCANNED_ONCE", True)
        images = index.load_images(data)
        image_in(tree).unlink()
        assert index.load_images(data).equals(images)
    assert len(index.load_images(data)) == len(images) - 1


def test_a_change_of_equal_size_is_noticed_by_its_time(tree, tmp_path):
    data = settings(tree, tmp_path)
    path = image_in(tree)
    path.write_bytes(RGB)
    index.load_images(data)
    before = path.stat()
    path.write_bytes(RGB[:2_000] + bytes([RGB[2_000] ^ 1]) + RGB[2_001:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DataError, match="checksum"):
        index.load_images(data)


def test_an_interrupted_index_goes_on(tree, tmp_path, monkeypatch):
    data, n_decoded = settings(tree, tmp_path), []

    def stops_at_40(raw: bytes) -> np.ndarray:
        n_decoded.append(1)
        if len(n_decoded) == 40:
            raise KeyboardInterrupt
        return png.decode_bytes(raw)

    monkeypatch.setattr(parallel, "count_cores", lambda: 1)
    monkeypatch.setattr(index, "decode_bytes", stops_at_40)
    with pytest.raises(KeyboardInterrupt):
        index.load_images(data)
    n_decoded.clear()
    monkeypatch.setattr(index, "decode_bytes", lambda raw: n_decoded.append(1) or png.decode_bytes(raw))
    resumed = index.load_images(data)
    assert len(n_decoded) == 75 - 39  # those before the one that stopped it were kept
    assert resumed.equals(index.load_images(settings(tree, tmp_path / "other")))


def test_progress_is_saved_every_few_seconds(tree, tmp_path, monkeypatch):
    saved, clock = [], itertools.count()
    monkeypatch.setattr(index, "time", types.SimpleNamespace(monotonic=lambda: next(clock) / 8))
    monkeypatch.setattr(index.files, "write_csv", lambda path, table: saved.append(len(table)))
    index.load_images(settings(tree, tmp_path))
    assert saved == [0, 41, 75]  # the clock moves by an eighth of a second an image


def test_a_kept_table_that_is_not_ours_is_made_anew(tree, tmp_path):
    data = settings(tree, tmp_path)
    first = index.load_images(data)
    (kept,) = tmp_path.rglob("images.csv")
    for content in (b"", b"a,b\n1,2\n", b"\xff\xfe\x00", kept.read_bytes()[:5_000]):
        kept.write_bytes(content)
        assert index.load_images(data).equals(first)


def test_rights_that_are_mended_are_noticed(tree, tmp_path):
    path = image_in(tree)
    path.unlink()
    path.symlink_to(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot be read"):
        index.load_images(settings(tree, tmp_path))
    (tmp_path / "absent.png").write_bytes(RGB)
    assert len(index.load_images(settings(tree, tmp_path))) == 75


def test_junk_is_ignored(tree, tmp_path):
    slide = image_in(tree).parent
    for name in (".DS_Store", f"._{ADENOSIS}", "Thumbs.db", "Folds.csv", "README.txt", "desktop.ini", ".nfs01", "x~"):
        (slide / name).write_bytes(b"junk")
    for name in ("@eaDir", ".ipynb_checkpoints", "#recycle"):
        (slide / name).mkdir()
        (slide / name / "y.png").write_bytes(b"junk")
    assert not any("y.png" in line for line in completeness.check_tree(tree / "BreaKHis_v1").extra)
    (tree / "BreaKHis_v1/histology_slides/__MACOSX/x").mkdir(parents=True)
    (tree / "BreaKHis_v1/histology_slides/__MACOSX/x/y.png").write_bytes(b"junk")
    (tree / "__MACOSX/histology_slides").mkdir(parents=True)
    assert len(index.load_images(settings(tree, tmp_path))) == 75


def test_files_that_do_not_belong_are_listed_together(tree, tmp_path):
    image = image_in(tree)
    wrong = [
        shutil.copy(image, image.parent.parent / "100X" / image.name),
        shutil.copy(image, image_in(tree, "SOB_B_A-14-22549CD-40-001.png").parent / image.name),
        shutil.copy(image, image_in(tree, "SOB_B_F-14-9133-40-001.png").parent / image.name),
        shutil.copy(image, image.parent / "notes.png"),
        shutil.copy(image, image.parent / "SOB_M_A-14-22549AB-40-001.png"),
    ]
    shutil.copy(image, image.parent / "SOB_B_A-14-22549AB-40-002.PNG")  # an image like any other
    with pytest.raises(DataError, match="5 files do not belong") as caught:
        index.load_images(settings(tree, tmp_path, skip_broken=True))
    for path in wrong:
        assert Path(path).relative_to(tree / "BreaKHis_v1").as_posix() in str(caught.value)
    says = "its name says histology_slides/breast/benign/SOB/adenosis/SOB_B_A_14-22549AB/40X"
    assert str(caught.value).count(says) == 3


def test_the_root_is_found_at_any_depth_and_through_links(tiny_tree, tmp_path):
    holder = tiny_tree / "BreaKHis_v1"
    for root in (tiny_tree, holder, holder / "histology_slides"):
        assert index.find_root(settings(root, tmp_path)) == holder
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "data").symlink_to(tiny_tree)
    (tmp_path / "links" / "loop").symlink_to(tmp_path / "links")
    linked = settings(tmp_path / "links", tmp_path)
    assert index.find_root(linked) == tmp_path / "links/data/BreaKHis_v1"
    assert len(index.load_images(linked)) == 75


def test_of_two_trees_none_is_taken_without_a_word(tree, tmp_path):
    for other in (tree / "Z_last" / names.official_path(PAPILLARY), tree / "loose" / PAPILLARY):
        other.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image_in(tree), other)
        with pytest.raises(DataError, match=r"several trees(.|\n)*BreaKHis_v1(.|\n)*/(Z_last|loose)"):
            index.find_root(settings(tree, tmp_path))
        other.unlink()


LAYOUTS = {
    "kaggle": lambda name, image: f"BreaKHis 400X/{'train' if name.sequence % 2 else 'test'}/{name.label}/{image}",
    "flat": lambda name, image: f"{name.label}/{image}",
    "bare": lambda name, image: image,
    "slides": lambda name, image: f"data/{name.subtype}/{name.slide}/{name.magnification}x/{image}",
    "capitals": lambda name, image: f"{name.label.title()}/{image.replace('.png', '.PNG')}",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_of_any_kind_hold_the_same_images(tiny_tree, tmp_path, layout):
    official = index.load_images(settings(tiny_tree, tmp_path, magnifications=(400,)))
    for path in tiny_tree.rglob("*-400-*.png"):
        copy = tmp_path / "own" / LAYOUTS[layout](names.parse_image_name(path.name), path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    data = settings(tmp_path / "own", tmp_path, magnifications=(400,))
    images = index.load_images(data)
    assert all((index.find_root(data) / file).is_file() for file in images["file"])
    assert images.drop(columns="file").equals(official.drop(columns="file"))
    assert index.list_images(data)["file"].equals(images["file"])
    checked = completeness.check_tree(index.find_root(data))
    assert (checked.n_images, checked.extra) == (15, [])


def test_a_part_of_the_official_tree_is_a_tree(tiny_tree, tmp_path):
    for part, n in (("breast", 75), ("breast/malignant/SOB", 35)):
        images = index.load_images(settings(tiny_tree / "BreaKHis_v1/histology_slides" / part, tmp_path))
        assert len(images) == n


@pytest.mark.parametrize("folder", ["malignant", "BreaKHis 100X/benign", "fibroadenoma", "SOB_B_A_14-22549CD", "100x"])
def test_a_folder_that_contradicts_a_name_is_an_error(tiny_tree, tmp_path, folder):
    (tmp_path / "own" / folder).mkdir(parents=True)
    shutil.copy(image_in(tiny_tree), tmp_path / "own" / folder)
    with pytest.raises(DataError, match=r"its name says .*/SOB_B_A_14-22549AB/40X"):
        index.load_images(settings(tmp_path / "own", tmp_path, magnifications=(40,)))
    assert not completeness.check_tree(tmp_path / "own").is_complete


def test_copies_under_one_name_count_once_and_other_pixels_are_an_error(tiny_tree, tmp_path):
    for fold in ("fold1/train", "fold2/test"):  # as the authors' script for the folds copies them
        (tmp_path / "own" / fold).mkdir(parents=True)
        shutil.copy(image_in(tiny_tree), tmp_path / "own" / fold)
    data = settings(tmp_path / "own", tmp_path, magnifications=(40,))
    with pytest.warns(UserWarning, match="1 files are copies of others of the same name.*fold2/test"):
        assert index.load_images(data)["file"].tolist() == [f"fold1/train/{ADENOSIS}"]
    assert len(index.list_images(data)) == 1
    assert completeness.check_tree(tmp_path / "own").extra == []
    (tmp_path / "own/fold2/test" / ADENOSIS).write_bytes(RGB)
    with pytest.raises(DataError, match=r"1 files have other pixels than a file of the same name.*\n.*fold2"):
        index.load_images(data)


@pytest.mark.parametrize(("made", "said"), [
    ((), "no such folder"), (("tree/",), "it holds nothing"), (("tree",), "no such folder"),
    (("tree/archive.zip", "tree/b/"), "it holds archive.zip, b"),
])  # fmt: skip
def test_no_root_says_what_was_found_and_what_to_do(made, said, tmp_path):
    for name in made:
        path = tmp_path / name
        path.mkdir(parents=True) if name.endswith("/") else (path.parent.mkdir(exist_ok=True), path.touch())
    with pytest.raises(DataError, match=rf"{said}.*breakhis download.*--data\.root"):
        index.load_images(settings(tmp_path / "tree", tmp_path))


def test_an_empty_tree_and_absent_magnifications_are_errors(tree, tmp_path):
    (tmp_path / "bare/histology_slides").mkdir(parents=True)
    with pytest.raises(DataError, match="no images at 40X 100X 200X 400X"):
        index.load_images(settings(tmp_path / "bare", tmp_path))
    for folder in tree.rglob("400X"):
        shutil.rmtree(folder)
    with pytest.raises(DataError, match="no images at 400X"):
        index.load_images(settings(tree, tmp_path))
    assert len(index.load_images(settings(tree, tmp_path, magnifications=(40, 200)))) == 45


def test_a_broken_image_of_another_magnification_does_not_matter(tree, tmp_path):
    image_in(tree).write_bytes(b"")
    assert len(index.load_images(settings(tree, tmp_path, magnifications=(200,)))) == 30
    with pytest.raises(DataError, match="1 images cannot be read"):
        index.load_images(settings(tree, tmp_path, magnifications=(40, 200)))


def test_a_small_tree_is_a_warning(tiny_tree, tmp_path):
    with pytest.warns(UserWarning, match="75 of BreakHis's 7,909"):
        index.load_images(settings(tiny_tree, tmp_path))


def test_the_synthetic_tree_is_found_and_is_never_too_small(tiny_tree, tmp_path, monkeypatch):
    drawn = types.SimpleNamespace(default_tree=lambda cache: tiny_tree)
    monkeypatch.setitem(sys.modules, "breakhis_cls.synthetic.tree", drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(index.load_images(config.Data(root="synthetic", cache=tmp_path))) == 75


def test_a_read_only_tree_is_left_as_it_was(tree, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    index.load_images(settings(tree, tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_indexing_needs_no_tensorflow():
    code = "import sys, breakhis_cls.pipeline.pixel_store; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_real_images(shared, tmp_path):
    images = index.load_images(settings(shared / "breakhis/full", tmp_path))
    assert len(images) == 151 and images["slide"].nunique() == 41
    odd = images[images["height_px"] != 460]
    assert set(odd["slide"]) == {"SOB_M_PC_14-12465"} and set(odd["magnification"]) == {100}
    assert set(odd["height_px"]) == {456} and set(images["width_px"]) == {700}
    twins = images[images.duplicated("pixel_sha256", keep=False)]
    assert set(twins["case"]) == {"13412"} and set(twins["subtype"]) == {"DC", "LC"}
    assert twins["sha256"].is_unique
    assert "SOB_M_PC_15-190EF" in set(images["slide"])
