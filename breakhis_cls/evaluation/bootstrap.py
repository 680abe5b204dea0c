"""95 % intervals that resample cases: images of one case are alike, so that the case is what was sampled.

The method, `logit_t`, was chosen by simulation (scripts/coverage.py, docs/statistics.md): with 16 or 5 benign
cases percentile and BCa intervals are too narrow, since they know neither Student's t nor how few cases carry
a metric.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from .case_statistics import Statistic

LEVEL = 0.95
N_RESAMPLES = 10_000
MIN_CASES = 3  # of the rarest class that a metric needs
Method = Literal["logit_t", "percentile", "bca"]
METHOD: Method = "logit_t"
Span = tuple[float, float]  # what values a metric may take
TAILS = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])


@dataclass(frozen=True)
class Interval:
    """Bounds of a metric; None where there are too few cases, with the reason."""

    low: float | None
    high: float | None
    reason: str = ""


def case_weights(n_cases: int, n_resamples: int, seed: int) -> np.ndarray:
    """(n_resamples, n_cases) float64: how often each case is drawn
    when n_cases are drawn with replacement."""
    rng = np.random.default_rng((seed, n_cases))
    return rng.multinomial(n_cases, np.full(n_cases, 1 / n_cases), n_resamples).astype(np.float64)


def named_seed(name: str, seed: int) -> int:
    """A stratum's own seed, the same on every machine."""
    return zlib.crc32(f"{seed}/{name}".encode())


def case_labels(rows: pd.DataFrame, cases: pd.Index) -> np.ndarray:
    """(n_cases,) the label of each case, 0 benign or 1 malignant: cases of one label vary alike."""
    malignant = (rows["label"] == "malignant").groupby(rows["case"]).mean()
    return (malignant.loc[cases].to_numpy() >= 0.5).astype(int)


def statistic_value(statistic: Statistic, n_cases: int) -> float:
    """The metric itself: every case counted once. NaN where undefined."""
    return float(statistic(np.ones((1, n_cases)))[0])


def jackknife_values(statistic: Statistic, n_cases: int) -> np.ndarray:
    """(n_cases,) the metric with one case left out: the jackknife, and each case's influence."""
    return statistic(1 - np.eye(n_cases))


def bootstrap_interval(
    statistic: Statistic, weights: np.ndarray, groups: np.ndarray, n_behind: int,
    span: Span = (0, 1), method: Method = METHOD,
) -> Interval:  # fmt: skip
    """Interval of a statistic under resampled case weights (n_resamples, n_cases).

    `groups` (n_cases,) are kinds of cases, `n_behind` is how many cases of the rarest kind the metric needs,
    `span` its range. Resamples in which the metric is undefined (a class was not drawn) are left out.
    """
    if n_behind < MIN_CASES:
        return Interval(None, None, f"too few cases: {n_behind}")
    drawn = statistic(weights)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < len(weights) / 2:
        return Interval(None, None, "undefined in most resamples")
    found = statistic_value(statistic, weights.shape[1])
    if found in span and np.ptp(drawn) == 0:
        return _exact(found, span, n_behind)
    left_out = jackknife_values(statistic, weights.shape[1])
    if method == "logit_t":
        bounds = _logit_t(drawn, found, degrees_of_freedom(left_out, groups), span)
    else:
        bounds = np.quantile(drawn, TAILS if method == "percentile" else _bca_tails(drawn, found, left_out))
    return Interval(float(bounds[0]), float(bounds[1]))


def degrees_of_freedom(left_out: np.ndarray, groups: np.ndarray) -> float:
    """Satterthwaite's (1946), of the variance that the jackknife finds within each group of cases.

    Specificity varies with benign cases alone, and so has as many degrees of freedom as they allow; ROC AUC
    has something between the smaller class's and all.
    """
    parts = []
    for group in np.unique(groups):
        pulls = left_out[(groups == group) & np.isfinite(left_out)]
        if len(pulls) > 1:
            parts.append((len(pulls) * np.var(pulls, ddof=1), len(pulls) - 1))
    variances, freedoms = np.array(parts).T if parts else (np.zeros(1), np.ones(1))
    if variances.sum() == 0:
        return float(freedoms.sum())
    shares = variances / variances.sum()
    return float(1 / (shares**2 / freedoms).sum())


def jackknife_se(statistic: Statistic, groups: np.ndarray) -> tuple[float, float]:
    """The standard error that the jackknife over cases finds, and its degrees of freedom."""
    left_out = jackknife_values(statistic, len(groups))
    known = left_out[np.isfinite(left_out)]
    error = np.sqrt((len(known) - 1) * np.mean((known - known.mean()) ** 2)) if len(known) > 1 else np.inf
    return float(error), degrees_of_freedom(left_out, groups)


def _logit_t(drawn: np.ndarray, value: float, freedom: float, span: Span) -> np.ndarray:
    """Student's t with the bootstrap's standard error, on the scale on which a bounded metric has no bounds.

    Logit for a metric within bounds, logarithm for one without an upper bound. (n / (n - 1)) ** 0.5 mends
    what a bootstrap variance lacks with few cases.
    """
    error = np.std(drawn) / _slope(value, span)  # by the delta method, where a resample touches a bound
    if drawn.min() > span[0] and drawn.max() < span[1]:
        error = np.std(_unbounded(drawn, span))
    reach = stats.t.ppf(TAILS, freedom) * error * np.sqrt((freedom + 1) / freedom)
    return _bounded(_unbounded(np.array(value), span) + reach, span)


def _unbounded(values: np.ndarray, span: Span) -> np.ndarray:
    low, high = span
    return np.log(values - low) if np.isinf(high) else np.log((values - low) / (high - values))


def _bounded(values: np.ndarray, span: Span) -> np.ndarray:
    low, high = span
    return low + np.exp(values) if np.isinf(high) else low + (high - low) / (1 + np.exp(-values))


def _slope(value: float, span: Span) -> float:
    low, high = span
    return value - low if np.isinf(high) else (value - low) * (high - value) / (high - low)


def _bca_tails(drawn: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Which quantiles to take when corrected for bias and acceleration (Efron 1987)."""
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    pulls = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
    size = (pulls**2).sum() ** 1.5
    acceleration = (pulls**3).sum() / (6 * size) if size > 0 else 0.0
    z = bias + stats.norm.ppf(TAILS)
    return stats.norm.cdf(bias + z / (1 - acceleration * z))


def _exact(value: float, span: Span, n_cases: int) -> Interval:
    """Where every case is right, or every one wrong, resampling shows no spread:
    Clopper and Pearson's bound."""
    low, high = span
    reach = (1 - LEVEL) / 2
    share = (high - low) * (1 - reach ** (1 / n_cases)) if np.isfinite(high) else 0.0
    return Interval(low + 0.0, low + share) if value == low else Interval(high - share, high + 0.0)
