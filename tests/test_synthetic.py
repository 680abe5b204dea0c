"""Synthetic tissue: official names, every oddity, equal bytes for an equal seed, whole or not there at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from breakhis_cls import data, names, parallel
from breakhis_cls.errors import DataError
from breakhis_cls.synthetic import tissue, tree

FEW = ("SOB_B_F_14-90003", "SOB_M_DC_14-90011", "SOB_M_LC_14-90011", "SOB_M_PC_14-90016")
ONE = ("SOB_B_TA_14-90007",)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Four slides at four magnifications, one image each, seed 0."""
    return tree.write_tree(tmp_path_factory.mktemp("synthetic") / "tree", images_per_cell=1, slides=FEW)


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of each PNG."""
    pngs = sorted(folder.rglob("*.png"))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in pngs}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        return np.asarray(image)


def image_of(folder: Path, filename: str) -> Path:
    return folder / "BreaKHis_v1" / names.official_path(filename)


def test_every_image_lies_where_its_name_says(drawn):
    paths = list(drawn.rglob("*.png"))
    assert len(paths) == len(FEW) * 4
    assert all(path == image_of(drawn, path.name) for path in paths)


def test_the_default_slides_have_every_oddity():
    cases = {slide: names.parse_slide_name(slide).case for slide in tree.SLIDES}
    labels = {case: names.parse_slide_name(slide).label for slide, case in cases.items()}
    subtypes = {case: {names.parse_slide_name(s).subtype for s in cases if cases[s] == case} for case in labels}
    assert len(cases) == 24
    assert len(labels) == 18
    assert list(labels.values()).count("benign") == 7
    assert {names.parse_slide_name(slide).subtype for slide in cases} == set(names.SUBTYPES) == set(tissue.SUBTYPES)
    assert {"A", "F"} in subtypes.values(), "sibling folders of two benign subtypes, as 29960"
    assert {"DC", "LC"} in subtypes.values(), "one slide under two subtypes, as 13412"
    assert sum("_15-" in slide for slide in cases) == 1


def test_no_slide_or_case_is_one_of_breakhis():
    table = Path(data.__file__).parent / "tables" / "slides.csv"
    text = table.read_text(encoding="utf-8")
    assert not [slide for slide in tree.SLIDES if names.parse_slide_name(slide).case in text]


def test_one_cell_has_the_odd_height(drawn):
    short = {path.name for path in drawn.rglob("*.png") if pixels(path).shape == (456, 700, 3)}
    assert short == {"SOB_M_PC-14-90016-100-001.png"}
    assert {pixels(path).shape for path in drawn.rglob("*.png")} == {(456, 700, 3), (460, 700, 3)}


@pytest.mark.parametrize("magnification", names.MAGNIFICATIONS)
def test_the_double_slide_has_equal_pixels_in_different_bytes(drawn, magnification):
    ductal, lobular = (image_of(drawn, f"SOB_M_{x}-14-90011-{magnification}-001.png") for x in ("DC", "LC"))
    assert ductal.read_bytes() != lobular.read_bytes()
    np.testing.assert_array_equal(pixels(ductal), pixels(lobular))


def test_all_other_pictures_differ(drawn):
    others = [path for path in drawn.rglob("*.png") if "_LC-" not in path.name]
    assert len({pixels(path).tobytes() for path in others}) == len(others)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_equal_seeds_give_equal_bytes_whatever_the_number_of_threads(drawn, tmp_path, monkeypatch, n_threads):
    monkeypatch.setattr(parallel, "count_cores", lambda: n_threads)
    again = contents(tree.write_tree(tmp_path / "again", images_per_cell=1, slides=FEW[:1]))
    first = contents(drawn)
    assert again == {name: first[name] for name in again}
    assert len(again) == 4


def test_another_seed_gives_another_picture(drawn, tmp_path):
    first = contents(drawn)
    other = contents(tree.write_tree(tmp_path / "other", seed=1, images_per_cell=1, slides=FEW[:1]))
    assert set(other) <= set(first)
    assert all(first[name] != sha256 for name, sha256 in other.items())


def test_a_smaller_tree_is_a_part_of_a_larger_one(tmp_path):
    one = contents(tree.write_tree(tmp_path / "one", images_per_cell=1, slides=ONE))
    two = contents(tree.write_tree(tmp_path / "two", images_per_cell=2, slides=ONE))
    assert one.items() < two.items()


def test_a_whole_tree_is_left_alone(drawn, monkeypatch):
    monkeypatch.setattr(tree, "draw_image", lambda *_: pytest.fail("drawn again"))
    assert tree.write_tree(drawn, images_per_cell=1, slides=FEW) == drawn


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_draw_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch, error):
    def dies(filename, seed):
        if filename.endswith("200-001.png"):
            raise error
        return draw(filename, seed)

    draw = tree.draw_image
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(tree, "draw_image", dies)
        tree.write_tree(tmp_path / "tree", images_per_cell=1, slides=ONE)
    assert list(tmp_path.iterdir()) == []
    assert len(contents(tree.write_tree(tmp_path / "tree", images_per_cell=1, slides=ONE))) == 4


@pytest.mark.parametrize("other", [{"seed": 1}, {"images_per_cell": 2}, {"slides": ONE}])
def test_a_folder_with_anything_else_is_refused_and_kept(drawn, other):
    before = contents(drawn)
    with pytest.raises(DataError, match="name another folder"):
        tree.write_tree(drawn, **({"images_per_cell": 1, "slides": FEW} | other))
    assert contents(drawn) == before


def test_the_default_tree_is_kept_under_the_cache(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tree, "write_tree", lambda folder: asked.append(folder) or folder)
    assert tree.default_tree(tmp_path).parent == tmp_path / "synthetic"
    assert f"v{tree.VERSION}" in asked[0].name


@pytest.mark.parametrize("slide", FEW)
def test_nuclei_are_darker_and_bluer_than_what_surrounds_them(drawn, slide):
    filename = f"{slide.replace('_14', '-14')}-40-001.png"
    rgb, mask = pixels(image_of(drawn, filename)).astype(float), tree.draw_image(filename).nuclei
    assert mask.shape == rgb.shape[:2]
    assert 0.02 < mask.mean() < 0.8
    assert rgb[mask].mean() < rgb[~mask].mean() - 30
    assert (rgb[..., 2] - rgb[..., 0])[mask].mean() > (rgb[..., 2] - rgb[..., 0])[~mask].mean()


def test_nuclei_grow_with_magnification():
    """Ten times the magnification: about a hundredth of the nuclei, each about a hundred times as large."""
    from scipy.ndimage import label

    def mean_area_px(magnification):
        masks = [tree.draw_image(f"SOB_B_F-14-90003-{magnification}-{n:03d}.png").nuclei for n in (1, 2)]
        return np.mean([mask.sum() / max(1, label(mask)[1]) for mask in masks])

    assert 40 < mean_area_px(400) / mean_area_px(40) < 200
