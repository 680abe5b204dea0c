"""Who is behind the numbers: parts, exclusions, the case as the unit, and the width of intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls import config
from breakhis_cls.evaluation import experiments, metrics
from breakhis_cls.evaluation.experiments import Experiment, Source


def experiment(table: pd.DataFrame, path: Path = Path("none"), **described) -> Experiment:
    environment = {"data": described} if described else None
    settings = config.Config.model_validate({"data": {"magnifications": [40]}}) if described else None
    return Experiment("one", (Source(path, table, settings, environment),), table)


def test_the_flow_adds_up_to_breakhis() -> None:
    described = {
        "name": "sample-1a2b", "n_images": 1_900, "n_slides": 80, "n_cases": 69, "broken": [{"file": "x"}],
        "dropped_duplicates": ["a", "b"],
    }  # fmt: skip
    boxes, excluded = experiments.count_flow(experiment(made(), **described))
    assert boxes[0] == ("BreakHis", {"n_images": 7_909, "n_slides": 82, "n_cases": 70})
    assert boxes[1][1] == {"n_images": 1_900, "n_slides": 80, "n_cases": 69}
    assert sum(n for _, n in excluded) == 7_909 - 1_900
    assert dict(excluded)["other magnifications"] == 7_909 - 1_995  # at 40X, of the 82-row table
    drawn, left_out = experiments.count_flow(experiment(made(), **described | {"name": "synthetic-1a2b"}))
    assert drawn[0][1]["n_images"] - drawn[1][1]["n_images"] == sum(n for _, n in left_out) == 3
    assert experiments.count_flow(experiment(made())) == ([], [])


def test_parts_are_those_of_the_split_or_of_the_folds(tmp_path: Path) -> None:
    table = made()
    split = pd.concat([table, table.assign(part="train", file="t" + table["file"], case="9")])
    split.to_csv(tmp_path / "split.csv", index=False)
    train, _, test = experiments.describe_parts(experiment(table, tmp_path))
    assert (train["part"], train["n_cases"], train["cases_by_class"]) == ("train", 1, {"benign": 1, "malignant": 1})
    assert (test["n_images"], test["n_cases"]) == (60, 13)
    assert test["share_malignant"] == pytest.approx((table["label"] == "malignant").mean())
    assert sum(test["images_by_magnification"].values()) == 60
    folds = table.assign(fold=np.arange(60) % 2)
    parts = experiments.describe_parts(experiment(folds, tmp_path))
    assert [(row["part"], row["n_images"]) for row in parts] == [
        ("test, fold 0", 30), ("test, fold 1", 30), ("test, all folds", 60),
    ]  # fmt: skip
    assert experiments.describe_parts(experiment(subtypes()))[0]["cases_by_class"]["DC"] >= 1


def test_case_level_metrics_are_those_of_mean_probabilities() -> None:
    table = made()
    found = metrics.compute_metrics(table, 100)["case_level"]
    means = table.groupby("case").agg(label=("label", "first"), p=("p_malignant", "mean"))
    malignant = means["label"] == "malignant"
    assert found["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(malignant, means["p"]))
    assert found["sensitivity"]["value"] == pytest.approx((means["p"][malignant] >= 0.5).mean())
    assert found["brier"]["value"] == pytest.approx(((means["p"] - malignant) ** 2).mean())
    assert found["roc_auc"]["n_images"] == found["roc_auc"]["n_cases"] == 13
    json.dumps(found, allow_nan=False)
    mixed = table.assign(label=np.where(np.arange(60) % 2, "benign", "malignant"))
    assert "case_level" not in metrics.compute_metrics(mixed, 100)


def test_four_times_the_cases_give_half_the_width_on_the_logit_scale() -> None:
    result = {"value": 0.5, "low": 0.45, "high": 0.55, "n_cases": 70}
    widths = metrics.expected_widths(result, (70, 280))
    assert widths == [pytest.approx(0.1), pytest.approx(0.05, rel=0.01)]
    assert metrics.expected_widths(result | {"low": None}, (70,)) == [None]
    assert metrics.expected_widths(result | {"value": 1.0, "high": 1.0}, (70,)) == [None]
