"""Reliability curves, and a temperature that only validation rows choose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from scipy import special
from sklearn.linear_model import LogisticRegression
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import bootstrap, calibration, metrics, predictions
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


def calibrated(rng: np.random.Generator, n_cases: int = 70, sharpness: float = 1) -> pd.DataFrame:
    """A perfectly calibrated model, made `sharpness` times as extreme; images of a case share one uniform number."""
    case = np.repeat(np.arange(n_cases), rng.integers(9, 60, n_cases))
    logit = rng.normal(0.9, 2, n_cases)[case] + rng.normal(0, 0.5, len(case))
    malignant = rng.random(n_cases)[case] < special.expit(logit)
    p, name = special.expit(sharpness * logit), pd.Series(case).astype(str)
    label = np.where(malignant, *LABELS[::-1])
    return pd.DataFrame({
        "file": np.arange(len(case)).astype(str), "slide": name, "case": name, "fold": 0, "part": "test", "seed": 0,
        "label": label, "subtype": "", "magnification": 200, "p_benign": 1 - p, "p_malignant": p,
    })  # fmt: skip


def test_a_calibrated_model_is_not_called_miscalibrated_and_an_overconfident_one_is() -> None:
    """The issue's must-show: 95 % intervals miss the perfect value in about one of twenty samples."""
    rng, missed = np.random.default_rng(1), {"in_the_large": 0, "slope": 0}
    for _ in range(40):
        for name, line in calibration.calibration_line(calibrated(rng)).items():
            missed[name] += not line["low"] <= line["perfect"] <= line["high"]
    assert max(missed.values()) <= 4  # 40 draws of 0.05: above 4 in one of twenty
    n_found = 0
    for _ in range(10):
        slope = calibration.calibration_line(calibrated(rng, sharpness=2))["slope"]
        n_found += slope["high"] < 1
        assert slope["value"] < 0.8
    assert n_found >= 8


def test_the_line_is_that_of_a_logistic_regression() -> None:
    table = calibrated(np.random.default_rng(3))
    x = special.logit(table["p_malignant"].to_numpy())
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], table["label"] == "malignant")
    found = calibration.calibration_line(table)
    assert found["slope"]["value"] == pytest.approx(fitted.coef_.item(), rel=1e-4)
    moved = special.expit(x + found["in_the_large"]["value"])
    assert moved.mean() == pytest.approx((table["label"] == "malignant").mean(), abs=1e-6)


def test_a_line_of_few_cases_or_separated_classes_is_not_given() -> None:
    few = calibrated(np.random.default_rng(0), n_cases=6)
    assert few.groupby("label")["case"].nunique().min() < 5
    assert calibration.calibration_line(few)["slope"]["value"] is None
    apart = calibrated(np.random.default_rng(3))
    p = np.where(apart["label"] == "malignant", 0.9, 0.1)
    assert calibration.calibration_line(apart.assign(p_malignant=p, p_benign=1 - p))["slope"]["value"] is None


def test_the_noise_floor_is_the_ece_of_calibrated_models() -> None:
    tables = [calibrated(np.random.default_rng(seed), 40) for seed in range(30)]
    ece = []
    for table in tables:
        statistics, cases = metrics.compute_statistics(table, ["ece"])
        ece.append(bootstrap.statistic_value(statistics["ece"], len(cases)))
    floors = pd.DataFrame([calibration.noise_floor(table) for table in tables])
    assert np.mean(ece) == pytest.approx(floors["mean"].mean(), rel=0.1)
    assert 0 <= (ece > floors["high"]).sum() <= 4
    # Images of one case are no independent evidence: with as many images, more cases have a lower floor.
    apart = tables[0].assign(case=tables[0]["file"])
    assert calibration.noise_floor(apart)["mean"] < 0.5 * floors["mean"][0]


def test_the_smooth_curve_of_a_calibrated_model_is_the_diagonal() -> None:
    curve = calibration.smooth_curve(calibrated(np.random.default_rng(5), 200))
    assert curve["observed"].to_numpy() == pytest.approx(curve["predicted"].to_numpy(), abs=0.15)
    assert ((curve["low"] <= curve["predicted"]) & (curve["predicted"] <= curve["high"])).mean() > 0.8
    for table in (made(), subtypes(), made().assign(p_malignant=0.3, p_benign=0.7)):  # few, top probability, constant
        few = calibration.smooth_curve(table)
        assert few.notna().all(axis=None) and ((few["low"] <= few["high"]) & few["observed"].between(0, 1)).all()
