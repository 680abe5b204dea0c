"""Golden numbers worked by hand, and agreement with scikit-learn where it has the metric."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
from test_predictions import made

from breakhis_cls import names
from breakhis_cls.evaluation import metrics, predictions

# file, slide, case, label, p_malignant: three cases, four slides, eight images
BY_HAND = [
    ("a1", "s1", "1", "malignant", 0.9), ("a2", "s1", "1", "malignant", 0.6), ("a3", "s1", "1", "malignant", 0.2),
    ("b1", "s2", "1", "malignant", 0.4),
    ("c1", "s3", "2", "benign", 0.1), ("c2", "s3", "2", "benign", 0.7),
    ("d1", "s4", "3", "benign", 0.3), ("d2", "s4", "3", "benign", 0.4),
]  # fmt: skip


@pytest.fixture
def small() -> pd.DataFrame:
    table = pd.DataFrame(BY_HAND, columns=["file", "slide", "case", "label", "p_malignant"])
    said = {"fold": 0, "part": "test", "protocol": "case", "data": "d", "model": "m", "seed": 0, "magnification": 40}
    subtype = table["label"].map({"benign": "F", "malignant": "DC"})
    return predictions.validate_predictions(table.assign(**said, subtype=subtype, p_benign=1 - table["p_malignant"]))


GOLDEN = {
    "image_accuracy": 5 / 8,                   # right: a1 a2 | c1 d1 d2
    "recognition_rate": (2 / 3 + 0 + 1 / 2 + 1) / 4,   # s1 s2 s3 s4
    "slide_vote_accuracy": 3 / 4,              # means .567 .4 .4 .35: s2 is wrong
    "case_vote_accuracy": 3 / 3,               # means .525 .4 .35
    "sensitivity": 2 / 4,
    "specificity": 3 / 4,
    "balanced_accuracy": (2 / 4 + 3 / 4) / 2,
    "f1": 2 * 2 / (2 * 2 + 1 + 2),             # tp 2, fp 1, fn 2
    "mcc": (2 * 3 - 1 * 2) / np.sqrt(3 * 4 * 4 * 5),
    "roc_auc": (4 + 3 + 1 + 2.5) / 16,         # .9 beats 4, .6 beats 3, .2 beats 1, .4 beats 2 and ties with 1
    "roc_auc_within_folds": (4 + 3 + 1 + 2.5) / 16,  # one fold
    "average_precision": (1 / 1 + 2 / 3 + 3 / 5 + 4 / 7) / 4,   # at .9, .6, .4 (a tie: 3 of 5), .2
    "brier": (0.01 + 0.16 + 0.64 + 0.36 + 0.01 + 0.49 + 0.09 + 0.16) / 8,
    "log_loss": -np.log([0.9, 0.6, 0.2, 0.4, 0.9, 0.3, 0.7, 0.6]).mean(),
    # each distinct probability is a bin of its own: |0-.1| |1-.2| |0-.3| |(1-.4)+(0-.4)| |1-.6| |0-.7| |1-.9|
    "ece": (0.1 + 0.8 + 0.3 + 0.2 + 0.4 + 0.7 + 0.1) / 8,
}  # fmt: skip


@pytest.mark.parametrize("name", metrics.METRICS)
def test_golden_numbers(small: pd.DataFrame, name: str) -> None:
    result = metrics.compute_metrics(small, n_resamples=50)["pooled"][name]
    assert result["value"] == pytest.approx(GOLDEN[name])
    assert (result["n_images"], result["n_slides"], result["n_cases"]) == (8, 4, 3)


def test_agreement_with_scikit_learn() -> None:
    table = made()
    y, p = predictions.true_labels(table), table["p_malignant"].to_numpy()
    named = predictions.predicted_labels(table)
    expected = {
        "image_accuracy": sk.accuracy_score(y, named), "balanced_accuracy": sk.balanced_accuracy_score(y, named),
        "sensitivity": sk.recall_score(y, named), "specificity": sk.recall_score(y, named, pos_label=0),
        "f1": sk.f1_score(y, named), "mcc": sk.matthews_corrcoef(y, named), "roc_auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p), "brier": sk.brier_score_loss(y, p),
        "log_loss": sk.log_loss(y, p),
    }  # fmt: skip
    pooled = metrics.compute_metrics(table, n_resamples=50)["pooled"]
    assert {name: pooled[name]["value"] for name in expected} == pytest.approx(expected, rel=1e-6)


def subtypes(seed: int = 0) -> pd.DataFrame:
    table = made(seed=seed)
    classes = list(names.SUBTYPES)
    logits = np.random.default_rng(seed).normal(0, 1, (len(table), 8))
    logits[np.arange(len(table)), pd.Index(classes).get_indexer(table["subtype"])] += 1.5
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = pd.DataFrame(scores, columns=[f"p_{name}" for name in classes])
    return predictions.validate_predictions(
        pd.concat([table.drop(columns=["p_benign", "p_malignant"]), scores], axis=1)
    )


def test_agreement_with_scikit_learn_on_eight_classes() -> None:
    table = subtypes()
    y, p, named = predictions.true_labels(table), predictions.probabilities(table), predictions.predicted_labels(table)
    hit = np.eye(8)[y]
    expected = {
        "image_accuracy": sk.accuracy_score(y, named), "balanced_accuracy": sk.balanced_accuracy_score(y, named),
        "sensitivity": sk.recall_score(y, named, average="macro"), "f1": sk.f1_score(y, named, average="macro"),
        "mcc": sk.matthews_corrcoef(y, named), "roc_auc": sk.roc_auc_score(hit, p, average="macro"),
        "average_precision": sk.average_precision_score(hit, p, average="macro"), "log_loss": sk.log_loss(y, p),
        "brier": ((p - hit) ** 2).sum(axis=1).mean(),
    }  # fmt: skip
    found = metrics.compute_metrics(table, n_resamples=50)
    assert {name: found["pooled"][name]["value"] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert found["by_class"]["DC"]["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(y == 4, p[:, 4]))
    assert "two subtypes" in found["pooled"]["case_vote_accuracy"]["undefined"]


def test_macro_metrics_run_over_the_classes_present() -> None:
    table = subtypes()
    table = table[table["subtype"].isin(["DC", "F"])]
    y, named = predictions.true_labels(table), predictions.predicted_labels(table)
    expected = (np.mean(named[y == 4] == 4) + np.mean(named[y == 1] == 1)) / 2
    assert metrics.compute_metrics(table, n_resamples=50)["pooled"]["balanced_accuracy"]["value"] == pytest.approx(
        expected
    )


def test_two_subtypes_have_the_brier_score_of_two_classes() -> None:
    table = made().assign(subtype=lambda rows: np.where(rows["label"] == "malignant", "DC", "F"))
    table = table.assign(file="own_" + table["file"].str.rpartition("/")[2].str.removeprefix("SOB"))
    pair = predictions.validate_predictions(table.rename(columns={"p_benign": "p_F", "p_malignant": "p_DC"}))
    expected = np.mean((pair["p_DC"] - (pair["subtype"] == "DC")) ** 2)
    assert metrics.compute_metrics(pair, n_resamples=50)["pooled"]["brier"]["value"] == pytest.approx(expected)


def test_what_is_undefined_says_why(small: pd.DataFrame) -> None:
    found = metrics.compute_metrics(small, n_resamples=50)["by_subtype"]["DC"]
    undefined = {name for name, result in found.items() if result["value"] is None}
    assert undefined == {
        "balanced_accuracy",
        "specificity",
        "f1",
        "mcc",
        "roc_auc",
        "roc_auc_within_folds",
        "average_precision",
    }
    assert found["roc_auc"]["undefined"] == "only malignant images here"
    assert found["sensitivity"]["value"] == 0.5


def test_a_constant_answer_has_no_correlation(small: pd.DataFrame) -> None:
    table = small.assign(p_malignant=1.0, p_benign=0.0)
    pooled = metrics.compute_metrics(table, n_resamples=50)["pooled"]
    assert pooled["mcc"]["value"] == 0 and pooled["roc_auc"]["value"] == 0.5


def test_a_case_with_both_labels_has_no_vote(small: pd.DataFrame) -> None:
    table = small.assign(case="1")
    assert "both labels" in metrics.compute_metrics(table, n_resamples=50)["pooled"]["case_vote_accuracy"]["undefined"]


def test_seeds_are_averaged_not_pooled() -> None:
    one, two = made(seed=0), made(seed=1)
    both = metrics.compute_metrics(pd.concat([one, two]), n_resamples=50)["pooled"]
    alone = [metrics.compute_metrics(table, n_resamples=50)["pooled"]["roc_auc"]["value"] for table in (one, two)]
    assert both["roc_auc"]["value"] == pytest.approx(np.mean(alone))
    assert (both["roc_auc"]["n_images"], both["roc_auc"]["n_cases"]) == (60, one["case"].nunique())


def test_auc_within_folds_by_hand() -> None:
    """Fold 0 ranks every pair right, fold 1 every pair wrong, and has half the pairs of cases; fold 2 has one class."""
    rows = [(0, "1", "malignant", 0.9), (0, "2", "malignant", 0.9), (0, "3", "benign", 0.8), (0, "3", "benign", 0.7),
            (1, "4", "malignant", 0.1), (1, "5", "benign", 0.2), (2, "6", "benign", 0.3)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["fold", "case", "label", "p_malignant"])
    table = table.assign(file=table.index.astype(str), slide=table["case"], subtype="F", p_benign=1, seed=0)
    statistics, _ = metrics.compute_statistics(table, ["roc_auc", "roc_auc_within_folds"])
    assert statistics["roc_auc_within_folds"](np.ones((1, 6)))[0] == pytest.approx((2 * 1 + 1 * 0) / 3)
    assert statistics["roc_auc"](np.ones((1, 6)))[0] == pytest.approx((4 * 2 + 0) / 12)  # .1 is below all four
    assert statistics["roc_auc_within_folds"](np.array([[1, 0, 1, 1, 1, 1]]))[0] == 0.5  # a pair in each fold


def test_models_of_near_constant_folds_rank_within_folds_alone() -> None:
    rng = np.random.default_rng(0)
    table = made().assign(fold=lambda rows: pd.factorize(rows["case"])[0] % 4)
    malignant = table["label"] == "malignant"
    # Each model is almost constant, at the share of the other folds' malignant images.
    level = malignant.groupby(table["fold"]).transform("mean")
    p = 0.5 - 0.3 * level + np.where(malignant, 0.01, 0) + rng.normal(0, 0.005, len(table))
    found = metrics.compute_metrics(table.assign(p_malignant=p, p_benign=1 - p), n_resamples=200)["pooled"]
    assert found["roc_auc"]["value"] < 0.5 and found["roc_auc_within_folds"]["value"] > 0.85
    assert list(metrics.metrics_for(True))[:2] == ["roc_auc", "roc_auc_within_folds"]


def test_only_test_rows_count_and_the_order_of_rows_does_not() -> None:
    table = made()
    validation = made(seed=5).assign(part="validation", fold=1, seed=0)
    shuffled = pd.concat([validation, table]).sample(frac=1, random_state=0)
    plain = metrics.compute_metrics(table, n_resamples=50)["pooled"]
    mixed = metrics.compute_metrics(shuffled, n_resamples=50)["pooled"]
    assert {n: mixed[n]["value"] for n in plain} == pytest.approx({n: plain[n]["value"] for n in plain})


def test_metrics_json_has_the_promised_shape() -> None:
    found = metrics.compute_metrics(made(), n_resamples=200)
    assert set(found["pooled"]) == set(found["by_magnification"]["40"]) == set(metrics.METRICS)
    assert list(found["by_magnification"]) == ["40", "100", "200", "400"]
    assert list(found["by_subtype"]) == list(names.SUBTYPES)
    assert {"value", "low", "high", "n_images", "n_slides", "n_cases"} <= set(found["pooled"]["roc_auc"])
    json.dumps(found, allow_nan=False)


def test_weights_mean_repetition() -> None:
    """A case drawn twice counts as if its rows stood there twice."""
    table = made()
    statistics, cases = metrics.compute_statistics(table)
    weights = np.random.default_rng(0).integers(0, 3, (1, len(cases))).astype(float)
    copies = table.loc[np.repeat(table.index, weights[0][cases.get_indexer(table["case"])].astype(int))]
    y, p = predictions.true_labels(copies), copies["p_malignant"]
    assert statistics["roc_auc"](weights)[0] == pytest.approx(sk.roc_auc_score(y, p))
    assert statistics["average_precision"](weights)[0] == pytest.approx(sk.average_precision_score(y, p), rel=1e-6)
    assert statistics["mcc"](weights)[0] == pytest.approx(sk.matthews_corrcoef(y, predictions.predicted_labels(copies)))
