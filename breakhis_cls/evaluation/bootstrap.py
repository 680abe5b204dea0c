"""95 % intervals that resample cases: images of one case are alike, so the case is what was sampled.

The method, `logit_t` with a guard, was chosen by simulation (scripts/coverage.py, docs/statistics.md): with 16 or 5
benign cases, percentile intervals are too narrow, since they know neither Student's t nor how few cases carry a metric;
and no resampling knows of a case that fails as a whole and was not sampled.
"""

import zlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from . import predictions
from .case_statistics import Statistic

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
N_RESAMPLES = 10_000
MIN_CASES = 5  # of each class that a metric mixes
FILLED = 0.9  # of a metric's range: an interval this wide says nothing
ROUNDING = 1e-12  # spread of equal numbers that are added in another order
WORST_COVERAGE = {70: 0.863, 23: 0.867}  # by number of cases, of any metric and simulated model: docs/coverage.csv
METHOD = "logit_t"  # as metrics.json names it


class Interval(NamedTuple):
    """Bounds of a metric; None where there are too few cases, with the reason."""

    low: float | None
    high: float | None
    reason: str = ""


def case_weights(n_cases: int, n_resamples: int, seed: int) -> np.ndarray:
    """(n_resamples, n_cases) float64: how often each case is drawn when n_cases are drawn with replacement."""
    rng = np.random.default_rng((seed, n_cases))
    return rng.multinomial(n_cases, np.full(n_cases, 1 / n_cases), n_resamples).astype(np.float64)


def named_seed(name: str, seed: int) -> int:
    """A stratum's own seed, the same on every machine: not hash(), which Python salts anew in every process."""
    return zlib.crc32(f"{seed}/{name}".encode())


def case_classes(rows: pd.DataFrame, cases: pd.Index) -> np.ndarray:
    """(n_cases,) the class of each case, for the subtype task that of most of its images: variances are estimated
    within each class."""
    # By label alone, the sensitivity of four LC cases would have the freedom of all 54 malignant ones.
    column = "label" if predictions.is_binary(rows) else "subtype"
    classes, of_image = np.unique(rows[column].to_numpy(str), return_inverse=True)
    counts = np.zeros((len(cases), len(classes)))
    np.add.at(counts, (cases.get_indexer(rows["case"]), of_image), 1)
    return counts.argmax(axis=1)


def statistic_value(statistic: Statistic, n_cases: int) -> float:
    """The metric itself: every case counted once. NaN where undefined."""
    return float(statistic(np.ones((1, n_cases)))[0])


def jackknife_values(statistic: Statistic, n_cases: int) -> np.ndarray:
    """(n_cases,) the metric without each case."""
    return statistic(1 - np.eye(n_cases))


def bootstrap_interval(
    statistic: Statistic, weights: np.ndarray, groups: np.ndarray, n_behind: int, limits: tuple[float, float] = (0, 1),
    failing: float | None = None, share: float = 1,
) -> Interval:  # fmt: skip
    """Interval of a statistic under resampled case weights (n_resamples, n_cases). `groups` (n_cases,) are kinds of
    cases, `n_behind` is how many cases the metric is about, `limits` its range. `failing` is the metric of a case that
    fails as a whole, `share` how much of the metric is lost where all cases that it is about fail (half of balanced
    accuracy). Resamples in which the metric is undefined are left out."""
    if n_behind < MIN_CASES:
        return Interval(None, None, f"too few cases: {n_behind}")
    if not len(weights):
        return Interval(None, None, "left to the report: breakhis evaluate")
    drawn = statistic(weights)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < len(weights) / 2:  # the rest would not represent the cases
        return Interval(None, None, "undefined in most resamples")
    value = statistic_value(statistic, weights.shape[1])
    low, high = limits
    # Of n cases without a failure, up to this share may fail (Clopper and Pearson 1934).
    unseen = 1 - TAIL ** (1 / n_behind)
    reach = (high - low) * unseen
    if value - low < ROUNDING:  # every case correct, or none: the logit is infinite, and resampling shows no spread
        bounds = low, low + reach
    elif high - value < ROUNDING:
        bounds = high - reach, high
    elif np.ptp(drawn) < ROUNDING:
        return Interval(None, None, "the same in all resamples of cases")
    else:
        # Student's t on the logit scale, which has no bounds.
        if drawn.min() > low and drawn.max() < high:
            error = np.std(special.logit((drawn - low) / (high - low)))
        else:  # a resample reaches a bound, where the logit is infinite: the delta method
            error = np.std(drawn) * (high - low) / ((value - low) * (high - value))
        freedom = degrees_of_freedom(jackknife_values(statistic, weights.shape[1]), groups)
        # n / (n - 1) corrects the variance of a bootstrap over few cases, which is too small by that factor.
        reach = stats.t.ppf([TAIL, 1 - TAIL], freedom) * error * np.sqrt((freedom + 1) / freedom)
        bounds = low + (high - low) * special.expit(special.logit((value - low) / (high - low)) + reach)
        if failing is not None:  # a failing case may not be in the sample
            guard = value + share * unseen * (failing - value)
            bounds = min(bounds[0], guard), max(bounds[1], guard)
    if bounds[1] - bounds[0] >= FILLED * (high - low):
        return Interval(None, None, "too few cases: it would fill the range")
    return Interval(float(bounds[0]), float(bounds[1]))


def jackknife_error(statistic: Statistic, groups: np.ndarray) -> tuple[float, float]:
    """Standard error of a statistic without bounds, such as a difference, and its degrees of freedom; over cases."""
    left_out = jackknife_values(statistic, len(groups))
    known = left_out[np.isfinite(left_out)]
    return float(np.sqrt((len(known) - 1) * np.var(known))), degrees_of_freedom(left_out, groups)


def degrees_of_freedom(left_out: np.ndarray, groups: np.ndarray) -> float:
    """Satterthwaite's (1946), of the variance that the jackknife (n_cases,) finds within each group of cases.
    Specificity varies with benign cases alone, and so has as many degrees of freedom as they allow; ROC AUC has
    something between the smaller class's and all."""
    known = [left_out[(groups == group) & np.isfinite(left_out)] for group in np.unique(groups)]
    parts = [(len(values) * np.var(values, ddof=1), len(values) - 1) for values in known if len(values) > 1]
    variances, freedoms = np.array(parts or [(0, 1)], float).T
    if variances.sum() == 0:  # no case changes the metric
        return float(freedoms.sum())
    shares = variances / variances.sum()
    return float(1 / (shares**2 / freedoms).sum())
