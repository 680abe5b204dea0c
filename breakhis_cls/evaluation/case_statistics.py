"""Every metric as a function of case weights: weights of one give its value, resampled weights give its
interval.

A case's images enter only through sums that are made once (n_cases numbers, or a matrix of pairs of cases),
so that 10,000 resamples of 7,909 images are a few matrix products. A statistic maps weights (n_resamples,
n_cases), float64 counts of how often each case was drawn, to values (n_resamples,), NaN where undefined.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from . import predictions
from .ranking import Statistic, average_precision, divide, roc_auc, sum_by_case, undefined

N_BINS = 15  # of equal mass, for ECE


def compute_statistics(table: pd.DataFrame, threshold: float = 0.5) -> tuple[dict[str, Statistic], pd.Index]:
    """The fourteen metrics of a table by name, averaged over its replicates,
    and the cases that weights refer to."""
    cases = pd.Index(sorted(table["case"].unique()))
    pieces = [_of_piece(piece, cases, threshold) for piece in predictions.replicates(table)]
    return {name: mean_statistic([piece[name] for piece in pieces]) for name in pieces[0]}, cases


def statistics_by_class(table: pd.DataFrame) -> tuple[dict[str, dict[str, Statistic]], pd.Index]:
    """For each class against the rest: sensitivity, specificity, F1, ROC AUC, average precision;
    and the cases."""
    cases = pd.Index(sorted(table["case"].unique()))
    pieces = [_each_class(piece, cases) for piece in predictions.replicates(table)]
    merged = {
        name: {metric: mean_statistic([piece[name][metric] for piece in pieces]) for metric in pieces[0][name]}
        for name in pieces[0]
    }
    return merged, cases


def mean_statistic(statistics: list[Statistic]) -> Statistic:
    """The mean of several statistics under the same weights, over those that are defined."""
    if len(statistics) == 1:
        return statistics[0]
    return lambda weights: _nanmean(np.stack([statistic(weights) for statistic in statistics]))


def ratio_statistic(top: np.ndarray, bottom: np.ndarray) -> Statistic:
    """Weighted sum over weighted sum of two per-case arrays (n_cases,)."""
    return lambda weights: divide(weights @ top, weights @ bottom)


def _of_piece(rows: pd.DataFrame, cases: pd.Index, threshold: float) -> dict[str, Statistic]:
    case, truth = cases.get_indexer(rows["case"]), predictions.true_labels(rows)
    scores, named = predictions.probabilities(rows), predictions.predicted_labels(rows, threshold)
    n_classes = scores.shape[1]
    confusion = np.zeros((len(cases), n_classes, n_classes))
    np.add.at(confusion, (case, truth, named), 1)
    binary = predictions.is_binary(rows)
    ranked = [(scores[:, 1], truth == 1)] if binary else [(scores[:, k], truth == k) for k in range(n_classes)]
    ranked = [(score, is_class) for score, is_class in ranked if is_class.any()]
    return (
        _votes(rows, case, len(cases), threshold)
        | _counted(confusion, binary)
        | {"roc_auc": mean_statistic([roc_auc(score, y, case, len(cases)) for score, y in ranked] or [undefined])}
        | {
            "average_precision": mean_statistic(
                [average_precision(s, y, case, len(cases)) for s, y in ranked] or [undefined]
            )
        }
        | _scored(scores, truth, case, len(cases))
    )


def _each_class(rows: pd.DataFrame, cases: pd.Index) -> dict[str, dict[str, Statistic]]:
    case, truth = cases.get_indexer(rows["case"]), predictions.true_labels(rows)
    scores, named = predictions.probabilities(rows), predictions.predicted_labels(rows)
    return {
        name: _one_against_rest(scores[:, at], truth == at, named == at, case, len(cases))
        for at, name in enumerate(predictions.class_names(rows))
    }


def _one_against_rest(score, y, named, case, n_cases) -> dict[str, Statistic]:
    confusion = np.zeros((n_cases, 2, 2))
    np.add.at(confusion, (case, y.astype(int), named.astype(int)), 1)
    counted = _counted(confusion, binary=True)
    return {name: counted[name] for name in ("sensitivity", "specificity", "f1")} | {
        "roc_auc": roc_auc(score, y, case, n_cases),
        "average_precision": average_precision(score, y, case, n_cases),
    }


def _votes(rows: pd.DataFrame, case: np.ndarray, n_cases: int, threshold: float) -> dict[str, Statistic]:
    truth = predictions.true_labels(rows)
    correct = (predictions.predicted_labels(rows, threshold) == truth).astype(float)
    slides = pd.DataFrame({"slide": rows["slide"].to_numpy(), "case": case, "share": correct})
    slides = slides.groupby("slide", sort=True).agg(case=("case", "first"), share=("share", "mean"))
    by_slide = vote_by(rows, "slide", threshold).loc[slides.index]
    at, n_slides = slides["case"].to_numpy(), sum_by_case(slides["case"].to_numpy(), None, n_cases)
    return {
        "image_accuracy": ratio_statistic(sum_by_case(case, correct, n_cases), sum_by_case(case, None, n_cases)),
        "recognition_rate": ratio_statistic(sum_by_case(at, slides["share"].to_numpy(), n_cases), n_slides),
        "slide_vote_accuracy": ratio_statistic(sum_by_case(at, by_slide["correct"].to_numpy(float), n_cases), n_slides),
        "case_vote_accuracy": _case_vote(rows, case, n_cases, threshold),
    }


def vote_by(rows: pd.DataFrame, group: str, threshold: float = 0.5) -> pd.DataFrame:
    """Mean probabilities of each slide or case, then threshold or most probable class: p_<class>, truth,
    voted, correct, n_images, sorted by group. Truth is -1 where a group carries two classes."""
    columns = [f"p_{name}" for name in predictions.class_names(rows)]
    truth = pd.Series(predictions.true_labels(rows), index=rows.index)
    grouped = rows.groupby(group, sort=True)
    voted = grouped[columns].mean()
    truths = truth.groupby(rows[group], sort=True).agg(["min", "max"])
    named = predictions.predicted_labels(voted, threshold)
    answer = np.where(truths["min"] == truths["max"], truths["min"], -1)
    return voted.assign(truth=answer, voted=named, correct=named == answer, n_images=grouped.size())


def _case_vote(rows: pd.DataFrame, case: np.ndarray, n_cases: int, threshold: float) -> Statistic:
    if not predictions.is_binary(rows):
        return undefined
    voted = vote_by(rows, "case", threshold)
    if (voted["truth"] < 0).any():
        return undefined
    at = pd.Series(case, index=rows["case"].to_numpy()).groupby(level=0).first().loc[voted.index].to_numpy()
    return ratio_statistic(sum_by_case(at, voted["correct"].to_numpy(float), n_cases), sum_by_case(at, None, n_cases))


def _counted(per_case: np.ndarray, binary: bool) -> dict[str, Statistic]:
    """What follows from a confusion matrix; per_case is (n_cases, true, named). Macro over classes present if
    not binary, where macro sensitivity is balanced accuracy by definition."""
    n_classes = per_case.shape[1]

    def counts(weights: np.ndarray) -> np.ndarray:
        return (weights @ per_case.reshape(len(per_case), -1)).reshape(-1, n_classes, n_classes)

    pick = _positive if binary else _macro
    return {
        "balanced_accuracy": lambda weights: _if_several(counts(weights), _nanmean(_recall(counts(weights)).T)),
        "sensitivity": lambda weights: pick(counts(weights), _recall),
        "specificity": lambda weights: pick(counts(weights), _specificity),
        "f1": lambda weights: _if_several(counts(weights), pick(counts(weights), _f1)),
        "mcc": lambda weights: mcc(counts(weights)),
    }


def _positive(counts: np.ndarray, metric: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return metric(counts)[:, 1]


def _macro(counts: np.ndarray, metric: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return _nanmean(np.where(counts.sum(axis=2) > 0, metric(counts), np.nan).T)


def _recall(counts: np.ndarray) -> np.ndarray:
    return divide(np.einsum("bkk->bk", counts), counts.sum(axis=2))


def _specificity(counts: np.ndarray) -> np.ndarray:
    others = counts.sum(axis=(1, 2))[:, None] - counts.sum(axis=2)
    wrongly_named = counts.sum(axis=1) - np.einsum("bkk->bk", counts)
    return divide(others - wrongly_named, others)


def _f1(counts: np.ndarray) -> np.ndarray:
    return divide(2 * np.einsum("bkk->bk", counts), counts.sum(axis=1) + counts.sum(axis=2))


def mcc(counts: np.ndarray) -> np.ndarray:
    """Matthews correlation of (n, true, named) counts, in [-1, 1] (Gorodkin 2004 for more than two classes).

    NaN where one class only is present; 0, by convention, where one class only was named.
    """
    total, right = counts.sum(axis=(1, 2)), np.einsum("bkk->b", counts)
    true, named = counts.sum(axis=2), counts.sum(axis=1)
    spread_true, spread_named = total**2 - (true**2).sum(axis=1), total**2 - (named**2).sum(axis=1)
    covariance = right * total - (true * named).sum(axis=1)
    known = np.where(spread_named > 0, divide(covariance, np.sqrt(spread_true * spread_named)), 0.0)
    return np.where(spread_true > 0, known, np.nan)


def _scored(scores: np.ndarray, truth: np.ndarray, case: np.ndarray, n_cases: int) -> dict[str, Statistic]:
    """Of the probabilities themselves. Brier of two classes is of p_malignant, in [0, 1]; of more the sum
    over classes, in [0, 2] (Brier 1950). Log loss in nats."""
    hit = np.eye(scores.shape[1])[truth]
    squares = ((scores - hit) ** 2)[:, 1] if scores.shape[1] == 2 else ((scores - hit) ** 2).sum(axis=1)
    eps = np.finfo(np.float64).eps
    surprise = -np.log(np.clip(scores[np.arange(len(truth)), truth], eps, 1 - eps))
    n_images = sum_by_case(case, None, n_cases)
    return {
        "brier": ratio_statistic(sum_by_case(case, squares, n_cases), n_images),
        "log_loss": ratio_statistic(sum_by_case(case, surprise, n_cases), n_images),
        "ece": ece(*predicted_and_observed(scores, truth), case, n_cases),
    }


def predicted_and_observed(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(stated, came true): p_malignant and malignant for two classes,
    else the top probability and whether right."""
    if scores.shape[1] == 2:
        return scores[:, 1], (truth == 1).astype(float)
    return scores.max(axis=1), (scores.argmax(axis=1) == truth).astype(float)


def ece(stated: np.ndarray, came_true: np.ndarray, case: np.ndarray, n_cases: int) -> Statistic:
    """Expected calibration error over bins of equal mass, in [0, 1]; resamples keep the sample's own bins."""
    gaps = np.zeros((n_cases, N_BINS))
    np.add.at(gaps, (case, equal_mass_bins(stated)), came_true - stated)
    n_images = sum_by_case(case, None, n_cases)
    return lambda weights: divide(np.abs(weights @ gaps).sum(axis=1), weights @ n_images)


def equal_mass_bins(stated: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """(n,) bin of each value by its rank; equal values share a bin,
    so that the order of rows is of no account."""
    rank = np.searchsorted(np.sort(stated), stated, "left")
    return (rank * n_bins // len(stated)).astype(int)


def _nanmean(stacked: np.ndarray) -> np.ndarray:
    return divide(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(axis=0))


def _if_several(counts: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.where((counts.sum(axis=2) > 0).sum(axis=1) > 1, value, np.nan)
