"""The numbers of metrics.json: fourteen metrics, pooled, by magnification, by subtype and, of subtypes, by
class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .. import names
from . import bootstrap, case_statistics, predictions

NAMES = (
    "image_accuracy", "recognition_rate", "slide_vote_accuracy", "case_vote_accuracy", "balanced_accuracy",
    "sensitivity", "specificity", "f1", "mcc", "roc_auc", "average_precision", "brier", "log_loss", "ece",
)  # fmt: skip
OF_IMAGES = tuple(
    name for name in NAMES if name not in ("recognition_rate", "slide_vote_accuracy", "case_vote_accuracy")
)
NEEDS_BOTH = ("balanced_accuracy", "f1", "mcc", "roc_auc", "average_precision")  # classes
N_GROUPS = 400  # of images dealt at random, for the image-level interval

Result = dict[str, Any]


def compute_metrics(table: pd.DataFrame, n_resamples: int = bootstrap.N_RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """metrics.json of a predictions table's test rows: raw probabilities, malignant from 0.5 on.

    `{"pooled": {name: {"value", "low", "high", "n_images", "n_slides", "n_cases"}}, "by_magnification":
    {"40": ...}, "by_subtype": ...}`; the subtype task adds `by_class`, each class against the rest. A metric
    that is undefined has value None and says why under "undefined". Several seeds, or folds that test an
    image twice, give the mean over them. `image_low` and `image_high` are the interval that takes images for
    independent: too narrow, for comparison.
    """
    test = predictions.select_part(table, "test")
    content = {
        "pooled": _with_image_intervals(compute_stratum(test, "pooled", n_resamples, seed), test, n_resamples, seed),
        "by_magnification": _by(test, "magnification", names.MAGNIFICATIONS, n_resamples, seed),
        "by_subtype": _by(test, "subtype", tuple(names.SUBTYPES), n_resamples, seed),
    }
    if not predictions.is_binary(test):
        content["by_class"] = _by_class(test, n_resamples, seed)
    about = {
        "level": bootstrap.LEVEL,
        "method": bootstrap.METHOD,
        "resampled": "cases",
        "n_resamples": n_resamples,
    }
    return content | {"intervals": about | {"seed": seed}}


def compute_stratum(
    rows: pd.DataFrame, stratum: str, n_resamples: int, seed: int, only: tuple[str, ...] = NAMES
) -> dict[str, Result]:
    """Metrics of any rows, all fourteen or some, with case intervals; `stratum` seeds the resampling."""
    statistics, cases = case_statistics.compute_statistics(rows)
    weights = bootstrap.case_weights(len(cases), n_resamples, bootstrap.named_seed(stratum, seed))
    groups = bootstrap.case_labels(rows, cases)
    return {name: _result(name, statistics[name], weights, groups, rows) for name in only}


def _by(rows: pd.DataFrame, column: str, order: tuple, n_resamples: int, seed: int) -> dict[str, dict[str, Result]]:
    known = [value for value in order if (rows[column] == value).any()]
    others = sorted(set(rows[column]) - set(order))
    return {
        str(value): compute_stratum(rows[rows[column] == value], f"{column}-{value}", n_resamples, seed)
        for value in known + others
    }


def _by_class(rows: pd.DataFrame, n_resamples: int, seed: int) -> dict[str, dict[str, Result]]:
    statistics, cases = case_statistics.statistics_by_class(rows)
    weights = bootstrap.case_weights(len(cases), n_resamples, bootstrap.named_seed("class", seed))
    groups = bootstrap.case_labels(rows, cases)
    return {
        name: {metric: _result(metric, each, weights, groups, rows, name) for metric, each in of_class.items()}
        for name, of_class in statistics.items()
    }


def _result(
    name: str, statistic: case_statistics.Statistic, weights: np.ndarray, groups: np.ndarray,
    rows: pd.DataFrame, against: str = "",
) -> Result:  # fmt: skip
    counts = {f"n_{unit}s": int(rows[column].nunique()) for unit, column in UNITS.items()}
    value = bootstrap.statistic_value(statistic, weights.shape[1])
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, **counts, "undefined": _why(name, rows, against)}
    interval = bootstrap.bootstrap_interval(
        statistic, weights, groups, count_cases_behind(name, rows, against), metric_range(name, rows)
    )
    reason = {"no_interval": interval.reason} if interval.reason else {}
    return {"value": value, "low": interval.low, "high": interval.high, **counts, **reason}


def metric_range(name: str, rows: pd.DataFrame) -> bootstrap.Span:
    """The values that a metric may take."""
    brier = (0, 1) if predictions.is_binary(rows) else (0, 2)
    return {"mcc": (-1, 1), "log_loss": (0, np.inf), "brier": brier}.get(name, (0, 1))


def count_cases_behind(name: str, rows: pd.DataFrame, against: str = "") -> int:
    """Cases of the rarest class that the metric needs; macro metrics,
    over classes of a few cases, count all."""
    if not predictions.is_binary(rows):
        return int(rows.loc[rows["subtype"] == against, "case"].nunique() if against else rows["case"].nunique())
    cases = rows.groupby("label")["case"].nunique()
    if name in ("sensitivity", "specificity"):
        return int(cases["malignant" if name == "sensitivity" else "benign"])
    return int(cases.min() if name in NEEDS_BOTH else rows["case"].nunique())


UNITS = {"image": "file", "slide": "slide", "case": "case"}


def _why(name: str, rows: pd.DataFrame, against: str) -> str:
    if name == "case_vote_accuracy":
        two = "a case carries both labels" if predictions.is_binary(rows) else "a case may carry two subtypes"
        return f"{two}: it has no single truth to vote on"
    present = [predictions.class_names(rows)[at] for at in np.unique(predictions.true_labels(rows))]
    if against:
        return f"no test image of {against}" if against not in present else f"every test image is of {against}"
    return f"only {' and '.join(present)} images here"


def _with_image_intervals(
    results: dict[str, Result], rows: pd.DataFrame, n_resamples: int, seed: int
) -> dict[str, Result]:
    """As if images were independent: dealt at random into groups,
    whose sums then stand for unrelated images."""
    files = rows["file"].unique()
    n_groups = min(N_GROUPS, len(files))
    dealt = np.random.default_rng((seed, len(files))).permutation(len(files)) % n_groups
    regrouped = rows.assign(case=rows["file"].map(dict(zip(files, dealt.astype(str), strict=True))))
    statistics, _ = case_statistics.compute_statistics(regrouped)
    weights = bootstrap.case_weights(n_groups, min(n_resamples, 2_000), bootstrap.named_seed("images", seed))
    alike = np.zeros(n_groups, int)
    beside = {}
    for name in OF_IMAGES:
        interval = bootstrap.bootstrap_interval(statistics[name], weights, alike, n_groups, metric_range(name, rows))
        beside[name] = {"image_low": interval.low, "image_high": interval.high}
    return {name: result | beside.get(name, {}) for name, result in results.items()}
