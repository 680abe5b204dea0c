"""Thresholds for a target sensitivity, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from test_calibration import with_validation
from test_predictions import made

from breakhis_cls.evaluation import calibration, predictions, thresholds


def test_a_threshold_promises_what_so_many_cases_can() -> None:
    """Of 30 cases without a miss, Clopper and Pearson's one-sided bound is 0.05 ** (1 / 30) = 0.905."""
    case, scores = np.arange(30), np.linspace(0.1, 0.9, 30)
    assert thresholds.threshold_for(scores, case, 0.9) == (0.1, pytest.approx(0.05 ** (1 / 30)))
    lowest, promised = thresholds.threshold_for(scores, case, 0.95)  # cannot be promised
    assert (lowest, promised) == (0.1, pytest.approx(0.05 ** (1 / 30)))
    # One case of 30 missed: Student's t on the logit of 29 / 30, whose variance is 1 / ((n - 1) r (1 - r)).
    bound = special.expit(np.log(29) - stats.t.ppf(0.95, 29) * 30 / 29)
    assert thresholds.threshold_for(scores, case, 0.83) == (scores[1], pytest.approx(bound))
    assert thresholds.threshold_for(scores[:1], case[:1], 0.5) == (0.1, pytest.approx(0.05))


def test_the_target_is_reached_in_95_of_100_draws() -> None:
    """Scores that are alike within a case: the share of malignant images at or above the threshold is known."""
    rng, reached = np.random.default_rng(0), {"bound": [], "share": []}
    for _ in range(200):
        case = np.repeat(np.arange(40), rng.integers(9, 85, 40))
        scores = rng.normal(0, 0.8, 40)[case] + rng.normal(0, 0.6, len(case))  # together of spread 1
        chosen, _ = thresholds.threshold_for(scores, case, 0.9)
        for name, threshold in (("bound", chosen), ("share", np.quantile(scores, 0.1))):
            reached[name].append(stats.norm.sf(threshold) >= 0.9)
    assert np.mean(reached["bound"]) >= 0.95 and np.mean(reached["share"]) < 0.6


def test_thresholds_come_from_validation_and_are_applied_unchanged() -> None:
    table = with_validation()
    chosen = thresholds.choose_thresholds(table)
    assert [entry["sensitivity"] for entry in chosen] == [0.85, 0.9, 0.95]
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
    other = folds[(folds["fold"] == 1) & (folds["label"] == "malignant")]
    expected = thresholds.threshold_for(other["p_malignant"].to_numpy(), other["case"].to_numpy(), 0.85)
    assert (chosen[0]["threshold"], chosen[0]["promised"]) == expected
    assert thresholds.choose_thresholds(table) == []  # one fold, no validation: nothing to choose on


def test_thresholds_from_other_folds_exclude_cases_of_the_fold_itself() -> None:
    """Published folds overlap: a case that this fold tests must not choose its threshold."""
    table = made()
    shared = table[table["case"] == "2980"].assign(fold=1, p_malignant=0.001, p_benign=0.999)
    folds = table.assign(fold=(table["case"] == "20629").astype(int))
    chosen = thresholds.choose_thresholds(pd.concat([folds, shared]))
    others = folds[(folds["fold"] == 1) & (folds["label"] == "malignant")]["p_malignant"]
    assert (chosen[0]["fold"], chosen[0]["n_malignant_cases"]) == (0, 1)
    assert chosen[0]["threshold"] == others.min() > 0.001


def test_a_model_without_test_rows_has_no_threshold() -> None:
    table = with_validation()
    elsewhere = table.assign(fold=np.where(table["part"] == "validation", 1, 0))
    assert thresholds.choose_thresholds(elsewhere) == []
    assert calibration.compare_calibration(elsewhere) == {"temperatures": [], "refused": []}
