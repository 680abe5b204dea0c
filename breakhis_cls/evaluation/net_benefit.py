"""What a model's decisions are worth: net benefit over thresholds, and predictive values at a stated prevalence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from . import bootstrap, case_statistics

THRESHOLDS = np.arange(1, 100) / 100  # probabilities from which an image counts as malignant
PREVALENCES = (0.1, 0.3, 0.5)  # of malignant; BreakHis's own, 69 % of images, is enriched


def net_benefit_curve(
    table: pd.DataFrame, prevalence: float | None = None, thresholds: np.ndarray = THRESHOLDS
) -> pd.DataFrame:
    """A row for each threshold t: threshold, model, low, high, treat_all; net benefit in true positives per image.

    Sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * t / (1 - t) (Vickers and Elkin 2006), of the
    binary task; calling none malignant has 0. `prevalence` in (0, 1) is the table's own if None, also in each resample.
    low and high are the 95 % percentile interval over 2,000 samples of cases. The mean over replicates.
    """
    pieces, cases = case_statistics.score_images(table)
    weights = np.vstack([np.ones(len(cases)), bootstrap.case_weights(len(cases), 2_000, 0)])
    odds, curves, treat_all = thresholds / (1 - thresholds), [], []
    for images in pieces:
        member = (images.case[:, None] == np.arange(len(cases))).astype(float)  # (n, n_cases)
        is_positive, called = images.true == 1, images.scores[:, 1, None] >= thresholds
        positives, negatives = (weights @ member[rows].sum(axis=0) for rows in (is_positive, ~is_positive))
        true, false = (weights @ (member[rows].T @ called[rows]) for rows in (is_positive, ~is_positive))
        own = case_statistics.divide(positives, positives + negatives)
        share = (own if prevalence is None else np.full(len(weights), prevalence))[:, None]
        sensitivity = case_statistics.divide(true, positives[:, None])
        false_positive_rate = case_statistics.divide(false, negatives[:, None])
        curves.append(share * sensitivity - (1 - share) * false_positive_rate * odds)
        treat_all.append(share[0] - (1 - share[0]) * odds)
    curve = np.mean(curves, axis=0)
    low, high = np.nanquantile(curve[1:], [bootstrap.TAIL, 1 - bootstrap.TAIL], axis=0)
    columns = {"threshold": thresholds, "model": curve[0], "low": low, "high": high}
    return pd.DataFrame(columns | {"treat_all": np.mean(treat_all, axis=0)})


def predictive_values(pooled: dict[str, Any], prevalences: Iterable[float] = PREVALENCES) -> list[dict[str, Any]]:
    """For each prevalence of malignant in (0, 1): prevalence, and ppv and npv, each with value, low and high.

    By Bayes' theorem from sensitivity and specificity. Bounds come from both intervals' ends together, so they are at
    least as wide as 95 %; None where one of the two has none.
    """
    sensitivity, specificity, rows = pooled["sensitivity"], pooled["specificity"], []

    def at(key: str, prevalence: float) -> tuple[float | None, float | None]:
        if sensitivity[key] is None or specificity[key] is None:
            return None, None
        hits, rejects = sensitivity[key] * prevalence, specificity[key] * (1 - prevalence)
        called, passed = hits + 1 - prevalence - rejects, prevalence - hits + rejects
        return (hits / called if called > 0 else None), (rejects / passed if passed > 0 else None)

    for prevalence in prevalences:
        found = {key: at(key, prevalence) for key in ("value", "low", "high")}
        ppv, npv = ({key: pair[side] for key, pair in found.items()} for side in (0, 1))
        rows.append({"prevalence": prevalence, "ppv": ppv, "npv": npv})
    return rows
