"""Errors by stratum, and the influence of each case."""

from __future__ import annotations

import pytest
import sklearn.metrics as sk
from test_predictions import made

from breakhis_cls.evaluation import error_analysis, predictions


def test_influence_is_the_change_of_leaving_a_case_out() -> None:
    table = made()
    rows = error_analysis.case_table(table)
    for case in rows["case"].head(3):
        rest = table[table["case"] != case]
        auc = [sk.roc_auc_score(predictions.true_labels(part), part["p_malignant"]) for part in (table, rest)]
        assert rows.set_index("case").loc[case, "influence_roc_auc"] == pytest.approx(auc[0] - auc[1])


def test_errors_by_stratum_add_up_to_all_errors() -> None:
    table = made()
    rows = error_analysis.errors_by_stratum(table)
    wrong = (predictions.predicted_labels(table) != predictions.true_labels(table)).sum()
    assert (rows["error"] * rows["n_images"]).sum() == pytest.approx(wrong)
    assert rows["subtype"].drop_duplicates().tolist() == ["A", "F", "PT", "TA", "DC", "LC", "MC", "PC"]


def test_most_confident_errors_are_misclassified_and_at_most_two_of_a_slide() -> None:
    rows = error_analysis.most_confident_errors(made(), 50)
    assert (rows["true_label"] != rows["predicted_label"]).all() and (rows["p"] >= 0.5).all()
    assert rows["p"].is_monotonic_decreasing and rows["slide"].value_counts().max() <= 2
