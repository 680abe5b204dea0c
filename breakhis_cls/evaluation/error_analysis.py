"""Where a model fails: by subtype and magnification, case by case, and with which confidence."""

import numpy as np
import pandas as pd

from .. import names
from . import bootstrap, case_statistics, metrics, predictions


def errors_by_stratum(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each subtype and magnification present: n_images, n_cases, error (share of images misclassified). Empty
    where a table of the binary task says no subtypes."""
    wrong = predictions.predicted_labels(table) != predictions.true_labels(table)
    grouped = table.assign(wrong=wrong)[table["subtype"] != ""].groupby(["subtype", "magnification"])
    rows = grouped.agg(n_images=("file", "nunique"), n_cases=("case", "nunique"), error=("wrong", "mean"))
    order = {name: at for at, name in enumerate(names.SUBTYPES)}  # other names come last
    return rows.sort_index(key=lambda level: level.map(order) if level.name == "subtype" else level).reset_index()


def add_predictions(test: pd.DataFrame) -> pd.DataFrame:
    """The table with at (0 to n - 1), true_label and predicted_label (classes), class_index and p of the prediction."""
    classes = np.array(predictions.class_names(test))
    index, at = predictions.predicted_labels(test), np.arange(len(test))
    return test.assign(
        at=at, true_label=classes[predictions.true_labels(test)], predicted_label=classes[index], class_index=index,
        p=predictions.probabilities(test)[at, index],
    )  # fmt: skip


def most_confident_errors(table: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """Misclassified rows of `add_predictions`, highest p first, at most two of one slide."""
    rows = add_predictions(table).query("true_label != predicted_label")
    # Several seeds misclassify the same image, and one difficult slide could fill the whole sheet.
    rows = rows.sort_values(["p", "file"], ascending=[False, True]).drop_duplicates("file")
    return rows[rows.groupby("slide").cumcount() < 2].head(n)


def case_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each case, most errors first: label, subtypes, n_slides, n_images, image_accuracy, p_<class> (means),
    vote, vote_correct, influence_roc_auc: ROC AUC with all cases minus ROC AUC without this one, negative where the
    case lowers it, NaN where it is undefined. `vote` is empty for the subtype task, whose votes are of slides."""
    correct = predictions.predicted_labels(table) == predictions.true_labels(table)
    join = lambda values: "+".join(sorted(values.unique()))  # noqa: E731
    rows = table.assign(correct=correct).groupby("case", sort=True).agg(
        label=("label", join), subtypes=("subtype", join), n_slides=("slide", "nunique"),
        n_images=("file", "nunique"), image_accuracy=("correct", "mean"),
    )  # fmt: skip
    voted, binary = case_statistics.vote_by(table, "case"), predictions.is_binary(table)
    rows = rows.join(voted[[f"p_{name}" for name in predictions.class_names(table)]])
    # cases.csv has the same columns for both tasks: empty where there is no vote.
    rows["vote"] = [names.LABELS[at] if binary else "" for at in voted["voted"]]
    rows["vote_correct"] = voted["correct"] if binary else ""
    auc = metrics.compute_statistics(table, ["roc_auc"])[0]["roc_auc"]  # its cases are sorted, as these rows are
    without = bootstrap.jackknife_values(auc, len(rows))
    rows["influence_roc_auc"] = bootstrap.statistic_value(auc, len(rows)) - without
    return rows.reset_index().sort_values(["image_accuracy", "case"], ignore_index=True)
