"""Do stated probabilities come true? Reliability, Brier's parts, and a temperature fitted on validation
alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from . import bootstrap, case_statistics, metrics, predictions

N_SHOWN = 10  # bins of a diagram; the number ECE has its own 15
BOUNDS = (0.05, 20.0)  # of the temperature
MODEL = ["fold", "seed"]  # each pair is a model of its own, with a validation of its own


def reliability_curve(
    table: pd.DataFrame, of_answer: bool = False, n_resamples: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """One row for each bin of equal mass: stated (mean probability), came_true (share), low, high, n_images,
    n_cases.

    Two classes: p_malignant and malignant; more, or `of_answer`: the top probability and whether it is right.
    The band is the 95 % percentile interval of came_true over resampled cases.
    """
    case, n_cases = _cases(table)
    scores, truth = predictions.probabilities(table), predictions.true_labels(table)
    stated, came_true = case_statistics.predicted_and_observed(scores, truth)
    if of_answer:
        stated, came_true = scores.max(axis=1), (scores.argmax(axis=1) == truth).astype(float)
    bins = case_statistics.equal_mass_bins(stated, N_SHOWN)
    weights = bootstrap.case_weights(n_cases, n_resamples, bootstrap.named_seed("reliability", seed))
    rows = []
    for at in np.unique(bins):
        inside = bins == at
        hits = np.bincount(case[inside], came_true[inside], n_cases)
        drawn = case_statistics.ratio_statistic(hits, np.bincount(case[inside], minlength=n_cases).astype(float))(
            weights
        )
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        n_inside = len(np.unique(case[inside]))
        rows.append((stated[inside].mean(), came_true[inside].mean(), low, high, inside.sum(), n_inside))
    return pd.DataFrame(rows, columns=["stated", "came_true", "low", "high", "n_images", "n_cases"])


def brier_parts(table: pd.DataFrame) -> dict[str, float]:
    """Murphy's (1973) parts of the Brier score over 15 bins of equal mass.

    brier = miscalibration - resolution + uncertainty + within_bins. The last is what binning hides. For more
    than two classes the score is of the top probability.
    """
    stated, came_true = case_statistics.predicted_and_observed(
        predictions.probabilities(table), predictions.true_labels(table)
    )
    bins = pd.DataFrame({"stated": stated, "true": came_true, "bin": case_statistics.equal_mass_bins(stated)})
    means = bins.groupby("bin")[["stated", "true"]].transform("mean")
    base = came_true.mean()
    parts = {
        "brier": float(np.mean((stated - came_true) ** 2)),
        "miscalibration": float(np.mean((means["stated"] - means["true"]) ** 2)),
        "resolution": float(np.mean((means["true"] - base) ** 2)),
        "uncertainty": float(base * (1 - base)),
    }
    rest = parts["brier"] - parts["miscalibration"] + parts["resolution"] - parts["uncertainty"]
    return parts | {"within_bins": rest}


def fit_temperature(validation: pd.DataFrame) -> float:
    """The T that minimises the log loss of softmax(log p / T) (Guo et al. 2017);
    in [0.05, 20]. Above 1: overconfident."""
    logits, truth = _logits(validation), predictions.true_labels(validation)

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float(np.mean(_log_sum_exp(scaled) - scaled[np.arange(len(truth)), truth]))

    found = optimize.minimize_scalar(loss, bounds=np.log(BOUNDS), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The table with softmax(log p / T) for probabilities;
    the order of images does not change for two classes."""
    logits = _logits(table) / temperature
    probabilities = np.exp(logits - _log_sum_exp(logits)[:, None])
    columns = [f"p_{name}" for name in predictions.class_names(table)]
    return table.assign(**{name: probabilities[:, at] for at, name in enumerate(columns)})


def calibrate_test_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Test rows with each model's temperature from its own validation rows, and those temperatures.

    A model (fold and seed) without validation rows, or with one class there, keeps its raw probabilities and
    is not listed.
    """
    pieces, fitted = [], []
    for (fold, seed), rows in table.groupby(MODEL, sort=True):
        test, validation = predictions.select_part(rows, "test"), predictions.select_part(rows, "validation")
        if len(test) and len(np.unique(predictions.true_labels(validation))) > 1:
            found = fit_temperature(validation)
            test = apply_temperature(test, found)
            fitted.append({"fold": int(fold), "seed": int(seed), "temperature": found, "n_images": len(validation)})
        pieces.append(test)
    return pd.concat(pieces, ignore_index=True), fitted


def compare_calibration(table: pd.DataFrame, seed: int = 0) -> dict[str, Any] | None:
    """ECE, Brier and log loss of the test rows, raw and with temperature;
    None where no temperature could be fitted."""
    after, fitted = calibrate_test_rows(table)
    if not fitted:
        return None
    names, raw = ("ece", "brier", "log_loss"), predictions.select_part(table, "test")
    found = {
        name: metrics.compute_stratum(rows, "calibration", bootstrap.N_RESAMPLES // 5, seed, only=names)
        for name, rows in (("raw", raw), ("with_temperature", after))
    }
    parts = {"raw": brier_parts(raw), "with_temperature": brier_parts(after)}
    return {"temperatures": fitted, **found, "brier_parts": parts}


def _cases(table: pd.DataFrame) -> tuple[np.ndarray, int]:
    codes, cases = pd.factorize(table["case"], sort=True)
    return codes, len(cases)


def _logits(table: pd.DataFrame) -> np.ndarray:
    return np.log(np.clip(predictions.probabilities(table), 1e-12, 1))


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
