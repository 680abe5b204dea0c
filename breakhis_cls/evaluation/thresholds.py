"""Thresholds for a wanted sensitivity, chosen before the test is looked at; and which cases to leave to a
human."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import case_statistics, metrics, predictions
from .calibration import MODEL

TARGET_SENSITIVITIES = (0.95, 0.98, 0.99)


def threshold_for(scores: np.ndarray, sensitivity: float) -> float:
    """The highest threshold at which at least that share of malignant images' scores (n,) reaches it."""
    ordered = np.sort(scores)[::-1]
    return float(ordered[int(np.ceil(sensitivity * len(ordered) - 1e-9)) - 1])


def choose_thresholds(table: pd.DataFrame, wanted: tuple[float, ...] = TARGET_SENSITIVITIES) -> list[dict[str, Any]]:
    """thresholds.json: for each model (fold and seed) and wanted sensitivity, the threshold and what it was
    chosen on.

    Chosen on the model's validation rows; where those hold no malignant image, on the test rows of the other
    folds of the same seed (out of fold); where there are none either, the model is left out. Binary task
    only.
    """
    entries = []
    for (fold, seed), rows in table.groupby(MODEL, sort=True):
        part, source = _source(table, rows, int(fold), int(seed))
        malignant = source[source["label"] == "malignant"]
        if malignant.empty or not (rows["part"] == "test").any():
            continue
        about = {"fold": int(fold), "seed": int(seed), "chosen_on": part}
        about |= {"n_malignant_images": len(malignant), "n_malignant_cases": int(malignant["case"].nunique())}
        scores = malignant["p_malignant"].to_numpy()
        entries += [about | {"sensitivity": want, "threshold": threshold_for(scores, want)} for want in wanted]
    return entries


def _source(table: pd.DataFrame, rows: pd.DataFrame, fold: int, seed: int) -> tuple[str, pd.DataFrame]:
    validation = predictions.select_part(rows, "validation")
    if (validation["label"] == "malignant").any():
        return "validation", validation
    others = table[(table["seed"] == seed) & (table["fold"] != fold) & (table["part"] == "test")]
    return "test rows of the other folds", others[~others["case"].isin(rows["case"])]


def apply_thresholds(table: pd.DataFrame, thresholds: list[dict[str, Any]], sensitivity: float) -> pd.DataFrame:
    """Test rows whose p_malignant is 1 where the model's threshold is reached and else 0.

    Rows of models that have no threshold are left out.
    """
    test = predictions.select_part(table, "test")
    known = pd.DataFrame(thresholds)
    known = known.loc[known["sensitivity"] == sensitivity, [*MODEL, "threshold"]]
    joined = test.merge(known, on=MODEL)
    called = (joined["p_malignant"] >= joined["threshold"]).astype(float)
    return joined.assign(p_malignant=called, p_benign=1 - called).drop(columns="threshold")


def operating_points(
    table: pd.DataFrame, thresholds: list[dict[str, Any]], n_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """For each wanted sensitivity: the sensitivity and specificity that the test really shows,
    with intervals."""
    rows = []
    for want in sorted({entry["sensitivity"] for entry in thresholds}):
        used = [entry["threshold"] for entry in thresholds if entry["sensitivity"] == want]
        answers = apply_thresholds(table, thresholds, want)
        found = metrics.compute_stratum(answers, f"at-{want}", n_resamples, seed, only=("sensitivity", "specificity"))
        rows.append({"wanted": want, "lowest_threshold": min(used), "highest_threshold": max(used), **found})
    return rows


def risk_coverage_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Cases referred to a human, the least certain first, and how the rest fares: referred (share), n_kept,
    accuracy.

    A case's certainty is the top of its mean probabilities (El-Yaniv and Wiener 2010). Rows run from none
    referred to all but one. Several seeds or repeated folds are averaged before.
    """
    columns = [f"p_{name}" for name in predictions.class_names(table)]
    once = table.groupby(["file", "slide", "case", "label", "subtype"], as_index=False)[columns].mean()
    group = "case" if predictions.is_binary(table) else "slide"
    voted = case_statistics.vote_by(once, group)
    certainty = voted[columns].max(axis=1).to_numpy()
    right = voted["correct"].to_numpy(float)[np.argsort(-certainty, kind="stable")]
    kept = np.arange(len(right), 0, -1)
    accuracy = (np.cumsum(right) / np.arange(1, len(right) + 1))[::-1]
    return pd.DataFrame({"referred": 1 - kept / len(right), "n_kept": kept, "accuracy": accuracy})
