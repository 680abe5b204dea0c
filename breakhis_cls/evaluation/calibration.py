"""Do predicted probabilities match observed frequencies? Reliability curves, and a temperature fitted on validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from . import bootstrap, case_statistics, metrics, predictions

N_CURVE_BINS = 10  # of a reliability curve; ECE has its own 15
TEMPERATURES = (0.05, 20.0)  # searched
MODEL = ["fold", "seed"]  # each pair is a model of its own, with its own validation rows


def reliability_curve(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each bin of equal mass: stated (mean predicted probability), came_true (observed frequency), low, high,
    n_images, n_cases.

    Of p_malignant for two classes; for more of the top probability and whether that class is correct. low and high are
    the 95 % percentile interval of the observed frequency over 2,000 samples of cases.
    """
    scores, true = predictions.probabilities(table), predictions.true_labels(table)
    probability, observed = case_statistics.predicted_and_observed(scores, true)
    case, cases = pd.factorize(table["case"], sort=True)
    weights = bootstrap.case_weights(len(cases), 2_000, bootstrap.named_seed("reliability", 0))
    bins = case_statistics.equal_mass_bins(probability, N_CURVE_BINS)
    rows = []
    for inside in (bins == at for at in np.unique(bins)):
        drawn = case_statistics.mean_over_rows(observed[inside], case[inside], len(cases))(weights)
        low, high = np.nanquantile(drawn, [bootstrap.TAIL, 1 - bootstrap.TAIL])
        n_cases = len(np.unique(case[inside]))
        rows.append((probability[inside].mean(), observed[inside].mean(), low, high, inside.sum(), n_cases))
    return pd.DataFrame(rows, columns=["stated", "came_true", "low", "high", "n_images", "n_cases"])


def fit_temperature(validation: pd.DataFrame) -> float:
    """The T in [0.05, 20] of lowest log loss of softmax(log p / T) (Guo et al. 2017). Above 1: overconfident."""
    logits, true = _logits(validation), predictions.true_labels(validation)

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float(np.mean(special.logsumexp(scaled, axis=1) - scaled[np.arange(len(true)), true]))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def apply_temperature(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The table with softmax(log p / T) as probabilities; the ranking of images stays, for two classes."""
    scaled = special.softmax(_logits(table) / temperature, axis=1)
    return table.assign(**{f"p_{name}": scaled[:, at] for at, name in enumerate(predictions.class_names(table))})


def _logits(table: pd.DataFrame) -> np.ndarray:
    return np.log(np.clip(predictions.probabilities(table), 1e-12, 1))  # log 0 has no multiple


def compare_calibration(table: pd.DataFrame, seed: int = 0) -> dict[str, Any] | None:
    """calibration.json: ECE, Brier score and log loss of the test rows, raw and with each model's temperature.

    A model (fold and seed) is calibrated on its own validation rows; without any, or with one class there, it keeps its
    raw probabilities and is not listed under `temperatures`. None where no model could be calibrated.
    """
    pieces, temperatures = [], []
    for (fold, model_seed), rows in table.groupby(MODEL, sort=True):
        test, validation = predictions.select_part(rows, "test"), predictions.select_part(rows, "validation")
        # Rows of one class alone say nothing about calibration.
        if len(test) and len(np.unique(predictions.true_labels(validation))) > 1:
            fitted = fit_temperature(validation)
            test = apply_temperature(test, fitted)
            model = {"fold": int(fold), "seed": int(model_seed)}
            temperatures.append(model | {"temperature": fitted, "n_images": len(validation)})
        pieces.append(test)
    if not temperatures:
        return None
    # The metrics that a temperature changes: it keeps the order of two classes' images, and so ROC AUC.
    changed, n_resamples = ("ece", "brier", "log_loss"), bootstrap.N_RESAMPLES // 5
    compared = {"raw": predictions.select_part(table, "test"), "with_temperature": pd.concat(pieces, ignore_index=True)}
    return {"temperatures": temperatures} | {
        name: metrics.compute_stratum(rows, "calibration", n_resamples, seed, changed)
        for name, rows in compared.items()
    }
