"""Reliability curves, and a temperature that only validation rows choose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import calibration, predictions


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
    found = calibration.fit_temperature(table)
    assert calibration.fit_temperature(sharpened(table, 3)) == pytest.approx(3 * found, rel=1e-3)
    best = calibration.apply_temperature(table, found)
    losses = [
        sk.log_loss(predictions.true_labels(table), calibration.apply_temperature(table, found * f)["p_malignant"])
        for f in (0.9, 1.1)
    ]
    assert sk.log_loss(predictions.true_labels(table), best["p_malignant"]) < min(losses)


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
    assert first and again and first["temperatures"] == again["temperatures"] and len(first["temperatures"]) == 1
    assert calibration.compare_calibration(made()) is None


def test_reliability_bins_hold_all_images_and_bands_hold_the_share() -> None:
    curve = calibration.reliability_curve(made())
    assert curve["n_images"].sum() == 60 and len(curve) == 10
    assert (curve["low"] <= curve["came_true"]).all() and (curve["came_true"] <= curve["high"]).all()
    assert curve["stated"].is_monotonic_increasing
