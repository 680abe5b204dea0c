"""Metrics as functions of case weights: weights of one give the value, resampled weights give the interval.

A case's images enter through sums computed once (n_cases numbers, or a matrix of pairs of cases), so that 10,000
resamples of 7,909 images are a few matrix products. A statistic maps weights (n_resamples, n_cases), float64 counts of
how often each case was drawn, to values (n_resamples,), NaN where undefined.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from . import predictions

Statistic = Callable[[np.ndarray], np.ndarray]
N_BINS = 15  # of equal mass, for ECE
N_STEPS = 500  # of a precision-recall curve, where the curve of every resample is needed
EPSILON = np.finfo(np.float64).eps
LARGEST_LOSS = -np.log(EPSILON)  # log loss of a probability of 0, in nats
CHUNK = 500  # resamples at a time where a matrix has a column for each image: some 10 MB each


@dataclass(frozen=True)
class ScoredImages:
    """Predictions in which each image occurs once; what every statistic is computed from."""

    rows: pd.DataFrame
    case: np.ndarray  # (n,) index of each image's case, below n_cases
    n_cases: int
    true: np.ndarray  # (n,) index of the true class
    predicted: np.ndarray  # (n,) index of the predicted class
    scores: np.ndarray  # (n, n_classes) predicted probabilities
    is_binary: bool  # class 1 is positive; otherwise statistics are macro averages

    def one_against_rest(self, at: int) -> "ScoredImages":
        """The binary task of one class against all others."""
        scores = np.stack([1 - self.scores[:, at], self.scores[:, at]], axis=1)
        true, predicted = ((labels == at).astype(int) for labels in (self.true, self.predicted))
        return replace(self, true=true, predicted=predicted, scores=scores, is_binary=True)

    def predicted_and_observed(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) predicted probability and (n,) outcome, 0 or 1: p_malignant and malignant for two classes; for more
        the top probability and whether that class is correct."""
        if self.scores.shape[1] == 2:
            return self.scores[:, 1], (self.true == 1).astype(float)
        return self.scores.max(axis=1), (self.scores.argmax(axis=1) == self.true).astype(float)

    def sum_by_case(self, values: np.ndarray) -> np.ndarray:
        """(n_cases, ...) sums of values (n, ...) of images."""
        sums = np.zeros((self.n_cases, *values.shape[1:]))
        np.add.at(sums, self.case, values)
        return sums


def score_images(table: pd.DataFrame) -> tuple[list[ScoredImages], pd.Index]:
    """The replicates of a predictions table, and the cases that weights refer to."""
    cases = pd.Index(sorted(table["case"].unique()))
    return [
        ScoredImages(
            rows, cases.get_indexer(rows["case"]), len(cases), predictions.true_labels(rows),
            predictions.predicted_labels(rows), predictions.probabilities(rows), predictions.is_binary(rows),
        )
        for rows in predictions.replicates(table)
    ], cases  # fmt: skip


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotients; NaN where the divisor is not positive."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def mean_over_rows(values: np.ndarray, case: np.ndarray, n_cases: int) -> Statistic:
    """The mean of values (m,), one for each image, slide or case, which belong to the cases `case` (m,)."""
    sums, counts = np.bincount(case, values, n_cases), np.bincount(case, None, n_cases)
    return lambda weights: divide(weights @ sums, weights @ counts)


def mean_statistic(statistics: list[Statistic]) -> Statistic:
    """The mean of several statistics under the same weights, over those that are defined."""
    return lambda weights: nanmean(np.stack([statistic(weights) for statistic in statistics]))


def nanmean(stacked: np.ndarray) -> np.ndarray:
    """np.nanmean over the first axis, without its warning where all are NaN."""
    return divide(np.nansum(stacked, axis=0), (~np.isnan(stacked)).sum(axis=0))


def undefined(weights: np.ndarray) -> np.ndarray:
    return np.full(len(weights), np.nan)


# --- means over images, slides and cases ---


def image_accuracy(images: ScoredImages) -> Statistic:
    """Share of images correctly classified."""
    return mean_over_rows((images.predicted == images.true).astype(float), images.case, images.n_cases)


def recognition_rate(images: ScoredImages) -> Statistic:
    """Mean over slides of the share of a slide's images correctly classified (Spanhol et al. 2016, eq. 2)."""
    _, first, slide, n_images = np.unique(
        images.rows["slide"].to_numpy(str), return_index=True, return_inverse=True, return_counts=True
    )
    shares = np.bincount(slide, images.predicted == images.true) / n_images
    return mean_over_rows(shares, images.case[first], images.n_cases)


