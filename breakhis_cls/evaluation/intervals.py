"""95 % intervals that resample cases: images of one case are alike, so that the case is what was sampled."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from .tallies import Statistic

LEVEL = 0.95
N_RESAMPLES = 10_000
MIN_CASES = 5  # fewer cannot be resampled to any purpose: 4 cases have but 35 different resamples
METHOD = "percentile"
Method = Literal["percentile", "expanded", "bca"]


@dataclass(frozen=True)
class Interval:
    """Bounds of a metric; None where there are too few cases, with the reason."""

    low: float | None
    high: float | None
    reason: str = ""


def case_weights(n_cases: int, n_resamples: int, seed: int) -> np.ndarray:
    """(n_resamples, n_cases) float64: how often each case is drawn when n_cases are drawn with replacement."""
    rng = np.random.default_rng((seed, n_cases))
    return rng.multinomial(n_cases, np.full(n_cases, 1 / n_cases), n_resamples).astype(np.float64)


def value(statistic: Statistic, n_cases: int) -> float:
    """The metric itself: every case counted once. NaN where undefined."""
    return float(statistic(np.ones((1, n_cases)))[0])


def without_each(statistic: Statistic, n_cases: int) -> np.ndarray:
    """(n_cases,) the metric with one case left out: the jackknife, and each case's influence."""
    return statistic(1 - np.eye(n_cases))


def of(statistic: Statistic, weights: np.ndarray, n_behind: int, method: Method = METHOD) -> Interval:
    """Interval of a statistic under resampled case weights (n_resamples, n_cases), by the method named.

    `n_behind` is how many cases carry the metric: of the rarest class it needs. Resamples in which the metric is
    undefined (a class was not drawn) are left out.
    """
    if n_behind < MIN_CASES:
        return Interval(None, None, f"too few cases: {n_behind}")
    drawn = statistic(weights)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < len(weights) / 2:
        return Interval(None, None, "undefined in most resamples")
    found = value(statistic, weights.shape[1])
    if found in (0, 1) and np.ptp(drawn) == 0:
        return _exact(found, n_behind)
    low, high = BOUNDS[method](drawn, found, without_each(statistic, weights.shape[1]))
    return Interval(float(low), float(high))


def _exact(value: float, n_cases: int) -> Interval:
    """Where every case is right, or every one wrong, resampling shows no spread: Clopper and Pearson's bound."""
    reach = ((1 - LEVEL) / 2) ** (1 / n_cases)
    return Interval(reach, 1.0) if value == 1 else Interval(0.0, 1 - reach)


def _percentile(drawn: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    return np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def _expanded(drawn: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Percentile with tails widened as Student's t and the n / (n - 1) of a variance ask (Hesterberg 2015)."""
    n = len(left_out)
    tail = stats.norm.cdf(stats.t.ppf((1 - LEVEL) / 2, n - 1) * np.sqrt(n / (n - 1)))
    return np.quantile(drawn, [tail, 1 - tail])


def _bca(drawn: np.ndarray, value: float, left_out: np.ndarray) -> np.ndarray:
    """Bias-corrected and accelerated (Efron 1987)."""
    below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
    z = bias + stats.norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return np.quantile(drawn, stats.norm.cdf(bias + z / (1 - _acceleration(left_out) * z)))


def _acceleration(left_out: np.ndarray) -> float:
    pulls = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
    spread = (pulls**2).sum() ** 1.5
    return float((pulls**3).sum() / (6 * spread)) if spread > 0 else 0.0


BOUNDS = {"percentile": _percentile, "expanded": _expanded, "bca": _bca}


def seed_of(name: str, seed: int) -> int:
    """A stratum's own seed, the same on every machine."""
    return zlib.crc32(f"{seed}/{name}".encode())
