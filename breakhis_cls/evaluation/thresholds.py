"""Thresholds for a target sensitivity, chosen without the test rows they are applied to; and which cases to refer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from . import metrics, predictions
from .calibration import MODEL

TARGET_SENSITIVITIES = (0.85, 0.90, 0.95)  # need 19, 29 and 59 malignant cases; BreakHis has 54
ERROR = 0.05  # how often a threshold may miss its target


def threshold_for(scores: np.ndarray, case: np.ndarray, sensitivity: float) -> tuple[float, float]:
    """The highest threshold that promises the sensitivity, of malignant images' scores (n,) and cases (n,), and the
    sensitivity that it promises; the lowest score where so few cases promise less.

    A promise is a one-sided 95 % lower bound over cases: Student's t on the logit of the share of images at or above
    the threshold, and below Clopper and Pearson's bound, since a case that fails may not be in the sample: n cases
    promise at most 0.05 ** (1 / n).
    """
    thresholds, at = np.unique(scores, return_inverse=True)
    index, cases = pd.factorize(case)
    counts = np.zeros((len(cases), len(thresholds)))
    np.add.at(counts, (index, at), 1)
    detected = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # (n_cases, n_thresholds) images at or above each threshold
    share, n = detected.sum(axis=0) / len(scores), len(cases)
    promised = share * ERROR ** (1 / n)
    if n > 1:
        # The variance of a ratio of sums over cases (Cochran 1977, eq. 2.39).
        spread = ((detected - share * detected[:, :1]) ** 2).sum(axis=0)
        error = np.sqrt(n / (n - 1) * spread) / len(scores) / np.where(share < 1, share * (1 - share), 1)
        bound = special.expit(special.logit(share) - stats.t.ppf(1 - ERROR, n - 1) * error)
        promised = np.minimum(promised, bound)
    # The bound is not quite monotone: from below, up to the first threshold that does not keep the promise.
    chosen = max(int(np.argmin(np.append(promised >= sensitivity, False))) - 1, 0)
    return float(thresholds[chosen]), float(promised[chosen])


def choose_thresholds(table: pd.DataFrame) -> list[dict[str, Any]]:
    """thresholds.json: for each model (fold and seed) and target sensitivity, the threshold, the sensitivity that it
    promises, which is below the target where cases are few, and what it was chosen on.

    Chosen on the model's validation rows; where those hold no malignant image, on the test rows of the other folds of
    the same seed (out of fold); where there are none either, the model is left out. Binary task only.
    """
    entries = []
    for (fold, seed), rows in table.groupby(MODEL, sort=True):
        if not (rows["part"] == "test").any():
            continue
        # A test label is read once: never the rows that the threshold is applied to.
        chosen_on, source = "validation", predictions.select_part(rows, "validation")
        if not (source["label"] == "malignant").any():
            others = table[(table["seed"] == seed) & (table["fold"] != fold) & (table["part"] == "test")]
            # Published folds overlap: a case of this fold's test rows must not choose its threshold.
            chosen_on, source = "test rows of the other folds", others[~others["case"].isin(rows["case"])]
        malignant = source[source["label"] == "malignant"]
        if malignant.empty:
            continue
        about = {"fold": int(fold), "seed": int(seed), "chosen_on": chosen_on}
        about |= {"n_malignant_images": len(malignant), "n_malignant_cases": int(malignant["case"].nunique())}
        scores, cases = malignant["p_malignant"].to_numpy(), malignant["case"].to_numpy()
        for goal in TARGET_SENSITIVITIES:
            threshold, promised = threshold_for(scores, cases, goal)
            entries.append(about | {"sensitivity": goal, "threshold": threshold, "promised": promised})
    return entries


def operating_points(
    table: pd.DataFrame, thresholds: list[dict[str, Any]], n_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """For each target sensitivity: the sensitivity and specificity of the test rows, with intervals."""
    points = []
    for goal in sorted({entry["sensitivity"] for entry in thresholds}):
        chosen = pd.DataFrame([entry for entry in thresholds if entry["sensitivity"] == goal])
        # The merge leaves rows of models without a threshold out; a probability of 0 or 1 stands for the decision.
        test = predictions.select_part(table, "test").merge(chosen[[*MODEL, "threshold"]], on=MODEL)
        malignant = (test["p_malignant"] >= test.pop("threshold")).astype(float)
        decided = test.assign(p_malignant=malignant, p_benign=1 - malignant)
        reached = metrics.compute_stratum(decided, f"at-{goal}", n_resamples, seed, ("sensitivity", "specificity"))
        used = {"lowest_threshold": chosen["threshold"].min(), "highest_threshold": chosen["threshold"].max()}
        points.append({"wanted": goal, "promised": chosen["promised"].min(), **used, **reached})
    return points
