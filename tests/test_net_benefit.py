"""Net benefit as another package computes it, and predictive values by Bayes' theorem."""

from __future__ import annotations

import dcurves
import numpy as np
import pandas as pd
import pytest
from test_predictions import made

from breakhis_cls.data.protocols import official_images
from breakhis_cls.evaluation import metrics, thresholds


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_net_benefit_equals_that_of_dcurves_on_all_of_breakhis(prevalence: float | None) -> None:
    rng, table = np.random.default_rng(0), official_images()
    malignant = (table["label"] == "malignant").to_numpy()
    p = (0.5 * rng.beta(2, 2, len(table)) + 0.4 * malignant).round(3)  # many equal thresholds
    table = table.assign(fold=0, seed=0, part="test", p_benign=1 - p, p_malignant=p)
    assert len(table) == 7_909
    ours = thresholds.net_benefit_curve(table, prevalence)
    theirs = dcurves.dca(
        data=pd.DataFrame({"malignant": malignant.astype(int), "model": p}), outcome="malignant",
        modelnames=["model"], thresholds=thresholds.THRESHOLDS, prevalence=prevalence,
    ).pivot(index="threshold", columns="model", values="net_benefit")  # fmt: skip
    assert ours["model"].to_numpy() == pytest.approx(theirs["model"].to_numpy(), abs=1e-9)
    assert ours["treat_all"].to_numpy() == pytest.approx(theirs["all"].to_numpy(), abs=1e-9)
    assert (ours["low"] <= ours["model"]).all() and (ours["model"] <= ours["high"]).all()
    assert (ours["high"] - ours["low"]).max() > 0.01


def test_net_benefit_is_the_mean_over_seeds() -> None:
    one, two = made(seed=0), made(seed=1)
    curves = [thresholds.net_benefit_curve(table)["model"] for table in (one, two, pd.concat([one, two]))]
    assert curves[2].to_numpy() == pytest.approx(((curves[0] + curves[1]) / 2).to_numpy())


def test_predictive_values_follow_bayes_theorem() -> None:
    pooled = {
        "sensitivity": {"value": 0.9, "low": 0.8, "high": 0.95},
        "specificity": {"value": 0.6, "low": None, "high": None},
    }
    row = thresholds.predictive_values(pooled, [0.1])[0]
    assert row["ppv"] == {"value": pytest.approx(0.09 / (0.09 + 0.36)), "low": None, "high": None}
    assert row["npv"]["value"] == pytest.approx(0.54 / (0.54 + 0.01))
    # At the table's own prevalence they are those of the confusion matrix.
    table = made()
    pooled = metrics.compute_metrics(table, 200)["pooled"]
    malignant, called = table["label"] == "malignant", table["p_malignant"] >= 0.5
    own = thresholds.predictive_values(pooled, [malignant.mean()])[0]
    assert own["ppv"]["value"] == pytest.approx(malignant[called].mean())
    assert own["npv"]["value"] == pytest.approx((~malignant)[~called].mean())
    assert own["ppv"]["low"] <= own["ppv"]["value"] <= own["ppv"]["high"]
