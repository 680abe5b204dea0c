"""Thresholds for a target sensitivity, chosen without the test rows they are applied to; and which cases to refer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import case_statistics, metrics, predictions
from .calibration import MODEL

TARGET_SENSITIVITIES = (0.95, 0.98, 0.99)  # a missed cancer is the costly error


def threshold_for(scores: np.ndarray, sensitivity: float) -> float:
    """The highest threshold that at least that share of malignant images' scores (n,) reaches."""
    ordered = np.sort(scores)[::-1]
    # 1e-9, since a product may lie just above a whole number: 0.07 * 100 is 7.000000000000001.
    return float(ordered[int(np.ceil(sensitivity * len(ordered) - 1e-9)) - 1])


def choose_thresholds(table: pd.DataFrame) -> list[dict[str, Any]]:
    """thresholds.json: for each model (fold and seed) and target sensitivity, the threshold and what it was chosen on.

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
        scores = malignant["p_malignant"].to_numpy()
        for goal in TARGET_SENSITIVITIES:
            entries.append(about | {"sensitivity": goal, "threshold": threshold_for(scores, goal)})
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
        points.append({"wanted": goal, **used, **reached})
    return points


def risk_coverage_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy where the least certain cases are referred to a human, from none to all but one: referred (share),
    n_kept, accuracy.

    A case's certainty is the top of its mean probabilities (El-Yaniv and Wiener 2010); slides, for the subtype task.
    """
    # Repetitions are not more cases: each image counts once, with its mean probability.
    columns = [f"p_{name}" for name in predictions.class_names(table)]
    once = table.groupby(["file", "slide", "case", "label", "subtype"], as_index=False)[columns].mean()
    voted = case_statistics.vote_by(once, "case" if predictions.is_binary(table) else "slide")
    # Votes, not images: a human is handed a case.
    certainty = voted[columns].max(axis=1).to_numpy()
    correct = voted["correct"].to_numpy(float)[np.argsort(-certainty, kind="stable")]
    kept = np.arange(1, len(correct) + 1)
    curve = {"referred": 1 - kept / len(correct), "n_kept": kept, "accuracy": np.cumsum(correct) / kept}
    return pd.DataFrame(curve)[::-1].reset_index(drop=True)
