"""File names: one grammar; labels come from names; parsing and official_path agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakhis_cls import names
from breakhis_cls.errors import DataError

codes = st.sampled_from(sorted(names.SUBTYPES))
cases = st.from_regex(r"[0-9]{2,6}", fullmatch=True)
blocks = st.from_regex(r"[A-Z]{0,2}", fullmatch=True)
years = st.sampled_from(["14", "15"])
magnifications = st.sampled_from(names.MAGNIFICATIONS)


@given(codes, years, cases, blocks, magnifications, st.integers(1, 999))
def test_parsing_returns_the_parts_of_a_name(code, year, case, block, magnification, sequence):
    folder, label = names.SUBTYPES[code]
    letter = label[0].upper()
    filename = f"SOB_{letter}_{code}-{year}-{case}{block}-{magnification}-{sequence:03}.png"
    name, slide = names.parse_image_name(filename), f"SOB_{letter}_{code}_{year}-{case}{block}"
    assert name == (label, code, slide, case, magnification, sequence)
    assert names.parse_slide_name(slide) == (label, code, case)
    assert names.official_path(filename).split("/")[2:] == [
        label, "SOB", folder, slide, f"{magnification}X", filename,
    ]  # fmt: skip


@given(st.text(max_size=40))
def test_any_other_text_is_refused(text):
    if not names.IMAGE_NAME.fullmatch(text):
        with pytest.raises(DataError, match="is not a BreakHis image name"):
            names.parse_image_name(text)


@pytest.mark.parametrize("filename", ["SOB_B_DC-14-2523-40-001.png", "SOB_M_F-14-9133-40-001.png"])
def test_a_label_that_contradicts_the_subtype_is_refused(filename):
    with pytest.raises(DataError, match="but subtype"):
        names.parse_image_name(filename)


@pytest.mark.parametrize("filename", [
    "", "SOB_B_A_14-22549AB-40-001.png", "SOB_B_A-14-22549AB-50-001.png", "SOB_B_A-14-22549ab-40-001.png",
    "SOB_B_TAA-14-1-40-001.png", "SOB_B_A-14--40-001.png", "SOB_B_A-14-22549AB-40-001_mask.png",
])  # fmt: skip
def test_similar_names_are_refused(filename):
    with pytest.raises(DataError, match="expected one like"):
        names.parse_image_name(filename)


@pytest.mark.parametrize("before", ["", "a/b/", "C:\\x\\", "https://x/", " "])
@pytest.mark.parametrize("after", ["", ".png", ".PNG", ".jpg", ".TIFF", ".ome.tif", ".png ", ".npy"])
def test_an_official_name_is_known_in_any_folder_and_with_any_suffix(before, after):
    path = f"{before}SOB_B_A-14-22549AB-40-001{after}"
    assert names.official_name(path) == "SOB_B_A-14-22549AB-40-001.png"
    assert names.image_stem(path) == "SOB_B_A-14-22549AB-40-001"


@pytest.mark.parametrize("path", ["img0.png", "SOB_B_A-14-22549AB-40-001_mask.png", "SOB_B_A_14-22549AB/1.png", ""])
def test_another_name_is_not_official(path):
    assert names.official_name(path) is None


def test_slides_cut_from_file_names_are_slides():
    for slide in ("SOB_B_F-14-23060AB", "SOB_B_F_14-23060AB", "x\\SOB_B_F-14-23060AB/"):
        assert names.official_slide(slide) == "SOB_B_F_14-23060AB"
    assert names.official_slide("SOB_B_F-14-23060AB-40") == "SOB_B_F-14-23060AB-40"


def test_system_files_are_recognised():
    known = [
        ".DS_Store",
        "Thumbs.db",
        "__MACOSX",
        "._SOB_B_A-14-22549AB-40-001.png",
        ".nfs0001",
        ".directory",
        "@eaDir",
    ]
    assert all(map(names.is_system_file, known))
    assert not names.is_system_file("SOB_B_A-14-22549AB-40-001.png")
