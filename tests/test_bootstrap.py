"""Intervals resample cases: they cover, they repeat, and they are wider than those that resample images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_predictions import made

from breakhis_cls.data.protocols import official_images
from breakhis_cls.evaluation import bootstrap, metrics
from breakhis_cls.names import SUBTYPES


def simulated(rng: np.random.Generator, n_malignant: int, n_benign: int, n_images: int = 12) -> pd.DataFrame:
    """Cases whose images have correlated scores; one slide a case."""
    y = np.repeat([1, 0], [n_malignant, n_benign])
    score = (2 * y - 1) * 1.3 + rng.normal(0, 1, len(y))
    case, noise = np.repeat(np.arange(len(y)), n_images), rng.normal(0, 0.8, len(y) * n_images)
    p = 1 / (1 + np.exp(-1.6 * (score[case] + noise)))
    label = np.where(y[case] == 1, "malignant", "benign")
    return pd.DataFrame({
        "file": np.arange(len(case)).astype(str), "slide": case.astype(str), "case": case.astype(str), "fold": 0,
        "label": label, "subtype": np.where(y[case] == 1, "DC", "F"), "magnification": 40, "part": "test", "seed": 0,
        "p_benign": 1 - p, "p_malignant": p,
    })  # fmt: skip


def interval(table: pd.DataFrame, name: str, n_behind: int) -> bootstrap.Interval:
    statistics, cases = metrics.compute_statistics(table)
    weights = bootstrap.case_weights(len(cases), 400, seed=1)
    groups = bootstrap.case_classes(table, cases)
    return bootstrap.bootstrap_interval(statistics[name], weights, groups, n_behind, metrics.METRICS[name].range)


def test_without_resamples_there_is_no_interval_and_the_reason_is_given():
    weights = bootstrap.case_weights(8, 0, seed=0)
    found = bootstrap.bootstrap_interval(
        lambda w: w @ np.arange(8) / w.sum(axis=1), weights, np.zeros(8, int), 8, (0, 7)
    )
    assert (found.low, found.high) == (None, None) and "breakhis evaluate" in found.reason


def test_every_resample_draws_as_many_cases_as_there_are() -> None:
    weights = bootstrap.case_weights(70, 500, seed=3)
    assert (weights.sum(axis=1) == 70).all() and weights.mean(axis=0) == pytest.approx(1, abs=0.2)
    assert (weights == bootstrap.case_weights(70, 500, seed=3)).all()


def test_intervals_repeat_and_hold_the_value() -> None:
    first, again = (metrics.compute_metrics(made(), n_resamples=300)["pooled"] for _ in range(2))
    assert first == again
    assert all(result["low"] <= result["value"] <= result["high"] for result in first.values())
    other = metrics.compute_metrics(made(), n_resamples=300, seed=1)["pooled"]
    assert (
        other["roc_auc"]["value"] == first["roc_auc"]["value"] and other["roc_auc"]["high"] != first["roc_auc"]["high"]
    )


def test_resampling_images_gives_too_narrow_an_interval() -> None:
    table = simulated(np.random.default_rng(0), 54, 16)
    found = metrics.compute_metrics(table, n_resamples=500)["pooled"]["roc_auc"]
    assert found["image_high"] - found["image_low"] < 0.6 * (found["high"] - found["low"])


def test_each_stratum_has_resamples_of_its_own() -> None:
    """Equal rows under two magnifications: one seed for all strata would give equal intervals."""
    table = made(magnifications=(40,))
    both = pd.concat([table, table.assign(magnification=100, file="b" + table["file"].str.replace("SOB", "own"))])
    found = metrics.compute_metrics(both, n_resamples=200)["by_magnification"]
    assert found["40"]["roc_auc"]["value"] == found["100"]["roc_auc"]["value"]
    assert found["40"]["roc_auc"]["high"] != found["100"]["roc_auc"]["high"]


def test_the_interval_holds_the_true_value_of_simulated_cases() -> None:
    """A short form of scripts/coverage.py: specificity of five benign cases, 150 samples."""
    truth = 0.8557  # of 4,000 benign cases from the same simulation
    rng = np.random.default_rng(0)
    found = [interval(simulated(rng, 6, 5), "specificity", 5) for _ in range(150)]
    assert np.mean([one.low <= truth <= one.high for one in found if one.low is not None and one.high]) >= 0.9


@pytest.mark.slow
def test_a_table_of_breakhis_s_size_is_scored_with_10_000_resamples() -> None:
    table = simulated(np.random.default_rng(0), 54, 16, n_images=113).iloc[:7_909]
    table = table.assign(magnification=np.resize([40, 100, 200, 400], len(table)))
    found = metrics.compute_metrics(table)
    assert found["intervals"]["n_resamples"] == 10_000 and len(found["by_magnification"]) == 4


def test_too_few_cases_have_no_interval_and_say_so() -> None:
    table = made()
    few = table[
        (table["label"] == "malignant") | table["case"].isin(["22549", "14134", "9133", "22704"])
    ]  # four benign
    found = metrics.compute_metrics(few, n_resamples=200)["pooled"]
    refused = {name for name, result in found.items() if result.get("no_interval") == "too few cases: 4"}
    assert refused == set(metrics.METRICS) - {"sensitivity"} and found["sensitivity"]["low"] is not None


def with_benign(n_wrong: int) -> pd.DataFrame:
    """Sixteen benign cases of 40 images, of which `n_wrong` are misclassified; twenty malignant cases."""
    table = simulated(np.random.default_rng(0), 20, 16, n_images=40)
    benign = table.index[table["label"] == "benign"]
    table.loc[benign, "p_malignant"] = np.where(np.arange(640) < n_wrong, 0.9, 0.1)
    return table.assign(p_benign=1 - table["p_malignant"])


def test_one_misclassified_image_does_not_narrow_the_interval() -> None:
    """A case that fails as a whole may not be in the sample: of 16 without a failure, up to 20.6 % may."""
    none, one = (metrics.compute_metrics(with_benign(n), n_resamples=200)["pooled"] for n in (0, 1))
    assert none["specificity"]["low"] == pytest.approx(0.025 ** (1 / 16))
    assert one["specificity"]["low"] == pytest.approx(639 / 640 * 0.025 ** (1 / 16))
    assert one["roc_auc"]["low"] < 0.91 * one["roc_auc"]["value"]  # half of 20.6 %


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_a_constant_answer_has_no_interval_without_width(p: float) -> None:
    found = metrics.compute_metrics(made().assign(p_malignant=p, p_benign=1 - p), n_resamples=200)["pooled"]
    assert found["roc_auc"]["no_interval"] == found["mcc"]["no_interval"] == "the same in all resamples of cases"
    assert all(result["low"] is None or result["high"] - result["low"] > 0.1 for result in found.values())


def test_an_interval_that_says_nothing_is_refused() -> None:
    table = made()
    unsure = np.linspace(0.001, 0.002, len(table))  # were a case to fail, it would cost 6 nats
    p = np.where(table["label"] == "malignant", 1 - unsure, unsure)
    found = metrics.compute_metrics(table.assign(p_malignant=p, p_benign=1 - p), n_resamples=200)["pooled"]
    assert found["log_loss"]["no_interval"] == "too few cases: it would end above ten times the value"
    weights = bootstrap.case_weights(5, 500, seed=0)
    half, groups = [0, 1, 0, 1, 0.5], np.array([0, 0, 1, 1, 1])
    wide = bootstrap.bootstrap_interval(lambda drawn: drawn @ half / 5, weights, groups, 5)
    assert wide.low is None and wide.reason == "too few cases: it would fill the range"


def test_no_error_is_not_certainty() -> None:
    """Of n cases without an error, Clopper and Pearson's lower bound is 0.025 ** (1 / n)."""
    table = made().assign(p_malignant=lambda rows: (rows["label"] == "malignant") * 1.0)
    found = metrics.compute_metrics(table.assign(p_benign=1 - table["p_malignant"]), n_resamples=200)["pooled"]
    assert (found["image_accuracy"]["low"], found["image_accuracy"]["high"]) == (
        pytest.approx(0.025 ** (1 / 13)),
        1,
    )
    assert found["roc_auc"]["low"] == pytest.approx(0.025 ** (1 / 6))  # six malignant cases, seven benign
    assert (found["mcc"]["low"], found["mcc"]["high"]) == (pytest.approx(2 * 0.025 ** (1 / 6) - 1), 1)
    assert (found["brier"]["low"], found["brier"]["high"]) == (0, pytest.approx(1 - 0.025 ** (1 / 13)))


