"""names.py: one grammar; labels come from names; parse and official_path agree."""

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
def test_a_name_reads_back_as_what_it_was_made_of(code, year, case, block, magnification, sequence):
    letter = names.SUBTYPES[code][1][0].upper()
    filename = f"SOB_{letter}_{code}-{year}-{case}{block}-{magnification}-{sequence:03}.png"
    name = names.parse_image_name(filename)
    slide = f"SOB_{letter}_{code}_{year}-{case}{block}"
    assert name == (names.SUBTYPES[code][1], code, slide, case, magnification, sequence)
    assert names.case_of(name.slide) == case
    assert names.subtype_of(name.slide) == code
    assert names.label_of(name.slide) == name.label


@given(codes, years, cases, blocks, magnifications, st.integers(1, 999))
def test_the_official_path_says_what_the_name_says(code, year, case, block, magnification, sequence):
    letter = names.SUBTYPES[code][1][0].upper()
    filename = f"SOB_{letter}_{code}-{year}-{case}{block}-{magnification}-{sequence:03}.png"
    _, _, label, _, folder, slide, power, last = names.official_path(filename).split("/")
    name = names.parse_image_name(filename)
    assert (label, slide, power, last) == (name.label, name.slide, f"{name.magnification}X", filename)
    assert names.SUBTYPES[code] == (folder, label)


@given(st.text(max_size=40))
def test_other_text_is_refused_and_quoted(text):
    if not names.IMAGE_NAME.fullmatch(text):
        with pytest.raises(DataError, match="no BreakHis image name"):
            names.parse_image_name(text)


def test_year_15_and_block_letters():
    name = names.parse_image_name("SOB_M_PC-15-190EF-400-014.png")
    assert name == ("malignant", "PC", "SOB_M_PC_15-190EF", "190", 400, 14)
    assert names.official_path("SOB_B_A-14-22549AB-40-001.png") == (
        "histology_slides/breast/benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png"
    )


def test_siblings_share_their_case_and_13412_lies_under_two_subtypes():
    assert names.case_of("SOB_B_A_14-22549AB") == names.case_of("SOB_B_A_14-22549CD") == "22549"
    assert names.case_of("SOB_M_DC_14-13412") == names.case_of("SOB_M_LC_14-13412") == "13412"


@pytest.mark.parametrize("filename", [
    "SOB_B_DC-14-2523-40-001.png", "SOB_M_F-14-9133-40-001.png",   # label against subtype
])  # fmt: skip
def test_a_name_that_contradicts_itself_is_refused(filename):
    with pytest.raises(DataError, match="but subtype"):
        names.parse_image_name(filename)


@pytest.mark.parametrize("filename", [
    "", "SOB_B_A_14-22549AB-40-001.png", "SOB_B_A-14-22549AB-50-001.png", "SOB_B_A-14-22549AB-40-001.PNG",
    "SOB_B_A-14-22549ab-40-001.png", "SOB_B_A-14-22549AB-40-001.png ", "x/SOB_B_A-14-22549AB-40-001.png",
    "SOB_B_TAA-14-1-40-001.png", "SOB_B_A-14--40-001.png",
])  # fmt: skip
def test_near_misses_are_refused(filename):
    with pytest.raises(DataError, match="expected one like"):
        names.parse_image_name(filename)


def test_all_official_paths(shared):
    lines = (shared / "breakhis/facts/paths.txt").read_text().split()
    parsed = [names.parse_image_name(line.rpartition("/")[2]) for line in lines]
    assert len(lines) == names.N_IMAGES
    assert len({name.slide for name in parsed}) == names.N_SLIDES
    assert len({name.case for name in parsed}) == names.N_CASES
    for line in lines:
        assert line == "BreaKHis_v1/" + names.official_path(line.rpartition("/")[2])
