"""Is one model better than another? Paired over cases, and honest about what so few cases could have
shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import DataError, list_first
from . import bootstrap, case_statistics, metrics, predictions
from .experiments import Experiment

COMPARED = ("roc_auc", "balanced_accuracy", "image_accuracy", "brier", "log_loss")
# Sums over images, for which swapping a case's answers is an exact test:
ADDITIVE = ("image_accuracy", "brier", "log_loss")
N_SWAPS = 20_000
EXACT_UP_TO = 14  # cases: 2^14 ways of swapping are all tried
POWER = 0.8


def align_experiments(experiments: list[Experiment], common: bool = False) -> list[pd.DataFrame]:
    """Test rows of each experiment, of the same images; with `common` cut to the images that all of them
    tested.

    Raises DataError where the test sets differ and `common` is not set, or where nothing is shared.
    """
    tables = [experiment.test for experiment in experiments]
    sets = [set(table["file"]) for table in tables]
    shared = set.intersection(*sets)
    if not shared:
        raise DataError("the experiments have no test image in common; compare predictions of the same images")
    if not common and any(files != shared for files in sets):
        pairs = zip(experiments, sets, strict=True)
        sizes = [f"{one.name}: {len(files):,} test images, {len(files - shared):,} of its own" for one, files in pairs]
        raise DataError(
            f"the test sets differ, {len(shared):,} images are common; --common True compares those:"
            + list_first(sizes, len(sizes))
        )
    kinds = {predictions.class_names(table) for table in tables}
    if len(kinds) > 1:
        raise DataError("the experiments name different classes; compare models of one task")
    return [table[table["file"].isin(shared)].reset_index(drop=True) for table in tables]


def compare_experiments(
    experiments: list[Experiment], tables: list[pd.DataFrame], seed: int = 0
) -> list[dict[str, Any]]:
    """`tables` as `aligned` gives them. One entry for each pair and metric: a, b, metric, difference (b minus
    a), low, high, p, p_holm, detectable.

    `p` is by swapping whole cases between the models where the metric is a sum over images, else by Student's
    t of the jackknife over cases; Holm's correction runs over the pairs of one metric. `detectable` is the
    smallest difference that this many cases show with 80 % power at 5 %: a smaller one would mostly have been
    missed.
    """
    tallied = [metrics.compute_statistics(table) for table in tables]
    cases = tallied[0][1]
    sizes = tables[0]["case"].value_counts(normalize=True).loc[cases].to_numpy()
    groups = bootstrap.case_labels(tables[0], cases)
    entries = []
    for metric in COMPARED:
        pairs = list(combinations(range(len(tables)), 2))
        found = [_difference(metric, tallied[a][0], tallied[b][0], sizes, groups, seed) for a, b in pairs]
        for (a, b), entry, p in zip(pairs, found, holm_adjust([entry["p"] for entry in found]), strict=True):
            named = {"a": experiments[a].name, "b": experiments[b].name, "metric": metric}
            entries.append(named | entry | {"p_holm": p})
    return entries


def _difference(
    metric: str, a: dict[str, case_statistics.Statistic], b: dict[str, case_statistics.Statistic],
    sizes: np.ndarray, groups: np.ndarray, seed: int,
) -> dict[str, Any]:  # fmt: skip
    def statistic(drawn: np.ndarray) -> np.ndarray:
        return b[metric](drawn) - a[metric](drawn)

    n_cases = len(groups)
    value = bootstrap.statistic_value(statistic, n_cases)
    if not np.isfinite(value):
        return {"difference": None, "low": None, "high": None, "p": None, "detectable": None}
    spread, freedom = bootstrap.jackknife_se(statistic, groups)
    reach = stats.t.ppf((1 + bootstrap.LEVEL) / 2, freedom)
    p = float(2 * stats.t.sf(abs(value) / spread, freedom)) if spread > 0 else 1.0
    if metric in ADDITIVE:
        p = permutation_p_value(statistic(np.eye(n_cases)) * sizes, seed)
    detectable = (reach + stats.t.ppf(POWER, freedom)) * spread
    bounds = {"low": value - reach * spread, "high": value + reach * spread}
    return {"difference": value, **bounds, "p": p, "detectable": float(detectable)}


def permutation_p_value(per_case: np.ndarray, seed: int) -> float:
    """Two-sided p of a difference that is a sum over cases (n_cases,), when each case's answers may change
    places.

    Exact up to 14 cases; beyond, 20,000 random swaps, with the sample itself counted as one of them.
    """
    n_cases = len(per_case)
    if n_cases <= EXACT_UP_TO:
        signs = 1 - 2 * (np.arange(2**n_cases)[:, None] >> np.arange(n_cases) & 1)
    else:
        drawn = np.random.default_rng((seed, n_cases)).integers(0, 2, (N_SWAPS - 1, n_cases))
        signs = np.vstack([np.ones(n_cases), 1 - 2 * drawn])
    sums = np.abs(signs @ per_case)
    return float(np.mean(sums >= abs(per_case.sum()) - 1e-12))


def holm_adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction; None stays None."""
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[at] = highest
    return corrected


def compare_votes(experiments: list[Experiment], tables: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """McNemar's exact test of each pair's slide votes and, of the binary task, case votes;
    Holm over the pairs."""
    entries = []
    for group in ("slide", "case") if predictions.is_binary(tables[0]) else ("slide",):
        pairs = list(combinations(range(len(tables)), 2))
        found = [mcnemar(tables[a], tables[b], group) for a, b in pairs]
        for (a, b), entry, p in zip(pairs, found, holm_adjust([entry["p"] for entry in found]), strict=True):
            entries.append({"a": experiments[a].name, "b": experiments[b].name, "votes": group} | entry | {"p_holm": p})
    return entries


def mcnemar(a: pd.DataFrame, b: pd.DataFrame, group: str) -> dict[str, Any]:
    """Exact McNemar test of slide or case votes: only_a and only_b (right with one model alone) and p."""
    votes = [case_statistics.vote_by(table, group)["correct"] for table in (a, b)]
    only_a, only_b = int((votes[0] & ~votes[1]).sum()), int((votes[1] & ~votes[0]).sum())
    differ = only_a + only_b
    p = float(stats.binomtest(only_a, differ, 0.5).pvalue) if differ else 1.0
    return {"only_a": only_a, "only_b": only_b, "n": len(votes[0]), "p": p}
