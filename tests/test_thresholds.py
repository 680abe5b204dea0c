"""Thresholds for a target sensitivity, and the referral curve, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_calibration import with_validation
from test_predictions import made

from breakhis_cls.evaluation import calibration, predictions, thresholds


def test_the_threshold_is_the_highest_that_reaches_the_target() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    assert thresholds.threshold_for(scores, 0.95) == 0.05  # nine of ten are too few
    assert thresholds.threshold_for(scores, 0.9) == 0.1
    assert thresholds.threshold_for(np.linspace(0, 1, 101), 0.95) == pytest.approx(0.05)


def test_thresholds_come_from_validation_and_are_applied_unchanged() -> None:
    table = with_validation()
    chosen = thresholds.choose_thresholds(table)
    assert [entry["sensitivity"] for entry in chosen] == [0.95, 0.98, 0.99]
    test = predictions.select_part(table, "test")
    row = thresholds.operating_points(table, chosen, 200, 0)[0]
    malignant = test[test["label"] == "malignant"]["p_malignant"]
    assert row["sensitivity"]["value"] == pytest.approx((malignant >= chosen[0]["threshold"]).mean())
    benign = test[test["label"] == "benign"]["p_malignant"]
    assert row["specificity"]["value"] == pytest.approx((benign < chosen[0]["threshold"]).mean())


def test_without_validation_rows_thresholds_come_from_the_other_folds() -> None:
    table = made()
    folds = table.assign(fold=pd.factorize(table["case"])[0] % 2)
    chosen = thresholds.choose_thresholds(folds)
    assert {entry["chosen_on"] for entry in chosen} == {"test rows of the other folds"}
    other = folds[(folds["fold"] == 1) & (folds["label"] == "malignant")]["p_malignant"].to_numpy()
    assert chosen[0]["threshold"] == thresholds.threshold_for(other, 0.95)
    assert thresholds.choose_thresholds(table) == []  # one fold, no validation: nothing to choose on


def test_thresholds_from_other_folds_exclude_cases_of_the_fold_itself() -> None:
    """Published folds overlap: a case that this fold tests must not choose its threshold."""
    table = made()
    shared = table[table["case"] == "2980"].assign(fold=1, p_malignant=0.001, p_benign=0.999)
    folds = table.assign(fold=(table["case"] == "20629").astype(int))
    chosen = thresholds.choose_thresholds(pd.concat([folds, shared]))
    others = folds[(folds["fold"] == 1) & (folds["label"] == "malignant")]["p_malignant"].to_numpy()
    assert (chosen[0]["fold"], chosen[0]["n_malignant_cases"]) == (0, 1)
    assert chosen[0]["threshold"] == thresholds.threshold_for(others, 0.95) > 0.001


def test_a_model_without_test_rows_has_no_threshold() -> None:
    table = with_validation()
    elsewhere = table.assign(fold=np.where(table["part"] == "validation", 1, 0))
    assert thresholds.choose_thresholds(elsewhere) == [] and calibration.compare_calibration(elsewhere) is None


def test_referral_curve_by_hand() -> None:
    table = made(magnifications=(40,)).drop_duplicates("case").head(4).copy()
    table["p_malignant"] = [0.05, 0.6, 0.4, 0.2]  # all benign: certain .95, .6 (wrong), .6, .8
    table["p_benign"] = 1 - table["p_malignant"]
    curve = thresholds.risk_coverage_curve(table)
    assert curve["n_kept"].tolist() == [4, 3, 2, 1]
    assert curve["accuracy"].iloc[[0, 2, 3]].tolist() == [0.75, 1, 1]
