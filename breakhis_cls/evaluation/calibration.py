"""Do predicted probabilities match observed frequencies? Slope, smooth curve, and a temperature from validation."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from . import bootstrap, case_statistics, metrics, predictions

N_CURVE, SPAN = 41, 0.75  # points of the smooth curve, and the share of images that each takes in
TEMPERATURES = (0.05, 20.0)  # searched
SMALLEST = 1e-12  # probability: log 0 has no multiple
MIN_CASES = 3  # of each class in validation: one benign case once took a log loss from 0.32 to 1.39
MODEL = ["fold", "seed"]  # each pair is a model of its own, with its own validation rows


def smooth_curve(table: pd.DataFrame) -> pd.DataFrame:
    """The observed frequency at each predicted probability: predicted, observed, low, high; 41 rows, all in [0, 1].
    Local linear regression (loess, degree 1, span 0.75: Van Calster et al. 2016) of the mean over replicates; low and
    high are the 95 % percentile interval over 1,000 samples of cases."""
    pieces, cases = case_statistics.score_images(table)
    weights = np.vstack([np.ones(len(cases)), bootstrap.case_weights(len(cases), 1_000, 0)])
    everything = np.concatenate([piece.predicted_and_observed()[0] for piece in pieces])
    grid = np.linspace(everything.min(), everything.max(), N_CURVE)
    curves = np.zeros((len(weights), N_CURVE))
    for piece in pieces:
        # --- sums of each case at each point, so that a resample is a matrix product ---
        predicted, observed = (column[:, None] for column in piece.predicted_and_observed())
        offset = predicted - grid
        kernel = np.clip(1 - np.abs(offset / np.maximum(np.quantile(np.abs(offset), SPAN, axis=0), 1e-3)) ** 3, 0, None)
        kernel **= 3  # tricube
        terms = kernel, kernel * offset, kernel * offset**2, kernel * observed, kernel * offset * observed
        s0, s1, s2, t0, t1 = (weights @ piece.sum_by_case(term) for term in terms)
        # --- the line through the neighbours, read at the point; their mean where they have one abscissa ---
        spread = s0 * s2 - s1**2
        line = case_statistics.divide(s2 * t0 - s1 * t1, np.where(spread > 1e-9 * s0**2, spread, 0))
        curves += np.clip(np.where(np.isnan(line), case_statistics.divide(t0, s0), line), 0, 1) / len(pieces)
    low, high = np.nanquantile(curves[1:], [bootstrap.TAIL, 1 - bootstrap.TAIL], axis=0)
    return pd.DataFrame({"predicted": grid, "observed": curves[0], "low": low, "high": high})


def noise_floor(table: pd.DataFrame) -> dict[str, float]:
    """ECE that a perfectly calibrated model with these probabilities and cases would show: mean and 95th percentile.
    Each image is of the class with its own predicted probability; images of one case are drawn together, by one uniform
    number, as they share one truth. 500 draws."""
    pieces, cases = case_statistics.score_images(table)
    uniform = np.random.default_rng(0).random((500, len(cases)))
    draws = []
    for piece in pieces:
        predicted, _ = piece.predicted_and_observed()
        gaps = ((uniform[:, piece.case] < predicted) - predicted) @ case_statistics.equal_mass_bins(predicted)
        draws.append(np.abs(gaps).sum(axis=1) / len(predicted))
    ece = np.mean(draws, axis=0)
    return {"mean": float(ece.mean()), "high": float(np.quantile(ece, bootstrap.LEVEL))}


def calibration_line(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Calibration in the large and slope of the log odds (Cox 1958), each with value, low and high over cases. In the
    large: what is added to the log odds so that the mean is right; 0 is perfect, below 0 predicted probabilities are
    too high. Slope: 1 is perfect, below 1 they are too extreme. Of p_malignant; for more than two classes of the top
    probability. None where there is no finite answer, or an outcome has fewer than five cases."""
    pieces, cases = case_statistics.score_images(table)
    groups, found = bootstrap.case_classes(table, cases), {}
    few = any(
        len(set(piece.case[piece.predicted_and_observed()[1] == value])) < bootstrap.MIN_CASES
        for piece in pieces
        for value in (0, 1)
    )
    for name, perfect in (("in_the_large", 0), ("slope", 1)):
        statistic = case_statistics.mean_statistic([logistic_line(piece, name == "slope") for piece in pieces])
        value = bootstrap.statistic_value(statistic, len(cases))
        found[name] = {"value": None, "low": None, "high": None}
        if not few and not np.isnan(value):
            error, freedom = bootstrap.jackknife_error(statistic, groups)
            reach = float(stats.t.ppf(1 - bootstrap.TAIL, freedom) * error)
            found[name] = {"value": value, "low": value - reach, "high": value + reach, "perfect": perfect}
    return found


