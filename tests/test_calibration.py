"""Reliability curves, and a temperature that only validation rows choose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import calibration, predictions
from breakhis_cls.names import LABELS


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


def test_the_fitted_temperature_undoes_a_known_one() -> None:
    table = made()
    found, refused = calibration.fit_temperature(table, LABELS)
    assert calibration.fit_temperature(sharpened(table, 3), LABELS)[0] == pytest.approx(3 * found, rel=1e-3)
    assert not refused
    # Every case weighs the same, however many images it has.
    weights = 1 / table.groupby("case")["file"].transform("size")
    losses = [
        sk.log_loss(predictions.true_labels(table), scaled["p_malignant"], sample_weight=weights)
        for scaled in (calibration.apply_temperature(table, found * factor) for factor in (1, 0.99, 1.01))
    ]
    assert losses[0] == min(losses)


@pytest.mark.parametrize("table", [made(), subtypes()])
def test_temperature_keeps_probabilities_and_predicted_labels(table: pd.DataFrame) -> None:
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
    first, again = (calibration.compare_calibration(rows) for rows in (table, flipped))
    assert first["temperatures"] == again["temperatures"] and len(first["temperatures"]) == 1
    assert calibration.compare_calibration(made()) == {"temperatures": [], "refused": []}


def few_benign(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["part"] == "test") | ~table["case"].isin(["v14134", "v9133", "v22704", "v23222", "v13200"])]


def separated(table: pd.DataFrame) -> pd.DataFrame:
    p = np.where(table["label"] == "malignant", 0.45, 0.2) + np.linspace(0, 0.1, len(table))
    return table.assign(p_malignant=p, p_benign=1 - p)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (few_benign, "validation has 2 benign cases; at least 3 of each class are needed"),
        (lambda table: table[table["label"] == "malignant"], "all images are malignant"),
        (separated, "validation separates the classes perfectly"),
        (lambda table: sharpened(table, 1e-3), "the fit ends at a bound of the search, 0.05"),
    ],
)
def test_a_temperature_that_validation_cannot_carry_is_refused(change, expected: str) -> None:
    found = calibration.compare_calibration(change(with_validation()))
    assert found["temperatures"] == [] and found["refused"][0]["reason"].startswith(expected)
    assert "with_temperature" not in found


def test_reliability_bins_hold_all_images_and_bands_hold_the_share() -> None:
    curve = calibration.reliability_curve(made())
    assert curve["n_images"].sum() == 60 and len(curve) == 10 and curve["mean_predicted"].is_monotonic_increasing
    few = curve["n_cases"] < 5
    assert few.any() and (curve["low"].isna() == few).all() and (curve["high"].isna() == few).all()
    curve = curve[~few]
    assert (curve["low"] <= curve["observed_frequency"]).all() and (curve["observed_frequency"] <= curve["high"]).all()
    assert (curve["high"] - curve["low"] >= 0.999 - 0.025 ** (1 / curve["n_cases"])).all()  # also where all cases agree