def test_degrees_of_freedom_are_those_of_the_cases_that_vary() -> None:
    groups = np.repeat([0, 1], [5, 20])
    rng = np.random.default_rng(0)
    only_benign = np.where(groups == 0, rng.normal(size=25), 0.5)
    assert bootstrap.degrees_of_freedom(only_benign, groups) == pytest.approx(4)
    assert 4 < bootstrap.degrees_of_freedom(rng.normal(size=25), groups) <= 23


def test_a_subtype_has_the_freedom_of_its_own_cases() -> None:
    """Four cases of LC once had the 53 degrees of freedom of all malignant ones."""
    images = official_images()
    images = images[images["magnification"] == 40]
    p = np.random.default_rng(0).dirichlet(np.ones(8), len(images))
    table = images.assign(fold=0, seed=0, part="test", **{f"p_{code}": p[:, at] for at, code in enumerate(SUBTYPES)})
    statistics, cases = metrics.compute_statistics(table, ["sensitivity"], "LC")
    left_out = bootstrap.jackknife_values(statistics["sensitivity"], len(cases))
    freedom = bootstrap.degrees_of_freedom(left_out, bootstrap.case_classes(table, cases))
    assert freedom == pytest.approx(3, abs=0.5)  # one of the four also has DC slides


@pytest.mark.parametrize("limits", [(0, 1), (-1, 1), (0, 2), (0, 36)])
def test_bounds_stay_within_the_range_of_the_metric(limits: bootstrap.Range) -> None:
    values = limits[0] + (min(limits[1], 5) - limits[0]) * np.array([0.3, 0.7, 0.8, 0.9, 0.9])
    weights = bootstrap.case_weights(5, 500, seed=0)
    mean = bootstrap.bootstrap_interval(lambda drawn: drawn @ values / 5, weights, np.zeros(5), 5, limits)
    assert mean.low is not None and mean.high is not None
    assert limits[0] < mean.low < values.mean() < mean.high < limits[1]


def test_the_bootstrap_agrees_with_scipy_on_its_spread() -> None:
    """Percentiles of a plain mean of case means, against scipy's own bootstrap."""
    from scipy import stats

    table = simulated(np.random.default_rng(2), 30, 30, n_images=1)
    right = ((table["p_malignant"] >= 0.5) == (table["label"] == "malignant")).to_numpy(float)
    theirs = stats.bootstrap((right,), np.mean, method="percentile", n_resamples=5_000, rng=np.random.default_rng(0))
    statistics, cases = metrics.compute_statistics(table)
    drawn = statistics["image_accuracy"](bootstrap.case_weights(len(cases), 5_000, seed=0))
    bounds = theirs.confidence_interval
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([bounds.low, bounds.high], abs=0.02)
