"""ROC AUC and average precision as functions of case weights, and the sums by case that all tallies are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]
N_STEPS = 500  # of a precision-recall curve, where the curve of every resample is wanted
CHUNK = 500  # resamples at a time where a matrix has a column for each image: some 10 MB each


def roc_auc(score: np.ndarray, y: np.ndarray, case: np.ndarray, n_cases: int) -> Statistic:
    """Share of (positive, negative) pairs in the right order, ties counting half:
    Mann-Whitney, exact, unbinned."""
    pairs = np.zeros((n_cases, n_cases))  # (case of the positive, case of the negative): pairs won
    positives, at = score[y], case[y]
    for other in np.unique(case[~y]):
        below = np.sort(score[~y & (case == other)])
        won = (np.searchsorted(below, positives, "left") + np.searchsorted(below, positives, "right")) / 2
        pairs[:, other] = sum_by_case(at, won, n_cases)
    n_positive, n_negative = sum_by_case(at, None, n_cases), sum_by_case(case[~y], None, n_cases)
    return lambda weights: divide(
        np.einsum("bc,bc->b", weights @ pairs, weights), (weights @ n_positive) * (weights @ n_negative)
    )


def average_precision(score: np.ndarray, y: np.ndarray, case: np.ndarray, n_cases: int) -> Statistic:
    """Sum of precision times the step in recall over distinct scores, uninterpolated, as scikit-learn defines
    it.

    Exact for up to 500 weightings; under more, which only ever give a spread, 500 of the steps stand for all.
    """
    steps = np.unique(score[y])[::-1]  # recall moves only at the scores of positives
    first = np.searchsorted(-steps, -score, "left")  # the first step whose score an image reaches
    positive, every = (_reached(first[mask], case[mask], n_cases, len(steps)) for mask in (y, np.ones_like(y)))
    few = np.unique(np.linspace(0, len(steps) - 1, N_STEPS).round().astype(int)) if len(steps) else steps.astype(int)
    has_negatives = not y.all()

    def value(weights: np.ndarray) -> np.ndarray:
        if not has_negatives or not len(steps):
            return undefined(weights)
        used = few if len(weights) > CHUNK else slice(None)
        return np.concatenate([_average_precision(c, positive[:, used], every[:, used]) for c in _chunks(weights)])

    return value


def _reached(first: np.ndarray, case: np.ndarray, n_cases: int, n_steps: int) -> np.ndarray:
    """(n_cases, n_steps) images of each case at or above each step;
    float32 holds counts exactly to 16 million."""
    counts = np.zeros((n_cases, n_steps + 1), np.float32)
    np.add.at(counts, (case, first), 1)
    return counts.cumsum(axis=1)[:, :n_steps]


def _average_precision(weights: np.ndarray, positive: np.ndarray, every: np.ndarray) -> np.ndarray:
    hits, named = weights @ positive, weights @ every
    precision = hits / np.maximum(named, 1)
    gains = np.diff(hits, axis=1, prepend=np.float32(0))
    return divide(np.einsum("bt,bt->b", gains, precision).astype(np.float64), hits[:, -1].astype(np.float64))


def sum_by_case(at: np.ndarray, values: np.ndarray | None, n: int) -> np.ndarray:
    """(n,) sums of values (m,), or of ones, at the indices `at` (m,)."""
    return np.bincount(at, weights=values, minlength=n).astype(np.float64)


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Quotients; NaN where the divisor is not positive."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def _chunks(weights: np.ndarray) -> Iterable[np.ndarray]:
    return (weights[at : at + CHUNK].astype(np.float32) for at in range(0, len(weights), CHUNK))


def undefined(weights: np.ndarray) -> np.ndarray:
    """The statistic that has no value."""
    return np.full(len(weights), np.nan)
