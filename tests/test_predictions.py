"""The table that everything is scored from: read as written, or refused in one sentence for each kind of fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SLIDES, image_name

from breakhis_cls import names
from breakhis_cls.errors import DataError
from breakhis_cls.evaluation import error_analysis, experiments, predictions


def made(magnifications: tuple[int, ...] = names.MAGNIFICATIONS, seed: int = 0, fold: int = 0) -> pd.DataFrame:
    """Binary predictions of one image a slide and magnification: some 80 % right, case by case alike."""
    rows = []
    for slide in SLIDES:
        pull = np.random.default_rng((int(names.parse_slide_name(slide).case), seed)).normal(0, 1)
        for magnification in magnifications:
            file = names.official_path(image_name(slide, magnification, 1))
            sign = 1 if names.parse_slide_name(slide).label == "malignant" else -1
            noise = np.random.default_rng((len(rows), seed)).normal(0, 1)
            rows.append((file, slide, magnification, 1 / (1 + np.exp(-1.5 * sign - pull - noise))))
    table = pd.DataFrame(rows, columns=["file", "slide", "magnification", "p_malignant"])
    table["case"] = [names.parse_slide_name(slide).case for slide in table["slide"]]
    table["label"] = [names.parse_slide_name(slide).label for slide in table["slide"]]
    table["subtype"] = [names.parse_slide_name(slide).subtype for slide in table["slide"]]
    said = {"fold": fold, "part": "test", "protocol": "case", "data": "breakhis-1a2b3c4d", "model": "net", "seed": seed}
    return predictions.validate_predictions(table.assign(**said, p_benign=1 - table["p_malignant"]))


def refusal(table: pd.DataFrame) -> str:
    with pytest.raises(DataError) as caught:
        predictions.validate_predictions(table, "p.csv")
    return str(caught.value)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = made()
    table["case"] = "0" + table["case"]  # text, not a number
    table["file"] = table["file"].str.replace("SOB_", "own_")
    table.to_csv(tmp_path / "p.csv", index=False)
    pd.testing.assert_frame_equal(predictions.read_predictions(tmp_path / "p.csv"), table)


def test_missing_columns_are_named() -> None:
    assert "lacks columns: case, p_<class>" in refusal(made().drop(columns=["case", "p_benign", "p_malignant"]))
    assert "expected p_benign and p_malignant" in refusal(made().drop(columns="p_benign"))


def test_logits_are_taken_for_what_they_are() -> None:
    table = made()
    table.loc[:6, ["p_benign", "p_malignant"]] = [[-1.5, 2.25]] * 7
    told = refusal(table)
    assert "7 of 60 rows" in told and "logits" in told and "add up to 0.75" in told and "and 2 more" in told
    rounded = made().round({"p_benign": 3, "p_malignant": 3})
    predictions.validate_predictions(rounded)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, "high"])
def test_what_is_no_number_is_counted(wrong: object) -> None:
    table = made().astype({"p_malignant": object})
    table.loc[[3, 5], "p_malignant"] = wrong
    assert "2 of 60 rows with no finite or whole number in p_malignant" in refusal(table)


def test_repeated_rows_are_counted_but_other_folds_are_none() -> None:
    assert "3 of 63 rows that repeat an image" in refusal(pd.concat([made(), made().head(3)]))
    predictions.validate_predictions(pd.concat([made(), made(fold=1)]))


def test_labels_that_contradict_the_name() -> None:
    table = made()
    table.loc[0, ["label", "subtype"]] = ["malignant", "DC"]
    told = refusal(table)
    assert "1 of 60 rows that contradict their file name" in told and "label malignant, the name says benign" in told
    foreign = made().assign(file=[f"{at}.tif" for at in range(60)], label="malignant", subtype="DC")
    predictions.validate_predictions(foreign)  # another grammar says nothing


@pytest.mark.parametrize("suffix", [".jpg", ".PNG", "", ".ome.tif"])
@pytest.mark.parametrize("folder", ["", "a/b/", "C:\\x\\"])
def test_names_with_another_suffix_or_folder_are_checked_too(folder: str, suffix: str) -> None:
    table = made()
    table["file"] = folder + table["file"].map(names.image_stem) + suffix
    predictions.validate_predictions(table)
    swapped = table.assign(label=table["label"].map({"benign": "malignant", "malignant": "benign"}))
    assert "60 of 60 rows that contradict their file name" in refusal(swapped)
    assert "60 of 60 rows that contradict their file name" in refusal(table.assign(case=table["slide"]))


@pytest.mark.parametrize("blank", ["", "  ", "nan", "None", "NA", np.nan, None])
@pytest.mark.parametrize("column", ["case", "slide"])
def test_a_blank_case_or_slide_is_refused(column: str, blank: object) -> None:
    table = made().assign(file=[f"{at}.png" for at in range(60)]).astype({column: object})
    table.loc[[2, 4], column] = blank
    assert f"2 of 60 rows with an empty cell in {column}" in refusal(table)


@pytest.mark.parametrize("unknown", ["NA", "", "XX", np.nan])
def test_a_binary_table_may_lack_subtypes(unknown: object) -> None:
    table = made().assign(file=[f"{at}.png" for at in range(60)])
    some = table.astype({"subtype": object})
    some.loc[::2, "subtype"] = unknown
    for lacking in (table.assign(subtype=unknown), some):
        read = predictions.validate_predictions(lacking)
        assert (read["subtype"] == "").sum() >= 30
        assert set(error_analysis.errors_by_stratum(read)["subtype"]) == set(read["subtype"]) - {""}


@pytest.mark.parametrize("how", [
    {"sep": ";"}, {"sep": "\t"}, {"sep": ";", "decimal": ","}, {"encoding": "utf-8-sig"}, {"encoding": "utf-16"},
    {"encoding": "utf-16", "sep": "\t"}, {"quoting": 1}, {"lineterminator": "\r\n"},
])  # fmt: skip
def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path, how: dict) -> None:
    expected = made()
    table = expected.assign(part="Test", label=expected["label"].str.title()).rename(columns=str.title)
    table.assign(Magnification=table["Magnification"].astype(str) + "X").to_csv(tmp_path / "p.csv", index=False, **how)
    read = predictions.read_predictions(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(read, expected, rtol=1e-12)


@pytest.mark.parametrize(("content", "what"), [
    ("Größe".encode("cp1252"), "not UTF-8; an older encoding such as CP1252"), (b"PK\x03\x04", "a workbook or a zip"),
])  # fmt: skip
def test_a_file_that_is_no_text_says_what_it_is(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(DataError, match=what):
        predictions.read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize("part", ["val", "VAL", "Valid", "dev"])
def test_val_is_validation(part: str) -> None:
    table = made().assign(part=["test"] * 30 + [part] * 30)
    assert (predictions.validate_predictions(table)["part"] == "validation").sum() == 30


def test_two_models_in_one_table_are_two_experiments() -> None:
    both = predictions.validate_predictions(pd.concat([made(), made().assign(model="other")]))
    assert [len(one.table) for one in experiments.group_experiments([experiments.Source(Path("p.csv"), both)])] == [
        60,
        60,
    ]


def test_every_kind_of_fault_is_told_at_once() -> None:
    table = made()
    table.loc[0, "label"] = "malignant"
    table.loc[1, "part"] = "trial"
    table.loc[2, "p_benign"] = 3.0
    told = refusal(table)
    assert all(words in told for words in ("contradict", "'trial'", "logits", "two cases, labels"))


def test_a_table_without_test_rows_or_rows() -> None:
    assert "no row is of part test" in refusal(made().assign(part="validation"))
    assert "has no rows" in refusal(made().head(0))


def test_a_table_that_is_not_there_or_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        predictions.read_predictions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_bytes(b"\x89PNG\r\n\x00\xff")
    with pytest.raises(DataError, match="cannot be read as text"):
        predictions.read_predictions(tmp_path / "p.csv")


def test_the_order_of_columns_is_of_no_account() -> None:
    table = made()
    swapped = table[[*table.columns[:-2], "p_malignant", "p_benign"]]
    assert predictions.class_names(swapped) == names.LABELS
    np.testing.assert_array_equal(predictions.probabilities(swapped)[:, 1], table["p_malignant"])


def test_half_is_malignant() -> None:
    table = made().assign(p_benign=0.5, p_malignant=0.5)
    assert (predictions.predicted_labels(table) == 1).all()


def test_disjoint_folds_are_pooled_and_repetitions_are_not() -> None:
    table = made()
    in_folds = table.assign(fold=np.arange(60) % 5)
    assert [len(piece) for piece in predictions.replicates(in_folds)] == [60]
    twice = pd.concat([in_folds, made(fold=1).head(20)])
    assert len(predictions.replicates(twice)) == 5
    assert len(predictions.replicates(pd.concat([table, made(seed=1)]))) == 2
