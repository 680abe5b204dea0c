"""Do predicted probabilities match observed frequencies? Reliability curves, and a temperature fitted on validation."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from . import bootstrap, case_statistics, metrics, predictions

N_CURVE_BINS = 10  # of a reliability curve; ECE has its own 15
TEMPERATURES = (0.05, 20.0)  # searched
MIN_CASES = 3  # of each class in validation: one benign case once took a log loss from 0.32 to 1.39
MODEL = ["fold", "seed"]  # each pair is a model of its own, with its own validation rows


def reliability_curve(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each bin of equal mass: mean_predicted (probability), observed_frequency, low, high, n_images, n_cases.

    Of p_malignant for two classes; for more of the top probability and whether that class is correct. low and high are
    the 95 % percentile interval of the observed frequency over 2,000 samples of cases, and at least as wide as Clopper
    and Pearson's for a bin whose cases are all alike; NaN below five cases.
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
        share, n_cases = observed[inside].mean(), len(np.unique(case[inside]))
        seen = bootstrap.TAIL ** (1 / n_cases)
        low, high = min(low, share * seen), max(high, 1 - (1 - share) * seen)
        if n_cases < bootstrap.MIN_CASES:
            low = high = np.nan
        rows.append((probability[inside].mean(), share, low, high, inside.sum(), n_cases))
    return pd.DataFrame(rows, columns=["mean_predicted", "observed_frequency", "low", "high", "n_images", "n_cases"])


def fit_temperature(validation: pd.DataFrame, classes: Collection[str]) -> tuple[float, str]:
    """The T in [0.05, 20] of lowest log loss of softmax(log p / T) (Guo et al. 2017), and why not to use it, or "".

    Above 1 the model is overconfident. Every case weighs the same: else one case of many images sets T, and log loss on
    test rises. `classes` are those that the temperature is for.
    """
    scores, true = predictions.probabilities(validation), predictions.true_labels(validation)
    names, logits = predictions.class_names(validation), _logits(validation)

    # --- validation that says nothing about calibration ---
    n_cases = {name: validation.loc[true == names.index(name), "case"].nunique() for name in classes}
    rarest = min(n_cases, key=lambda name: n_cases[name])
    if len(n_cases) < 2:
        return 1.0, f"all images are {rarest}"
    if n_cases[rarest] < MIN_CASES:
        return 1.0, f"validation has {n_cases[rarest]} {rarest} cases; at least {MIN_CASES} of each class are needed"
    if all(scores[true == at, at].min() > scores[true != at, at].max() for at in np.unique(true)):
        return 1.0, "validation separates the classes perfectly, so that nothing limits the confidence"

    weights = 1 / validation.groupby("case")["file"].transform("size").to_numpy()

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        losses = special.logsumexp(scaled, axis=1) - scaled[np.arange(len(true)), true]
        return float(np.average(losses, weights=weights))

    fitted = float(np.exp(optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))
    at_bound = np.isclose(fitted, TEMPERATURES, rtol=0.01).any()
    return fitted, f"the fit ends at a bound of the search, {fitted:.2f}" if at_bound else ""


def apply_temperature(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The table with softmax(log p / T) as probabilities; the ranking of images stays, for two classes."""
    scaled = special.softmax(_logits(table) / temperature, axis=1)
    return table.assign(**{f"p_{name}": scaled[:, at] for at, name in enumerate(predictions.class_names(table))})


def _logits(table: pd.DataFrame) -> np.ndarray:
    return np.log(np.clip(predictions.probabilities(table), 1e-12, 1))  # log 0 has no multiple


def compare_calibration(table: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """calibration.json: ECE, Brier score and log loss of the test rows, raw and with each model's temperature.

    A model (fold and seed) is calibrated on its own validation rows. One that cannot be keeps its raw probabilities and
    is listed under `refused` with the reason. Without any `temperatures` there is nothing to compare.
    """
    pieces, temperatures, refused = [], [], []
    for (fold, model_seed), rows in table.groupby(MODEL, sort=True):
        test, validation = predictions.select_part(rows, "test"), predictions.select_part(rows, "validation")
        model = {"fold": int(fold), "seed": int(model_seed)}
        if len(test) and len(validation):
            present = [predictions.class_names(rows)[at] for at in np.unique(predictions.true_labels(rows))]
            fitted, reason = fit_temperature(validation, present)
            if reason:
                refused.append(model | {"reason": reason})
            else:
                test = apply_temperature(test, fitted)
                temperatures.append(model | {"temperature": fitted, "n_images": len(validation)})
        pieces.append(test)
    if not temperatures:
        return {"temperatures": [], "refused": refused}
    # The metrics that a temperature changes: it keeps the order of two classes' images, and so ROC AUC.
    changed, n_resamples = ("ece", "brier", "log_loss"), bootstrap.N_RESAMPLES // 5
    compared = {"raw": predictions.select_part(table, "test"), "with_temperature": pd.concat(pieces, ignore_index=True)}
    return {"temperatures": temperatures, "refused": refused} | {
        name: metrics.compute_stratum(rows, "calibration", n_resamples, seed, changed)
        for name, rows in compared.items()
    }
