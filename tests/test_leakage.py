"""Which test images the model has seen."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from breakhis_cls import names
from breakhis_cls.config import Data, Split
from breakhis_cls.data import index, leakage, protocols, splits
from breakhis_cls.data.png import decode, pixel_sha256

IMAGES = protocols.official_images()
LEFT_RIGHT, UP_DOWN, QUARTER = (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_90,
)  # fmt: skip


def split_of(**parts: list[tuple[str, str]]) -> pd.DataFrame:
    """One fold of (file, slide) by part."""
    rows = [(file, slide, part) for part, members in parts.items() for file, slide in members]
    table = pd.DataFrame(rows, columns=["file", "slide", "part"]).assign(fold=0, magnification=40)
    parsed = [names.parse_slide_name(slide) for slide in table["slide"]]
    return table.assign(case=[name.case for name in parsed], label=[name.label for name in parsed])


def copy_as_jpeg(picture: Image.Image, turn: Image.Transpose | None, side_px: int, quality: int) -> Image.Image:
    """As others pass images on: flipped or turned, squeezed to a square, saved as JPEG."""
    picture = picture.transpose(turn) if turn is not None else picture
    packed = io.BytesIO()
    picture.resize((side_px, side_px), Image.Resampling.BILINEAR).save(packed, "JPEG", quality=quality)
    return Image.open(packed).convert("RGB")


def blobs(seed: int, width_px: int = 350, height_px: int = 230) -> Image.Image:
    """A smooth random field, which like tissue has low frequencies."""
    small = np.random.default_rng(seed).integers(0, 255, (14, 20, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width_px, height_px), Image.Resampling.BICUBIC)


def bits_between(one: Image.Image, other: Image.Image) -> int:
    """Bits that differ; all of them if the images are no near duplicates."""
    table = pd.DataFrame({"file": ["one", "other"], "pixel_sha256": ["1", "2"]})
    table["signs"] = [leakage.fingerprint(np.asarray(picture)) for picture in (one, other)]
    pairs = leakage.find_near_pairs(table)
    return int(pairs["n_bits"].iloc[0]) if len(pairs) else leakage.N_BITS


def test_slides_and_cases_by_hand():
    split = split_of(
        train=[("a1", "SOB_B_A_14-1A"), ("c1", "SOB_M_DC_14-3")],
        validation=[("b1", "SOB_B_A_14-2")],
        test=[
            ("a2", "SOB_B_A_14-1B"), ("b2", "SOB_B_A_14-2"), ("d1", "SOB_M_DC_14-4"), ("e1", "SOB_B_F_14-5"),
        ],
    )  # fmt: skip
    found = leakage.find_leaks(split)
    rows = found[["file", "kind", "key", "seen_file", "n_seen"]].to_numpy().tolist()
    assert rows == [
        ["b2", "slide", "SOB_B_A_14-2", "b1", 1],
        ["a2", "case", "1", "a1", 1],
        ["b2", "case", "2", "b1", 1],
    ]
    assert found.columns.tolist() == leakage.COLUMNS
    [entry] = leakage.summarize_folds(split, found, with_images=False)
    assert (entry["n_train"], entry["n_test"], entry["test_slides"], entry["test_cases"]) == (3, 4, 4, 4)
    case = {"keys": ["1", "2"], "test_images": 2, "test_share": 0.5, "benign_test_share": 2 / 3}
    assert entry["leaks"]["case"] == case
    not_compared = {"keys": [], "test_images": None, "test_share": None, "benign_test_share": None}
    assert entry["leaks"]["pixels"] == entry["leaks"]["near_duplicate"] == not_compared


def test_a_clean_split_has_no_rows():
    split = split_of(train=[("a", "SOB_B_A_14-1")], test=[("b", "SOB_B_A_14-2")])
    assert leakage.find_leaks(split).empty
    signs = pd.DataFrame({"file": ["a", "b"], "pixel_sha256": ["1", "2"]})
    signs["signs"] = [leakage.fingerprint(np.asarray(blobs(seed))) for seed in (1, 2)]
    found = leakage.find_leaks(split, signs)
    assert found.empty and found.columns.tolist() == leakage.COLUMNS
    [entry] = leakage.summarize_folds(split, found, with_images=True)
    assert entry["leaks"]["pixels"] == {
        "keys": [], "test_images": 0, "test_share": 0.0, "benign_test_share": 0.0,
    }  # fmt: skip


def test_the_published_folds_in_numbers():
    folds = [splits.assign_test(IMAGES, Split(protocol="spanhol", fold=fold)) for fold in range(5)]
    split = pd.concat(folds)
    entries = leakage.summarize_folds(split, leakage.find_leaks(split), with_images=False)
    assert [len(entry["leaks"]["slide"]["keys"]) for entry in entries] == [0] * 5
    assert [len(entry["leaks"]["case"]["keys"]) for entry in entries] == [8, 6, 7, 7, 6]
    shares = [round(entry["leaks"]["case"]["test_share"], 3) for entry in entries]
    assert shares == [0.394, 0.280, 0.270, 0.310, 0.324]
    assert entries[0]["n_test"] == 2_904


def test_a_weak_validation_is_reported():
    cases = [("a", "SOB_B_A_14-1A"), ("b", "SOB_B_A_14-1B"), ("c", "SOB_B_A_14-2"), ("d", "SOB_B_A_14-3")]
    weak = split_of(train=cases[:1], validation=cases[1:2], test=cases[2:])
    [message] = leakage.validation_messages(weak, leakage.find_leaks(weak))
    assert "less strictly than test: it shares case numbers with train, test shares nothing" in message
    strict = split_of(train=cases[:1], validation=cases[2:3], test=cases[1:2])
    assert "less strictly" not in "".join(leakage.validation_messages(strict, leakage.find_leaks(strict)))


@pytest.mark.parametrize("turn", [None, LEFT_RIGHT, UP_DOWN, QUARTER, Image.Transpose.TRANSVERSE])
def test_copies_are_near_and_others_are_not(turn):
    for seed in range(5):
        assert bits_between(copy_as_jpeg(blobs(seed), turn, 224, 75), blobs(seed)) <= leakage.NEAR_BITS
        assert bits_between(copy_as_jpeg(blobs(seed), turn, 224, 75), blobs(seed + 1)) > leakage.NEAR_BITS


def test_pixels_and_near_duplicates_across_slides():
    """Two equal files, and a mirrored JPEG copy, are in test under other names."""
    copy = copy_as_jpeg(blobs(2), LEFT_RIGHT, 224, 75)
    files = {"a": blobs(1), "b": blobs(2), "a_again": blobs(1), "b_copy": copy}
    split = split_of(
        train=[("a", "SOB_B_A_14-1"), ("b", "SOB_B_A_14-2")],
        test=[("a_again", "SOB_B_A_14-3"), ("b_copy", "SOB_B_A_14-4")],
    )
    prints = pd.DataFrame({"file": list(files), "pixel_sha256": ["1", "2", "1", "3"]})
    prints["signs"] = [leakage.fingerprint(np.asarray(picture)) for picture in files.values()]
    rows = leakage.find_leaks(split, prints)[["file", "kind", "key", "seen_file", "n_seen"]].to_numpy().tolist()
    assert rows == [["a_again", "pixels", "1", "a", 1], ["b_copy", "near_duplicate", "b", "b", 1]]


def test_fingerprints_are_kept(tiny_tree, tmp_path, monkeypatch):
    data = Data(root=str(tiny_tree), cache=tmp_path)
    images = index.load_images(data)
    first = leakage.compute_fingerprints(images, index.find_root(data), tmp_path)
    assert first["file"].tolist() == images["file"].tolist()
    assert first["signs"].str.fullmatch("[0-9a-f]{64}").all()
    monkeypatch.setattr(leakage, "decode", None)  # a second call opens no image
    assert leakage.compute_fingerprints(images, index.find_root(data), tmp_path).equals(first)


def test_both_error_rates_on_real_images(shared):
    """151 originals: every copy is found, no other field is."""
    paths = sorted((shared / "breakhis" / "full").rglob("*.png"))
    pictures = [Image.fromarray(decode(path)) for path in paths]
    table = pd.DataFrame({"file": [path.name for path in paths]})
    table["signs"] = [leakage.fingerprint(np.asarray(picture)) for picture in pictures]
    table["pixel_sha256"] = [pixel_sha256(np.asarray(picture)) for picture in pictures]
    assert leakage.find_near_pairs(table).empty  # DC and LC of 13412 are equal pixels, not near ones
    copies = [copy_as_jpeg(picture, LEFT_RIGHT, 224, 75) for picture in pictures[::3]]
    assert max(map(bits_between, pictures[::3], copies)) < 20


def test_13412_is_found_by_its_pixels(shared, tmp_path):
    data = Data(root=str(shared / "breakhis" / "full"), cache=tmp_path)
    with pytest.warns(UserWarning, match="151 of BreakHis's 7,909"):
        images = index.load_images(data)
    groups = leakage.find_equal_pixels(images)
    assert len(groups) == 12 and all("DC-14-13412" in dc and "LC-14-13412" in lc for dc, lc in groups)
    rows = images.set_index("file")
    assert all(rows.loc[dc, "sha256"] != rows.loc[lc, "sha256"] for dc, lc in groups)
    split = splits.assign_test(images, Split(protocol="spanhol"))
    found = leakage.find_leaks(split, leakage.compute_fingerprints(images, index.find_root(data), tmp_path))
    assert (found["kind"] == "pixels").sum() == 12
