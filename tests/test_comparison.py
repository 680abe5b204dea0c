"""Paired tests between models, on numbers that can be checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from test_bootstrap import simulated
from test_predictions import made

from breakhis_cls.evaluation import comparison, experiments


def test_permutation_p_value_by_hand() -> None:
    """Four cases that all favour one model: two of sixteen exchanges are as extreme."""
    assert comparison.permutation_p_value(np.array([0.1, 0.2, 0.3, 0.1])) == 2 / 16
    assert comparison.permutation_p_value(np.zeros(30)) == 1
    assert comparison.permutation_p_value(np.full(30, 0.1)) == pytest.approx(1 / 20_000)


def test_holm_by_hand() -> None:
    assert comparison.holm_adjust([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]


def compare(a: pd.DataFrame, b: pd.DataFrame) -> list[dict]:
    pair = [experiments.Experiment(name, (), table) for name, table in zip("ab", (a, b), strict=True)]
    found = comparison.compare_experiments(pair, [a, b])
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize(
    "cases",
    [["14134"], ["14134", "2980"], ["14134", "9133", "22704", "13200", "2980", "20629", "16456", "12465", "190"]],
)
def test_below_five_cases_of_a_class_nothing_is_tested(cases: list[str]) -> None:
    a, b = (table[table["case"].isin(cases)].reset_index(drop=True) for table in (made(), made(seed=1)))
    found = compare(a, b)
    assert all(entry["p"] is None and entry["p_holm"] is None for entry in found)
    reasons = {entry["no_test"] for entry in found if entry["difference"] is not None}
    assert len(reasons) == 1 and reasons.pop().startswith("too few cases: ")


def test_an_interval_beyond_the_range_of_the_metric_is_not_given() -> None:
    """Five benign cases: one model is perfect, the other misclassifies two of them: ROC AUC -0.4, give or take 0.7."""
    a = made()
    a = a[a["case"].isin(a.drop_duplicates("case").groupby("label")["case"].head(5))].reset_index(drop=True)
    a["p_malignant"] = np.where(a["label"] == "malignant", 0.9, 0.1)
    wrong = a["case"].isin(a.loc[a["label"] == "benign", "case"].unique()[:2])
    entries = compare(a, a.assign(p_malignant=a["p_malignant"].mask(wrong, 0.99)))
    auc = next(entry for entry in entries if entry["metric"] == "roc_auc")
    assert auc["difference"] < -0.3 and (auc["low"], auc["p"], auc["p_holm"]) == (None, None, None)
    assert auc["no_test"] == "too few cases: the interval would leave the metric's range"


def test_equal_models_have_no_interval_without_width() -> None:
    table = made()
    for entry in compare(table, table.assign(p_malignant=table["p_malignant"] ** 2)):
        if entry["metric"] == "roc_auc":
            assert (entry["difference"], entry["p"], entry["low"]) == (0, None, None)
            assert entry["no_test"] == "no case changes the difference"


def test_equally_good_models_rarely_differ() -> None:
    """Of 30 pairs of equally good models one or two reach p < 0.05, on either test."""
    p_values = {"roc_auc": [], "image_accuracy": []}
    for seed in range(30):
        tables = [simulated(np.random.default_rng((seed, at)), 20, 12, 4) for at in (1, 2)]
        pair = [experiments.Experiment(name, (), table) for name, table in zip("ab", tables, strict=True)]
        for entry in comparison.compare_experiments(pair, tables):
            if entry["metric"] in p_values:
                p_values[entry["metric"]].append(entry["p"])
    assert all(sum(p < 0.05 for p in found) <= 5 for found in p_values.values())
