"""The table of metrics, and the numbers of metrics.json: pooled, by magnification, by subtype and by class."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import special
from threadpoolctl import threadpool_limits

from .. import names
from . import bootstrap, predictions
from . import case_statistics as cs


@dataclass(frozen=True)
class Metric:
    """What to compute, and how tables and reports name and explain it."""

    statistic: Callable[[cs.ScoredImages], cs.Statistic]
    label: str
    reading: str
    needs: tuple[str, ...] = ()  # classes without which it is undefined; their cases carry its interval
    range: tuple[float, float] = (0, 1)  # lowest and highest possible value
    failing: float | Callable[[np.ndarray], float] = 0  # of a case that fails as a whole; of probabilities (n, classes)
    share: float = 1  # that the cases behind it decide, if they fail (docs/statistics.md)
    unit: str = "image"  # what it is a mean over: image, slide or case
    subtypes: dict[str, Any] = field(default_factory=dict)  # fields that differ for the subtype task


BOTH, LOWER = names.LABELS, "lower is better"
# In the order of metrics.json. A row here is a metric in metrics.json, every report and every table.
METRICS = {
    "image_accuracy": Metric(cs.image_accuracy, "Image accuracy", "share of images correctly classified"),
    "recognition_rate": Metric(
        cs.recognition_rate, "Recognition rate",
        "mean over slides of the share of a slide's images correctly classified", unit="slide"),
    "slide_vote_accuracy": Metric(
        partial(cs.vote_accuracy, group="slide"), "Slide vote",
        "share of slides correctly classified by their mean probability", unit="slide"),
    "case_vote_accuracy": Metric(
        partial(cs.vote_accuracy, group="case"), "Case vote",
        "share of cases correctly classified by their mean probability", unit="case"),
    "balanced_accuracy": Metric(
        partial(cs.class_metric, cs.recall, macro=True, several=True), "Balanced accuracy",
        "mean of sensitivity and specificity", BOTH, share=0.5,
        subtypes={"reading": "mean over classes of the share of images correctly classified"}),
    "sensitivity": Metric(
        partial(cs.class_metric, cs.recall), "Sensitivity", "share of malignant images predicted malignant",
        ("malignant",), subtypes={"label": "Sensitivity, macro", "reading": "the same as balanced accuracy"}),
    "specificity": Metric(
        partial(cs.class_metric, cs.specificity), "Specificity", "share of benign images predicted benign", ("benign",),
        subtypes={"label": "Specificity, macro",
                  "reading": "mean over classes of the share of other images not predicted as the class"}),
    "f1": Metric(
        partial(cs.class_metric, cs.f1, several=True), "F1", "harmonic mean of precision and sensitivity", BOTH,
        share=0.25, subtypes={"label": "F1, macro", "reading": "mean over classes of F1"}),
    "mcc": Metric(
        partial(cs.class_metric, cs.matthews_correlation, several=True), "MCC",
        "correlation of true and predicted labels, -1 to 1", BOTH, range=(-1, 1), failing=-1, share=0.5),
    "roc_auc": Metric(
        partial(cs.ranking_metric, cs.roc_auc), "ROC AUC",
        "probability that a malignant image scores above a benign one", BOTH,
        share=0.5, subtypes={"label": "ROC AUC, macro", "reading": "mean over classes, each against the rest"}),
    "roc_auc_within_folds": Metric(
        partial(cs.ranking_metric, cs.roc_auc_within_folds), "ROC AUC within folds",
        "ROC AUC of each fold, whose images one model scored, weighted by its pairs of cases", BOTH, share=0.5,
        subtypes={"label": "ROC AUC within folds, macro"}),
    "average_precision": Metric(
        partial(cs.ranking_metric, cs.average_precision), "Average precision", "area under the precision-recall curve",
        BOTH, share=0.25,
        subtypes={"label": "Average precision, macro", "reading": "mean over classes, each against the rest"}),
    "brier": Metric(
        cs.brier_score, "Brier score", f"mean squared error of the predicted probability; {LOWER}", failing=1,
        subtypes={"reading": f"squared error summed over classes, 0 to 2; {LOWER}", "range": (0, 2), "failing": 2}),
    "log_loss": Metric(
        cs.log_loss, "Log loss", f"mean negative log probability of the true class, in nats; {LOWER}",
        range=(0, cs.LARGEST_LOSS), failing=lambda scores: float(cs.negative_log(scores.min(axis=1)).mean())),
    "ece": Metric(
        cs.expected_calibration_error, "ECE",
        f"gap between predicted probability and observed frequency, {cs.N_BINS} bins of equal mass; {LOWER}",
        failing=1,
        subtypes={"reading": f"gap between the top probability and how often that class is correct; {LOWER}"}),
}  # fmt: skip
LEADING = (  # first where people read
    "roc_auc", "roc_auc_within_folds", "balanced_accuracy", "image_accuracy", "sensitivity", "specificity",
)  # fmt: skip
SWAPPED_AUC = 0.25  # below it a model knows the classes, and someone has mixed them up
SWAPPED = "So low a ROC AUC means that the classes are swapped: check the labels and the columns of the probabilities."
BY_CASE = ("roc_auc", "sensitivity", "specificity", "brier")  # with the case as the unit
BY_CLASS = ("sensitivity", "specificity", "f1", "roc_auc", "average_precision")  # of the subtype task
N_GROUPS = 400  # of images at random, for the interval that resamples images


def metrics_for(binary: bool) -> dict[str, Metric]:
    """The table for the binary or the subtype task, in the order of reports."""
    ordered = {name: METRICS[name] for name in (*LEADING, *METRICS)}
    return ordered if binary else {name: replace(one, **one.subtypes) for name, one in ordered.items()}


def metric_words(binary: bool) -> dict[str, tuple[str, str]]:
    """Name -> (label, how to read it), in the order of reports."""
    return {name: (metric.label, metric.reading) for name, metric in metrics_for(binary).items()}


def compute_statistics(
    table: pd.DataFrame, only: Iterable[str] = METRICS, against: str = ""
) -> tuple[dict[str, cs.Statistic], pd.Index]:
    """Metrics of a table by name, averaged over its replicates, and the cases that weights refer to. against: a class;
    the metrics are then those of this class against the rest."""
    pieces, cases = cs.score_images(table)
    if against:
        pieces = [piece.one_against_rest(predictions.class_names(table).index(against)) for piece in pieces]
    return {name: cs.mean_statistic([METRICS[name].statistic(piece) for piece in pieces]) for name in only}, cases


def compute_values(table: pd.DataFrame, only: Iterable[str] = METRICS) -> dict[str, float]:
    """Metrics of a table by name, without intervals; NaN where undefined."""
    statistics, cases = compute_statistics(table, only)
    return {name: bootstrap.statistic_value(statistic, len(cases)) for name, statistic in statistics.items()}


@threadpool_limits.wrap(limits=1)  # more threads on such small products cost three times the CPU seconds
def compute_metrics(table: pd.DataFrame, n_resamples: int = bootstrap.N_RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """metrics.json of a predictions table's test rows: raw probabilities, malignant from 0.5 on. `{"pooled": {name:
    {"value", "low", "high", "n_images", "n_slides", "n_cases"}}, "by_magnification": {"40": ...}, "by_subtype": ...}`;
    the subtype task adds `by_class`, each class against the rest, the binary task `case_level`. An undefined metric has
    value None and says why under "undefined". Several seeds, or folds that test an image twice, give the mean over
    them. `image_low` and `image_high` resample images as if they were independent: too narrow, for comparison.
    `confusion_matrix` counts images: true label -> predicted label -> number."""
    test = predictions.select_part(table, "test")
    binary = predictions.is_binary(test)
    content: dict[str, Any] = {"pooled": compute_stratum(test, "pooled", n_resamples, seed)}
    content["confusion_matrix"] = predictions.count_confusions(test).to_dict("index")

    # Images as if independent: in random groups, whose sums then stand for unrelated images.
    files = test["file"].unique()
    n_groups = min(N_GROUPS, len(files))
    group = np.random.default_rng((seed, len(files))).permutation(len(files)) % n_groups
    regrouped = test.assign(case=test["file"].map(dict(zip(files, group.astype(str), strict=True))))
    by_image = [name for name, metric in METRICS.items() if metric.unit == "image"]
    weights = bootstrap.case_weights(n_groups, min(n_resamples, 2_000), bootstrap.named_seed("images", seed))
    for name, statistic in compute_statistics(regrouped, by_image)[0].items():
        limits = metrics_for(binary)[name].range
        interval = bootstrap.bootstrap_interval(statistic, weights, np.zeros(n_groups, int), n_groups, limits)
        content["pooled"][name] |= {"image_low": interval.low, "image_high": interval.high}

    for column, order in (("magnification", names.MAGNIFICATIONS), ("subtype", names.SUBTYPES)):
        known = dict.fromkeys([*order, *sorted(set(test[column]))])  # other values come last
        content[f"by_{column}"] = {
            str(value): compute_stratum(rows, f"{column}-{value}", n_resamples, seed)
            for value in known
            if len(rows := test[test[column] == value])
        }
    if not binary:
        content["by_class"] = {
            name: compute_stratum(test, "class", n_resamples, seed, BY_CLASS, name)
            for name in predictions.class_names(test)
        }
    elif (test.groupby("case")["label"].nunique() == 1).all():
        # A row for each case, fold and seed: the mean probabilities of its images.
        kept = dict.fromkeys(("label", "subtype", "part"), "first") | dict.fromkeys(("p_benign", "p_malignant"), "mean")
        cases = test.groupby(["case", "fold", "seed"], as_index=False).agg(kept)
        cases = cases.assign(file=cases["case"], slide=cases["case"], magnification=0)
        content["case_level"] = compute_stratum(cases, "case_level", n_resamples, seed, BY_CASE)
    about = {"level": bootstrap.LEVEL, "method": bootstrap.METHOD, "resampled": "cases"}
    return content | {"intervals": about | {"n_resamples": n_resamples, "seed": seed}}


def expected_widths(result: dict[str, Any], n_cases: Iterable[int]) -> list[float | None]:
    """Width that the interval of a metric in [0, 1] would have with so many cases like these: on the logit scale it
    shrinks with the square root of their number. None where the metric has no interval, or reaches a bound."""
    ends = [result["low"], result["value"], result["high"]]
    if None in ends or not 0 < min(ends) <= max(ends) < 1:
        return [None for _ in n_cases]
    low, middle, high = special.logit(ends)
    scaled = [middle + (np.array([low, high]) - middle) * np.sqrt(result["n_cases"] / n) for n in n_cases]
    return [float(np.ptp(special.expit(each))) for each in scaled]


def compute_stratum(
    rows: pd.DataFrame, stratum: str, n_resamples: int, seed: int, only: Iterable[str] = METRICS, against: str = ""
) -> dict[str, dict[str, Any]]:
    """Metrics of any rows, all or some, with case intervals; `stratum` seeds the resampling."""
    statistics, cases = compute_statistics(rows, only, against)
    # Each stratum draws its own resamples: with one seed for all, the errors of equally many cases would be linked.
    weights = bootstrap.case_weights(len(cases), n_resamples, bootstrap.named_seed(stratum, seed))
    groups, counts = bootstrap.case_classes(rows, cases), predictions.count_units(rows)
    n_cases, results = count_cases(rows, against), {}
    for name, statistic in statistics.items():
        value = bootstrap.statistic_value(statistic, len(cases))
        if np.isfinite(value):
            low, high, reason = compute_interval(name, statistic, weights, groups, rows, n_cases)
            why = {"no_interval": reason} if reason else {}
            results[name] = {"value": value, "low": low, "high": high, **counts, **why}
            continue
        present = [predictions.class_names(rows)[at] for at in np.unique(predictions.true_labels(rows))]
        why = f"only {' and '.join(present)} images here"
        if name == "case_vote_accuracy":
            carries = "carries both labels" if predictions.is_binary(rows) else "may carry two subtypes"
            why = f"a case {carries}: it has no single truth to vote on"
        elif against:
            why = f"no test image of {against}" if against not in present else f"every test image is of {against}"
        results[name] = {"value": None, "low": None, "high": None, **counts, "undefined": why}
    return results


def compute_interval(
    name: str, statistic: cs.Statistic, weights: np.ndarray, groups: np.ndarray, rows: pd.DataFrame,
    n_cases: dict[str, int],
) -> bootstrap.Interval:  # fmt: skip
    """The interval of a metric of some rows, of `count_cases`, by bootstrap_interval, or why so few cases have none."""
    metric = metrics_for(predictions.is_binary(rows))[name]
    n_behind, n_rarest = cases_behind(name, n_cases)
    if n_rarest < bootstrap.MIN_CASES:
        return bootstrap.Interval(None, None, f"too few cases: {n_rarest}")
    failing = metric.failing(predictions.probabilities(rows)) if callable(metric.failing) else metric.failing
    found = bootstrap.bootstrap_interval(statistic, weights, groups, n_behind, metric.range, failing, metric.share)
    # No interval fills the 36 nats of log loss.
    if name == "log_loss" and found.high and found.high > 10 * bootstrap.statistic_value(statistic, weights.shape[1]):
        return bootstrap.Interval(None, None, "too few cases: it would end above ten times the value")
    return found


def count_cases(rows: pd.DataFrame, against: str = "") -> dict[str, int]:
    """Numbers of cases: `all`, and of a task of two classes those of benign and malignant, where there are any.
    against: a subtype, which then counts as malignant and all others as benign."""
    labels = np.where(rows["subtype"] == against, "malignant", "benign") if against else rows["label"]
    by_label = rows.groupby(labels)["case"].nunique().to_dict() if against or predictions.is_binary(rows) else {}
    return {"all": rows["case"].nunique(), **by_label}


def cases_behind(name: str, n_cases: dict[str, int]) -> tuple[int, int]:
    """Cases that the metric is about (of the rarest class where it needs both), and cases of the rarest class that it
    mixes, of `count_cases`; macro metrics, over classes of a few cases, count all twice."""
    needs, classes = METRICS[name].needs, [label for label in n_cases if label != "all"]
    rarest = min((n_cases.get(label, 0) for label in needs or classes), default=0) if classes else n_cases["all"]
    return rarest if needs else n_cases["all"], rarest
