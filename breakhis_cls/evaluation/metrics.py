"""The table of metrics, and the numbers of metrics.json: pooled, by magnification, by subtype and by class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .. import names
from . import bootstrap, predictions
from . import case_statistics as cs
from .bootstrap import Range

Result = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """One metric; the words of the subtype task are those of the binary task unless they are given."""

    statistic: Callable[[cs.ScoredImages], cs.Statistic]
    label: str
    range: Range
    reading: str
    needs: tuple[str, ...] = ()  # classes without which it is undefined; their cases carry its interval
    unit: str = "image"  # what it is a mean over: image, slide or case
    subtype_label: str = ""
    subtype_reading: str = ""
    subtype_range: Range | None = None

    def words(self, binary: bool) -> tuple[str, str]:
        """(label, how to read it)."""
        if binary:
            return self.label, self.reading
        return self.subtype_label or self.label, self.subtype_reading or self.reading

    def range_for(self, binary: bool) -> Range:
        """The lowest and the highest possible value."""
        return self.range if binary else self.subtype_range or self.range


BENIGN, MALIGNANT = names.LABELS
BOTH, LOWER = names.LABELS, "lower is better"
# In the order of metrics.json. A row here is a metric in metrics.json, every report and every table.
METRICS: dict[str, Metric] = {
    "image_accuracy": Metric(
        cs.image_accuracy, "Image accuracy", (0, 1), "share of images correctly classified"),
    "recognition_rate": Metric(
        cs.recognition_rate, "Recognition rate", (0, 1),
        "mean over slides of the share of a slide's images correctly classified", unit="slide"),
    "slide_vote_accuracy": Metric(
        cs.vote_accuracy("slide"), "Slide vote", (0, 1),
        "share of slides correctly classified by their mean probability", unit="slide"),
    "case_vote_accuracy": Metric(
        cs.vote_accuracy("case"), "Case vote", (0, 1),
        "share of cases correctly classified by their mean probability", unit="case"),
    "balanced_accuracy": Metric(
        cs.class_metric(cs.recall, macro=True, several=True), "Balanced accuracy", (0, 1),
        "mean of sensitivity and specificity", needs=BOTH,
        subtype_reading="mean over classes of the share of images correctly classified"),
    "sensitivity": Metric(
        cs.class_metric(cs.recall), "Sensitivity", (0, 1), "share of malignant images predicted malignant",
        needs=(MALIGNANT,), subtype_label="Sensitivity, macro", subtype_reading="the same as balanced accuracy"),
    "specificity": Metric(
        cs.class_metric(cs.specificity), "Specificity", (0, 1), "share of benign images predicted benign",
        needs=(BENIGN,), subtype_label="Specificity, macro",
        subtype_reading="mean over classes of the share of other images not predicted as the class"),
    "f1": Metric(
        cs.class_metric(cs.f1, several=True), "F1", (0, 1), "harmonic mean of precision and sensitivity",
        needs=BOTH, subtype_label="F1, macro", subtype_reading="mean over classes of F1"),
    "mcc": Metric(
        cs.matthews_correlation, "MCC", (-1, 1), "correlation of true and predicted labels, -1 to 1", needs=BOTH),
    "roc_auc": Metric(
        cs.ranking_metric(cs.roc_auc), "ROC AUC", (0, 1),
        "probability that a malignant image scores above a benign one", needs=BOTH,
        subtype_label="ROC AUC, macro", subtype_reading="mean over classes, each against the rest"),
    "average_precision": Metric(
        cs.ranking_metric(cs.average_precision), "Average precision", (0, 1),
        "area under the precision-recall curve", needs=BOTH,
        subtype_label="Average precision, macro", subtype_reading="mean over classes, each against the rest"),
    "brier": Metric(
        cs.brier_score, "Brier score", (0, 1), f"mean squared error of the predicted probability; {LOWER}",
        subtype_reading=f"squared error summed over classes, 0 to 2; {LOWER}", subtype_range=(0, 2)),
    "log_loss": Metric(
        cs.log_loss, "Log loss", (0, np.inf),
        f"mean negative log probability of the true class, in nats; {LOWER}"),
    "ece": Metric(
        cs.expected_calibration_error, "ECE", (0, 1),
        f"gap between predicted probability and observed frequency, {cs.N_BINS} bins of equal mass; {LOWER}",
        subtype_reading=f"gap between the top probability and how often that class is correct; {LOWER}"),
}  # fmt: skip
LEADING = ("roc_auc", "balanced_accuracy", "image_accuracy", "sensitivity", "specificity")  # first where people read
BY_CLASS = ("sensitivity", "specificity", "f1", "roc_auc", "average_precision")  # of the subtype task
N_GROUPS = 400  # of images at random, for the interval that resamples images


def metric_words(binary: bool) -> dict[str, tuple[str, str]]:
    """Name -> (label, how to read it), in the order of reports."""
    return {name: METRICS[name].words(binary) for name in dict.fromkeys((*LEADING, *METRICS))}


def compute_statistics(
    table: pd.DataFrame, only: Iterable[str] = tuple(METRICS)
) -> tuple[dict[str, cs.Statistic], pd.Index]:
    """Metrics of a table by name, averaged over its replicates, and the cases that weights refer to."""
    cases = pd.Index(sorted(table["case"].unique()))
    pieces = [cs.ScoredImages.from_table(piece, cases) for piece in predictions.replicates(table)]
    return {name: _mean(METRICS[name], pieces) for name in only}, cases


def compute_metrics(table: pd.DataFrame, n_resamples: int = bootstrap.N_RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """metrics.json of a predictions table's test rows: raw probabilities, malignant from 0.5 on.

    `{"pooled": {name: {"value", "low", "high", "n_images", "n_slides", "n_cases"}}, "by_magnification":
    {"40": ...}, "by_subtype": ...}`; the subtype task adds `by_class`, each class against the rest. A metric
    that is undefined has value None and says why under "undefined". Several seeds, or folds that test an
    image twice, give the mean over them. `image_low` and `image_high` resample images as if they were
    independent: too narrow, for comparison.
    """
    test = predictions.select_part(table, "test")
    content: dict[str, Any] = {"pooled": compute_stratum(test, "pooled", n_resamples, seed)}

    # Images as if independent: in groups at random, whose sums then stand for unrelated images.
    files = test["file"].unique()
    n_groups = min(N_GROUPS, len(files))
    group = np.random.default_rng((seed, len(files))).permutation(len(files)) % n_groups
    regrouped = test.assign(case=test["file"].map(dict(zip(files, group.astype(str), strict=True))))
    by_image = [name for name, metric in METRICS.items() if metric.unit == "image"]
    weights = bootstrap.case_weights(n_groups, min(n_resamples, 2_000), bootstrap.named_seed("images", seed))
    for name, statistic in compute_statistics(regrouped, by_image)[0].items():
        span = METRICS[name].range_for(predictions.is_binary(test))
        interval = bootstrap.bootstrap_interval(statistic, weights, np.zeros(n_groups, int), n_groups, span)
        content["pooled"][name] |= {"image_low": interval.low, "image_high": interval.high}

    for column, order in (("magnification", names.MAGNIFICATIONS), ("subtype", tuple(names.SUBTYPES))):
        present = set(test[column])
        content[f"by_{column}"] = {
            str(value): compute_stratum(test[test[column] == value], f"{column}-{value}", n_resamples, seed)
            for value in [*(value for value in order if value in present), *sorted(present - set(order))]
        }
    if not predictions.is_binary(test):
        content["by_class"] = _by_class(test, n_resamples, seed)
    about = {"level": bootstrap.LEVEL, "method": bootstrap.METHOD, "resampled": "cases", "n_resamples": n_resamples}
    return content | {"intervals": about | {"seed": seed}}


def compute_stratum(
    rows: pd.DataFrame, stratum: str, n_resamples: int, seed: int, only: Iterable[str] = tuple(METRICS)
) -> dict[str, Result]:
    """Metrics of any rows, all or some, with case intervals; `stratum` seeds the resampling."""
    statistics, cases = compute_statistics(rows, only)
    # Each stratum draws its own resamples: with one seed for all, the errors of equally many cases would be linked.
    weights = bootstrap.case_weights(len(cases), n_resamples, bootstrap.named_seed(stratum, seed))
    groups = bootstrap.case_labels(rows, cases)
    return {name: _result(name, statistic, weights, groups, rows) for name, statistic in statistics.items()}


def _by_class(rows: pd.DataFrame, n_resamples: int, seed: int) -> dict[str, dict[str, Result]]:
    cases = pd.Index(sorted(rows["case"].unique()))
    pieces = [cs.ScoredImages.from_table(piece, cases) for piece in predictions.replicates(rows)]
    weights = bootstrap.case_weights(len(cases), n_resamples, bootstrap.named_seed("class", seed))
    groups = bootstrap.case_labels(rows, cases)
    found = {}
    for at, name in enumerate(predictions.class_names(rows)):
        against = [piece.one_against_rest(at) for piece in pieces]
        found[name] = {
            metric: _result(metric, _mean(METRICS[metric], against), weights, groups, rows, name) for metric in BY_CLASS
        }
    return found


def _mean(metric: Metric, pieces: list[cs.ScoredImages]) -> cs.Statistic:
    return cs.mean_statistic([metric.statistic(piece) for piece in pieces])


def _result(
    name: str, statistic: cs.Statistic, weights: np.ndarray, groups: np.ndarray, rows: pd.DataFrame, against: str = ""
) -> Result:
    counts = predictions.count_units(rows)
    value = bootstrap.statistic_value(statistic, weights.shape[1])
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, **counts, "undefined": _why_undefined(name, rows, against)}
    interval = bootstrap.bootstrap_interval(
        statistic, weights, groups, count_cases_behind(name, rows, against),
        METRICS[name].range_for(predictions.is_binary(rows)),
    )  # fmt: skip
    reason = {"no_interval": interval.reason} if interval.reason else {}
    return {"value": value, "low": interval.low, "high": interval.high, **counts, **reason}


def count_cases_behind(name: str, rows: pd.DataFrame, against: str = "") -> int:
    """Cases of the rarest class that the metric needs; macro metrics, over classes of a few cases, count all."""
    if against:
        return int(rows.loc[rows["subtype"] == against, "case"].nunique())
    if not predictions.is_binary(rows) or not METRICS[name].needs:
        return int(rows["case"].nunique())
    return min(int(rows.loc[rows["label"] == label, "case"].nunique()) for label in METRICS[name].needs)


def _why_undefined(name: str, rows: pd.DataFrame, against: str) -> str:
    if name == "case_vote_accuracy":
        two = "a case carries both labels" if predictions.is_binary(rows) else "a case may carry two subtypes"
        return f"{two}: it has no single truth to vote on"
    present = [predictions.class_names(rows)[at] for at in np.unique(predictions.true_labels(rows))]
    if against:
        return f"no test image of {against}" if against not in present else f"every test image is of {against}"
    return f"only {' and '.join(present)} images here"
