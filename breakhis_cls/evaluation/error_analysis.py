"""Where a model fails: by subtype and magnification, case by case, and whether four magnifications agree."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from .. import names
from . import bootstrap, case_statistics, metrics, predictions


def errors_by_stratum(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each subtype and magnification present: n_images, n_cases,
    error (share of images named wrongly)."""
    wrong = predictions.predicted_labels(table) != predictions.true_labels(table)
    grouped = table.assign(wrong=wrong).groupby(["subtype", "magnification"])
    rows = grouped.agg(n_images=("file", "nunique"), n_cases=("case", "nunique"), error=("wrong", "mean"))
    order = {code: at for at, code in enumerate(names.SUBTYPES)}
    return rows.reset_index().sort_values(
        ["subtype", "magnification"], key=lambda column: column.map(order) if column.name == "subtype" else column,
        ignore_index=True,
    )  # fmt: skip


def case_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each case, worst first: label, subtypes, n_slides, n_images, image_accuracy, p_<class>
    (means), vote, vote_correct, influence_roc_auc, influence_balanced_accuracy.

    Influence is the metric with all cases minus the metric without this one: negative where the case pulls it
    down. NaN where the metric is undefined without the case. `vote` is empty for the subtype task, whose
    votes are of slides.
    """
    right = predictions.predicted_labels(table) == predictions.true_labels(table)
    grouped = table.assign(right=right).groupby("case", sort=True)
    rows = grouped.agg(
        label=("label", _joined), subtypes=("subtype", _joined), n_slides=("slide", "nunique"),
        n_images=("file", "nunique"), image_accuracy=("right", "mean"),
    )  # fmt: skip
    voted = case_statistics.vote_by(table, "case")
    binary = predictions.is_binary(table)
    for name in predictions.class_names(table):
        rows[f"p_{name}"] = voted[f"p_{name}"]
    rows["vote"] = [names.LABELS[at] if binary else "" for at in voted["voted"]]
    rows["vote_correct"] = voted["correct"] if binary else ""
    statistics, found = metrics.compute_statistics(table)
    for metric in ("roc_auc", "balanced_accuracy"):
        rows[f"influence_{metric}"] = influence(statistics[metric], found)
    return rows.reset_index().sort_values(["image_accuracy", "case"], ignore_index=True)


def influence(statistic: case_statistics.Statistic, cases: pd.Index) -> pd.Series:
    """The metric with all cases minus the metric without each one, by case."""
    n_cases = len(cases)
    pulls = bootstrap.statistic_value(statistic, n_cases) - bootstrap.jackknife_values(statistic, n_cases)
    return pd.Series(pulls, index=cases)


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """For each two magnifications: on how many slides (n_slides) their votes agree (agree, a share), and
    Cohen's kappa.

    Also a row (0, 0) for all magnifications together, over slides that have every one of them; its kappa is
    NaN. Several seeds or repeated folds are averaged before. Empty for a table of one magnification.
    """
    votes = _votes(table)
    rows = []
    for first, second in combinations(votes.columns, 2):
        both = votes[[first, second]].dropna()
        same = both[first] == both[second]
        rows.append((first, second, len(both), same.mean(), _kappa(both[first], both[second])))
    if len(votes.columns) > 1:
        whole = votes.dropna()
        rows.append((0, 0, len(whole), (whole.nunique(axis=1) == 1).mean(), np.nan))
    return pd.DataFrame(rows, columns=["magnification", "other", "n_slides", "agree", "kappa"])


def _votes(table: pd.DataFrame) -> pd.DataFrame:
    """The class voted for, slides by magnifications; NaN where a slide has no image of one."""
    columns = [f"p_{name}" for name in predictions.class_names(table)]
    means = table.groupby(["slide", "magnification"])[columns].mean()
    voted = pd.Series(predictions.predicted_labels(means), index=means.index, dtype=float)
    return voted.unstack("magnification")


def _kappa(first: pd.Series, second: pd.Series) -> float:
    """Agreement beyond chance (Cohen 1960); NaN where chance agrees always."""
    classes = sorted(set(first) | set(second))
    expected = sum((first == name).mean() * (second == name).mean() for name in classes)
    return float(((first == second).mean() - expected) / (1 - expected)) if expected < 1 else np.nan


def _joined(values: pd.Series) -> str:
    return "+".join(sorted(values.unique()))