def logistic_line(images: case_statistics.ScoredImages, with_slope: bool) -> case_statistics.Statistic:
    """The slope, or with slope 1 the intercept, of a logistic regression of the outcome on the predicted log odds."""
    predicted, observed = images.predicted_and_observed()
    x = special.logit(np.clip(predicted, 1e-6, 1 - 1e-6))  # a probability of 0 would decide the line alone
    columns = np.stack([np.ones_like(x), x], axis=1) if with_slope else np.ones((len(x), 1))

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = []
        for drawn in weights[:, images.case]:
            line, step = np.zeros(columns.shape[1]), np.ones(1)
            for _ in range(50):  # Newton's method
                p = special.expit(columns @ line + (0 if with_slope else x))
                hessian = (columns * (drawn * p * (1 - p))[:, None]).T @ columns
                try:
                    step = np.linalg.solve(hessian, columns.T @ (drawn * (observed - p)))
                except np.linalg.LinAlgError:  # separated classes: the line has no end
                    break
                line = line + np.clip(step, -2, 2)
                if np.abs(step).max() < 1e-8:
                    break
            values.append(line[-1] if np.abs(step).max() < 1e-6 else np.nan)
        return np.array(values)

    return statistic


def fit_temperature(validation: pd.DataFrame, classes: Collection[str]) -> tuple[float, str]:
    """The T in [0.05, 20] of lowest log loss of softmax(log p / T) (Guo et al. 2017), and why not to use it, or "".
    Above 1 the model is overconfident. Every case weighs the same: else one case of many images sets T, and log loss on
    test rises. `classes` are those that the temperature is for."""
    scores, true = predictions.probabilities(validation), predictions.true_labels(validation)
    names, logits = predictions.class_names(validation), np.log(np.clip(scores, SMALLEST, 1))

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
        scaled = special.log_softmax(logits / np.exp(log_t), axis=1)
        return float(np.average(-scaled[np.arange(len(true)), true], weights=weights))

    fitted = float(np.exp(optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))
    at_bound = np.isclose(fitted, TEMPERATURES, rtol=0.01).any()
    return fitted, f"the fit ends at a bound of the search, {fitted:.2f}" if at_bound else ""


def apply_temperature(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """The table with softmax(log p / T) as probabilities; the ranking of images stays, for two classes."""
    logits = np.log(np.clip(predictions.probabilities(table), SMALLEST, 1))
    scaled = special.softmax(logits / temperature, axis=1)
    return table.assign(**{f"p_{name}": scaled[:, at] for at, name in enumerate(predictions.class_names(table))})


def compare_calibration(table: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """calibration.json: ECE, Brier score and log loss of the test rows, raw and with each model's temperature. A model
    (fold and seed) is calibrated on its own validation rows. One that cannot be keeps its raw probabilities and is
    listed under `refused` with the reason. Without any `temperatures` there is nothing to compare."""
    pieces, temperatures, refused = [], [], []
    for (fold, model_seed), rows in table.groupby(MODEL, sort=True):
        test, validation = predictions.select_part(rows, "test"), predictions.select_part(rows, "validation")
        if len(test) and len(validation):
            present = [predictions.class_names(rows)[at] for at in np.unique(predictions.true_labels(rows))]
            fitted, reason = fit_temperature(validation, present)
            model = {"fold": int(fold), "seed": int(model_seed)}
            if reason:
                refused.append(model | {"reason": reason})
            else:
                test = apply_temperature(test, fitted)
                temperatures.append(model | {"temperature": fitted, "n_images": len(validation)})
        pieces.append(test)
    content: dict[str, Any] = {"temperatures": temperatures, "refused": refused}
    if temperatures:
        # The metrics that a temperature changes: it keeps the order of two classes' images, and so ROC AUC.
        changed, n_resamples = ("ece", "brier", "log_loss"), bootstrap.N_RESAMPLES // 5
        scaled = pd.concat(pieces, ignore_index=True)
        for name, rows in {"raw": predictions.select_part(table, "test"), "with_temperature": scaled}.items():
            content[name] = metrics.compute_stratum(rows, "calibration", n_resamples, seed, changed)
    return content
