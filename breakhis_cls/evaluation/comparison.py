"""Is one model better than another? Paired over cases, with the smallest difference that so few cases could show."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import DataError, list_first
from . import bootstrap, metrics, predictions
from .case_statistics import Statistic
from .experiments import Experiment, check_agreement

COMPARED = ("roc_auc", "balanced_accuracy", "image_accuracy", "brier", "log_loss")
SUMS_OVER_IMAGES = ("image_accuracy", "brier", "log_loss")  # exchanging cases between models is an exact test of these
N_PERMUTATIONS = 19_999  # and the sample itself; all 2^n of them where there are no more, up to 14 cases
POWER = 0.8  # of the smallest detectable difference: the usual choice in planning a study


def align_experiments(experiments: list[Experiment], common: bool = False) -> list[pd.DataFrame]:
    """Test rows of each experiment, of the same images; where test sets differ, DataError, or with `common` those of
    the images that all of them tested. DataError, too, where they disagree on what an image is."""
    tables = [experiment.test for experiment in experiments]
    keys = [predictions.image_keys(table) for table in tables]  # whatever folder, slashes or suffix
    files = [set(each) for each in keys]
    shared = set.intersection(*files)
    if not shared:
        raise DataError("the experiments have no test image in common; compare predictions of the same images")
    if not common and any(each != shared for each in files):
        pairs = zip(experiments, files, strict=True)
        sizes = [f"{one.name}: {len(each):,} test images, {len(each - shared):,} of its own" for one, each in pairs]
        fault = f"the test sets differ, {len(shared):,} images are common; --common compares those:"
        raise DataError(fault + list_first(sizes, len(sizes)))
    if len({predictions.class_names(table) for table in tables}) > 1:
        raise DataError("the experiments predict different classes; compare models of one task")
    tables = [table[each.isin(shared)].reset_index(drop=True) for table, each in zip(tables, keys, strict=True)]
    check_agreement(tables, [experiment.name for experiment in experiments])
    return tables


def compare_experiments(experiments: list[Experiment], tables: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """An entry for each metric and pair of `tables`, as align_experiments returns them: a, b, metric, difference (b
    minus a), low, high, p, detectable, p_holm; None where undefined, and without a test `no_test` says why. `p` is by
    exchanging whole cases between the models where the metric is a sum over images, else by Student's t of the
    jackknife over cases; Holm's correction runs over the pairs of one metric. `detectable` is the smallest difference
    that this many cases show with 80 % power at 5 %: a smaller one would mostly have been missed."""
    computed, cases = [metrics.compute_statistics(table, COMPARED)[0] for table in tables], tables[0].groupby("case")
    # A case alone gives its own mean; times its share of the images these add up to the difference.
    case_shares = (cases.size() / len(tables[0])).to_numpy()
    groups = bootstrap.case_classes(tables[0], cases.size().index)
    entries, pairs = [], list(combinations(range(len(experiments)), 2))
    for metric in COMPARED:
        rarest = metrics.cases_behind(metric, metrics.count_cases(tables[0]))[1]
        few = f"too few cases: {rarest}" if rarest < bootstrap.MIN_CASES else ""
        found: list[dict[str, Any]] = [
            {"a": experiments[a].name, "b": experiments[b].name, "metric": metric}
            | compare_pair(metric, computed[a][metric], computed[b][metric], case_shares, groups, few)
            for a, b in pairs
        ]
        adjusted = holm_adjust([entry["p"] for entry in found])
        entries += [entry | {"p_holm": p} for entry, p in zip(found, adjusted, strict=True)]
    return entries


def compare_pair(
    metric: str, first: Statistic, second: Statistic, case_shares: np.ndarray, groups: np.ndarray, few: str
) -> dict[str, Any]:
    """difference, low, high, p and detectable of one pair; `few` says why so few cases cannot be tested, or nothing."""

    def difference(weights: np.ndarray) -> np.ndarray:
        return second(weights) - first(weights)

    value = bootstrap.statistic_value(difference, len(groups))
    entry: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "detectable"))
    if not np.isfinite(value):
        return entry
    entry["difference"] = value
    if few:
        return entry | {"no_test": few}
    # A difference lies far from its bounds, so Student's t needs no other scale here.
    error, freedom = bootstrap.jackknife_error(difference, groups)
    if error < bootstrap.ROUNDING:
        return entry | {"no_test": "no case changes the difference"}
    quantile = stats.t.ppf(1 - bootstrap.TAIL, freedom)
    bounds = {"low": value - quantile * error, "high": value + quantile * error}
    detectable = float((quantile + stats.t.ppf(POWER, freedom)) * error)
    if max(detectable, bounds["high"], -bounds["low"]) > np.ptp(metrics.METRICS[metric].range):
        return entry | {"no_test": "too few cases: the interval would leave the metric's range"}
    # A ranking is no sum over cases, so exchanging cases does not test it exactly: Student's t instead.
    if metric in SUMS_OVER_IMAGES:
        p = permutation_p_value(difference(np.eye(len(groups))) * case_shares)
    else:
        p = float(2 * stats.t.sf(abs(value) / error, freedom))
    return entry | {**bounds, "p": p, "detectable": detectable}


def permutation_p_value(by_case: np.ndarray) -> float:
    """Two-sided p of a difference that is a sum over cases (n_cases,), under exchanging each case between the models.
    Exact up to 14 cases; beyond, of 19,999 random exchanges and the sample itself."""
    # Of one sample, SciPy's paired permutation changes signs. The absolute sum makes the test two-sided.
    test = stats.permutation_test(
        (by_case,), lambda signed, axis: np.abs(signed.sum(axis=axis)), permutation_type="samples", vectorized=True,
        n_resamples=N_PERMUTATIONS, alternative="greater", rng=np.random.default_rng((0, len(by_case))),
    )  # fmt: skip
    return float(test.pvalue)


def holm_adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction; None stays None."""
    known = pd.Series(p_values, dtype=float).dropna().sort_values()
    # The smallest times their number, the next times one less, and never below the one before.
    adjusted = (known * np.arange(len(known), 0, -1)).clip(upper=1).cummax()
    return [adjusted.get(at) for at in range(len(p_values))]