def vote_by(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    """Mean probabilities of each slide or case, then threshold or most probable class: p_<class>, truth (-1 where a
    group has two classes), voted, correct, sorted by group."""
    voted = rows.groupby(group, sort=True)[[f"p_{name}" for name in predictions.class_names(rows)]].mean()
    true, at = predictions.true_labels(rows), voted.index.get_indexer(rows[group])
    lowest, highest = np.full(len(voted), true.max()), np.full(len(voted), -1)
    np.minimum.at(lowest, at, true)
    np.maximum.at(highest, at, true)
    truth, predicted = np.where(lowest == highest, lowest, -1), predictions.predicted_labels(voted)
    return voted.assign(truth=truth, voted=predicted, correct=predicted == truth)


def vote_accuracy(images: ScoredImages, group: str) -> Statistic:
    """Share of slides or cases whose vote is correct; undefined where a case has no single true class."""
    voted = vote_by(images.rows, group)
    # Case 13412 has slides of two subtypes, DC and LC, so cases do not vote on subtypes.
    if group == "case" and not (images.is_binary and (voted["truth"] >= 0).all()):
        return undefined
    first = np.unique(images.rows[group].to_numpy(str), return_index=True)[1]  # sorted, as the votes are
    return mean_over_rows(voted["correct"].to_numpy(float), images.case[first], images.n_cases)


# --- from the confusion matrix: hits, true and predicted images (n_resamples, n_classes) -> values of that shape ---


def recall(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Share of each class's images predicted as it: sensitivity."""
    return divide(hits, true)


def specificity(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Share of the other classes' images not predicted as each class."""
    others = true.sum(axis=1, keepdims=True) - true
    return divide(others - (predicted - hits), others)


def f1(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Harmonic mean of each class's precision and recall."""
    return divide(2 * hits, true + predicted)


def matthews_correlation(hits: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """MCC in [-1, 1] (Gorodkin 2004 for more than two classes), the same for each class."""
    total = true.sum(axis=1)
    spread_true, spread_predicted = total**2 - (true**2).sum(axis=1), total**2 - (predicted**2).sum(axis=1)
    covariance = hits.sum(axis=1) * total - (true * predicted).sum(axis=1)
    # With one predicted class the quotient is 0 / 0; scikit-learn returns 0 there too.
    value = np.where(spread_predicted > 0, divide(covariance, np.sqrt(spread_true * spread_predicted)), 0.0)
    return np.repeat(value[:, None], true.shape[1], axis=1)


def class_metric(
    by_class: Callable[..., np.ndarray], images: ScoredImages, macro: bool = False, several: bool = False
) -> Statistic:
    """A metric of the positive class, or the mean over the classes present (always, if `macro`). Undefined where only
    one class is present, if `several`."""
    one_hot = np.eye(images.scores.shape[1])
    by_case = images.sum_by_case(np.stack([
        one_hot[images.true] * one_hot[images.predicted], one_hot[images.true], one_hot[images.predicted]
    ], axis=1))  # fmt: skip

    def statistic(weights: np.ndarray) -> np.ndarray:
        hits, true, predicted = np.moveaxis(np.tensordot(weights, by_case, axes=1), 1, 0)
        values, present = by_class(hits, true, predicted), true > 0
        value = values[:, 1] if images.is_binary and not macro else nanmean(np.where(present, values, np.nan).T)
        return np.where(present.sum(axis=1) > 1, value, np.nan) if several else value

    return statistic


# --- from the ranking: macro averages over the classes present, each against the rest ---


def ranking_metric(of_class: Callable[..., Statistic], images: ScoredImages) -> Statistic:
    """ROC AUC or average precision of the positive class, or the mean over the classes present."""
    classes = [1] if images.is_binary else range(images.scores.shape[1])
    present = [at for at in classes if (images.true == at).any()]
    parts = [of_class(images.scores[:, at], images.true == at, images) for at in present]
    return mean_statistic(parts or [undefined])


def roc_auc(score: np.ndarray, is_class: np.ndarray, images: ScoredImages) -> Statistic:
    """Share of (positive, negative) pairs in the right order, ties counting half: Mann-Whitney, exact, unbinned."""
    case, n_cases = images.case, images.n_cases
    pairs = np.zeros((n_cases, n_cases))  # (case of the positive, case of the negative): pairs in the right order
    positives, positive_case = score[is_class], case[is_class]
    for other in np.unique(case[~is_class]):
        below = np.sort(score[~is_class & (case == other)])
        # The mean of the ranks from the left and from the right counts a tie as half.
        ordered = (np.searchsorted(below, positives, "left") + np.searchsorted(below, positives, "right")) / 2
        pairs[:, other] = np.bincount(positive_case, ordered, n_cases)
    # Resampling cases weighs each pair by both cases' weights: a quadratic form in the weights.
    n_positive, n_negative = np.bincount(positive_case, None, n_cases), np.bincount(case[~is_class], None, n_cases)
    return lambda weights: divide(
        np.einsum("bc,bc->b", weights @ pairs, weights), (weights @ n_positive) * (weights @ n_negative)
    )


def roc_auc_within_folds(score: np.ndarray, is_class: np.ndarray, images: ScoredImages) -> Statistic:
    """Mean of `roc_auc` over folds, weighted by their pairs of a case with positives and a case with negatives. A fold
    without one of the classes has no pairs, and does not count."""
    # Each fold has a model of its own, and pooled scores also compare the levels of different models.
    folds, parts = images.rows["fold"].to_numpy(), []
    for fold in np.unique(folds):
        at = folds == fold
        members, case = np.unique(images.case[at], return_inverse=True)
        auc = roc_auc(score[at], is_class[at], replace(images, case=case, n_cases=len(members)))
        parts.append((members, auc, *(np.bincount(case[mask[at]], None, len(members)) > 0
                                      for mask in (is_class, ~is_class))))  # fmt: skip

    def statistic(weights: np.ndarray) -> np.ndarray:
        top, bottom = np.zeros((2, len(weights)))
        for members, auc, positive, negative in parts:
            drawn = weights[:, members]
            pairs = (drawn @ positive) * (drawn @ negative)
            top += np.nan_to_num(auc(drawn)) * pairs
            bottom += pairs
        return divide(top, bottom)

    return statistic


def average_precision(score: np.ndarray, is_class: np.ndarray, images: ScoredImages) -> Statistic:
    """Sum of precision times the step in recall over distinct scores, uninterpolated, as scikit-learn defines it. Exact
    for up to 500 weightings; under more, which are only used for a spread, 500 of the steps stand for all."""
    if is_class.all() or not is_class.any():
        return undefined
    steps = np.unique(score[is_class])[::-1]  # recall moves only at the scores of positives
    first = np.searchsorted(-steps, -score)  # the first step at which an image counts as positive
    few = np.unique(np.linspace(0, len(steps) - 1, N_STEPS).round().astype(int))
    cumulative = []  # of positives and of all: (n_cases, n_steps) images of each case at or above each step
    for mask in (is_class, np.ones_like(is_class)):
        counts = np.zeros((images.n_cases, len(steps) + 1), np.float32)  # exact to 16 million
        np.add.at(counts, (images.case[mask], first[mask]), 1)
        cumulative.append(counts.cumsum(axis=1)[:, : len(steps)])

    def statistic(weights: np.ndarray) -> np.ndarray:
        positives, everything = (counts[:, few] if len(weights) > CHUNK else counts for counts in cumulative)
        values = []
        for drawn in np.split(weights.astype(np.float32), range(CHUNK, len(weights), CHUNK)):
            hits = drawn @ positives
            precision = hits / np.maximum(drawn @ everything, 1)
            sums = np.einsum("bt,bt->b", np.diff(hits, axis=1, prepend=np.float32(0)), precision)
            values.append(divide(sums.astype(np.float64), hits[:, -1].astype(np.float64)))
        return np.concatenate(values)

    return statistic


# --- from the probabilities themselves ---


def brier_score(images: ScoredImages) -> Statistic:
    """Mean squared error of p_malignant, in [0, 1]; of more than two classes their sum, in [0, 2] (Brier 1950)."""
    squares = (images.scores - np.eye(images.scores.shape[1])[images.true]) ** 2
    squares = squares[:, 1] if squares.shape[1] == 2 else squares.sum(axis=1)
    return mean_over_rows(squares, images.case, images.n_cases)


def log_loss(images: ScoredImages) -> Statistic:
    """Mean negative log probability of the true class, in nats."""
    losses = negative_log(images.scores[np.arange(len(images.true)), images.true])
    return mean_over_rows(losses, images.case, images.n_cases)


def negative_log(probability: np.ndarray) -> np.ndarray:
    """-log p in (0, 36]: a probability of 0 would cost infinitely much; clipped as in scikit-learn's log_loss."""
    return -np.log(np.clip(probability, EPSILON, 1 - EPSILON))


def expected_calibration_error(images: ScoredImages) -> Statistic:
    """Mean gap between predicted probability and observed frequency over bins of equal mass, in [0, 1]."""
    # Bins of equal width would leave most bins empty: good models predict near 0 and 1. Resamples keep these bins.
    predicted, observed = images.predicted_and_observed()
    gaps = images.sum_by_case(equal_mass_bins(predicted) * (observed - predicted)[:, None])
    n_images = np.bincount(images.case, None, images.n_cases)
    return lambda weights: divide(np.abs(weights @ gaps).sum(axis=1), weights @ n_images)


def equal_mass_bins(values: np.ndarray) -> np.ndarray:
    """(n, 15) one-hot bin of each value by its rank; equal values share a bin, so that the order of rows is nothing."""
    rank = np.searchsorted(np.sort(values), values, "left")
    return np.eye(N_BINS)[rank * N_BINS // len(values)]
