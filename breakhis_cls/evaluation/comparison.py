"""Is one model better than another? Paired over cases, with the smallest difference that so few cases could show."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import DataError, list_first
from . import bootstrap, case_statistics, metrics, predictions
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
    computed = [metrics.compute_statistics(table, COMPARED) for table in tables]
    cases = computed[0][1]
    # A case alone gives its own mean; times its share of the images these add up to the difference.
    case_shares = tables[0]["case"].value_counts(normalize=True).loc[cases].to_numpy()
    groups = bootstrap.case_classes(tables[0], cases)

    def compare(metric: str, a: int, b: int) -> dict[str, Any]:
        def difference(weights: np.ndarray) -> np.ndarray:
            return computed[b][0][metric](weights) - computed[a][0][metric](weights)

        entry: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "detectable"))
        value = bootstrap.statistic_value(difference, len(cases))
        if not np.isfinite(value):
            return entry
        entry["difference"] = value
        if reason := few_cases(tables[0], metric):
            return entry | {"no_test": reason}
        # A difference lies far from its bounds, so Student's t needs no other scale here.
        error, freedom = bootstrap.jackknife_error(difference, groups)
        if error < bootstrap.ROUNDING:
            return entry | {"no_test": "no case changes the difference"}
        quantile = stats.t.ppf(1 - bootstrap.TAIL, freedom)
        # A ranking is no sum over cases, so exchanging cases does not test it exactly: Student's t instead.
        if metric in SUMS_OVER_IMAGES:
            p = permutation_p_value(difference(np.eye(len(cases))) * case_shares)
        else:
            p = float(2 * stats.t.sf(abs(value) / error, freedom))
        bounds = {"low": value - quantile * error, "high": value + quantile * error}
        detectable = float((quantile + stats.t.ppf(POWER, freedom)) * error)
        if max(detectable, bounds["high"], -bounds["low"]) > np.ptp(metrics.METRICS[metric].range):
            return entry | {"no_test": "too few cases: the interval would leave the metric's range"}
        return entry | {**bounds, "p": p, "detectable": detectable}

    return compare_pairs(experiments, "metric", COMPARED, compare)


def compare_votes(experiments: list[Experiment], tables: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """McNemar's exact test of each pair's slide votes and, of the binary task, case votes; Holm over the pairs."""
    groups = ("slide", "case") if predictions.is_binary(tables[0]) else ("slide",)
    untested = {"p": None} if few_cases(tables[0], "image_accuracy") else {}
    compare = lambda group, a, b: mcnemar(tables[a], tables[b], group) | untested  # noqa: E731
    return compare_pairs(experiments, "votes", groups, compare)


def few_cases(table: pd.DataFrame, metric: str) -> str:
    """Why so few cases cannot be tested, or an empty string."""
    rarest = metrics.cases_behind(metric, metrics.count_cases(table))[1]
    return f"too few cases: {rarest}" if rarest < bootstrap.MIN_CASES else ""


def compare_pairs(experiments: list[Experiment], kind: str, names: Sequence[str], compare) -> list[dict[str, Any]]:
    """An entry of `compare(name, a, b)` for each name and pair, with Holm's correction over the pairs of a name."""
    entries, pairs = [], list(combinations(range(len(experiments)), 2))
    for name in names:
        compared = [compare(name, a, b) for a, b in pairs]
        for (a, b), one, p in zip(pairs, compared, holm_adjust([one["p"] for one in compared]), strict=True):
            entries.append({"a": experiments[a].name, "b": experiments[b].name, kind: name, **one, "p_holm": p})
    return entries


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


def mcnemar(a: pd.DataFrame, b: pd.DataFrame, group: str) -> dict[str, Any]:
    """Exact McNemar test of slide or case votes: only_a and only_b (correct with one model alone), n and p."""
    correct = [case_statistics.vote_by(table, group)["correct"] for table in (a, b)]
    only_a, only_b = int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum())
    # Exact, since few slides differ: the chi-square form needs some 25 of them.
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "n": len(correct[0]), "p": p}
