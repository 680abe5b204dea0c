"""Calibration, operating points, referral and failures, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import calibration, error_analysis, predictions, thresholds


def with_validation(seed: int = 0) -> pd.DataFrame:
    """Test rows of one model and validation rows of other images, of other cases."""
    validation = made(seed=seed + 50).assign(part="validation", seed=seed)
    for column in ("file", "slide", "case"):
        validation[column] = "v" + validation[column].str.replace("SOB", "own")
    return pd.concat([made(seed=seed), validation], ignore_index=True)


def sharpened(table: pd.DataFrame, factor: float) -> pd.DataFrame:
    logit = np.log(table["p_malignant"] / table["p_benign"]) * factor
    p = 1 / (1 + np.exp(-logit))
    return table.assign(p_malignant=p, p_benign=1 - p)


def test_temperature_undoes_what_was_sharpened() -> None:
    table = made()
    found = calibration.fit_temperature(table)
    assert calibration.fit_temperature(sharpened(table, 3)) == pytest.approx(3 * found, rel=1e-3)
    best = calibration.apply_temperature(table, found)
    losses = [
        sk.log_loss(predictions.true_labels(table), calibration.apply_temperature(table, found * f)["p_malignant"])
        for f in (0.9, 1.1)
    ]
    assert sk.log_loss(predictions.true_labels(table), best["p_malignant"]) < min(losses)


@pytest.mark.parametrize("table", [made(), subtypes()])
def test_temperature_keeps_probabilities_and_answers(table: pd.DataFrame) -> None:
    scaled = calibration.apply_temperature(table, 2.5)
    assert predictions.probabilities(scaled).sum(axis=1) == pytest.approx(1)
    assert (predictions.predicted_labels(scaled) == predictions.predicted_labels(table)).all()
    same = predictions.probabilities(calibration.apply_temperature(table, 1.0))
    assert same == pytest.approx(predictions.probabilities(table))


def test_temperature_is_fitted_on_validation_alone() -> None:
    table = with_validation()
    flipped = table.assign(label=table["label"])
    test = flipped["part"] == "test"
    flipped.loc[test, ["p_malignant", "p_benign"]] = table.loc[test, ["p_benign", "p_malignant"]].to_numpy()
    first, again = (calibration.calibrate_test_rows(rows)[1] for rows in (table, flipped))
    assert first == again and len(first) == 1
    assert calibration.calibrate_test_rows(made())[1] == [] and calibration.compare_calibration(made()) is None


def test_brier_s_parts_add_up() -> None:
    parts = calibration.brier_parts(made())
    whole = parts["miscalibration"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert parts["brier"] == pytest.approx(whole)
    share = (made()["label"] == "malignant").mean()
    assert parts["uncertainty"] == pytest.approx(share * (1 - share))
    sure = made().assign(p_malignant=lambda rows: (rows["label"] == "malignant") * 1.0)
    parts = calibration.brier_parts(sure.assign(p_benign=1 - sure["p_malignant"]))
    assert parts["miscalibration"] == 0 and parts["resolution"] == pytest.approx(parts["uncertainty"])


def test_reliability_bins_hold_all_images_and_bands_hold_the_share() -> None:
    curve = calibration.reliability_curve(made())
    assert curve["n_images"].sum() == 60 and len(curve) == 10
    assert (curve["low"] <= curve["came_true"]).all() and (curve["came_true"] <= curve["high"]).all()
    assert curve["stated"].is_monotonic_increasing


def test_a_threshold_reaches_what_was_wanted_and_no_lower_one_is_needed() -> None:
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


def test_without_validation_the_other_folds_choose() -> None:
    table = made()
    folds = table.assign(fold=pd.factorize(table["case"])[0] % 2)
    chosen = thresholds.choose_thresholds(folds, wanted=(0.95,))
    assert {entry["chosen_on"] for entry in chosen} == {"test rows of the other folds"}
    other = folds[(folds["fold"] == 1) & (folds["label"] == "malignant")]["p_malignant"].to_numpy()
    assert chosen[0]["threshold"] == thresholds.threshold_for(other, 0.95)
    assert thresholds.choose_thresholds(table) == []  # one fold, no validation: nothing to choose on


def test_a_model_without_test_rows_has_no_say() -> None:
    table = with_validation()
    elsewhere = table.assign(fold=np.where(table["part"] == "validation", 1, 0))
    assert thresholds.choose_thresholds(elsewhere) == [] and calibration.compare_calibration(elsewhere) is None


def test_referral_by_hand() -> None:
    table = made(magnifications=(40,)).drop_duplicates("case").head(4).copy()
    table["p_malignant"] = [0.05, 0.6, 0.4, 0.2]  # all benign: certain .95, .6 (wrong), .6, .8
    table["p_benign"] = 1 - table["p_malignant"]
    curve = thresholds.risk_coverage_curve(table)
    assert curve["n_kept"].tolist() == [4, 3, 2, 1]
    assert curve["accuracy"].iloc[[0, 2, 3]].tolist() == [0.75, 1, 1]


def test_influence_is_what_leaving_a_case_out_does() -> None:
    table = made()
    rows = error_analysis.case_table(table)
    for case in rows["case"].head(3):
        rest = table[table["case"] != case]
        auc = [sk.roc_auc_score(predictions.true_labels(part), part["p_malignant"]) for part in (table, rest)]
        assert rows.set_index("case").loc[case, "influence_roc_auc"] == pytest.approx(auc[0] - auc[1])


def test_errors_by_stratum_add_up_to_all_errors() -> None:
    table = made()
    rows = error_analysis.errors_by_stratum(table)
    wrong = (predictions.predicted_labels(table) != predictions.true_labels(table)).sum()
    assert (rows["error"] * rows["n_images"]).sum() == pytest.approx(wrong)
    assert rows["subtype"].drop_duplicates().tolist() == ["A", "F", "PT", "TA", "DC", "LC", "MC", "PC"]


def test_agreement_by_hand() -> None:
    table = made(magnifications=(40, 100))
    table["p_malignant"] = np.where(table["magnification"] == 40, 0.9, np.where(table["case"] == "22549", 0.1, 0.9))
    table["p_benign"] = 1 - table["p_malignant"]
    rows = error_analysis.agreement(table)  # two of fifteen slides are of case 22549
    assert rows["n_slides"].tolist() == [15, 15] and rows["agree"].tolist() == [13 / 15, 13 / 15]
    assert error_analysis.agreement(made(magnifications=(200,))).empty


def test_kappa_agrees_with_scikit_learn() -> None:
    first, second = (pd.Series(np.random.default_rng(seed).integers(0, 2, 50)) for seed in (0, 1))
    assert error_analysis._kappa(first, second) == pytest.approx(sk.cohen_kappa_score(first, second))
