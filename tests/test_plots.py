"""Figures show the numbers of their tables, under the field's own labels, and are saved to equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import confusion_matrix, roc_auc_score
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import calibration, predictions
from breakhis_cls.evaluation.thresholds import net_benefit_curve
from breakhis_cls.reports import plots

HISTORY = pd.DataFrame(
    {
        "phase": ["head", "head", "tune"], "epoch": [0, 1, 2], "loss": [0.9, 0.6, 0.5], "accuracy": [0.5, 0.7, 0.8],
        "val_loss": [0.8, 0.6, 0.7], "val_accuracy": [0.6, 0.7, 0.7],
    }
)  # fmt: skip


def words(figure: Figure) -> str:
    """All text of a figure."""
    inside = [text.get_text() for ax in figure.axes for text in ax.texts]
    return " ".join([figure.get_suptitle(), *inside]).replace("\u00a0", " ").replace("\n", " ")


def test_confusion_matrix_has_true_rows_and_predicted_columns() -> None:
    table = made()
    truth, predicted = predictions.true_labels(table), predictions.predicted_labels(table)
    figure = plots.confusion_matrix(table)
    cells = [text.get_text().split("\n")[1] for text in figure.axes[0].texts]
    assert cells == [str(((truth == t) & (predicted == p)).sum()) for t in (0, 1) for p in (0, 1)]
    correct = f"{100 * (truth == predicted).mean():.0f} % correctly classified"
    assert words(figure).startswith("Confusion matrix, 60 test images: ") and correct in words(figure)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("Predicted label", "True label")


def test_eight_classes_show_every_count_benign_first_and_divided() -> None:
    table = subtypes()
    backwards = table[[*table.columns[:12], *reversed(table.columns[12:])]]
    ax = plots.confusion_matrix(backwards).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "F", "PT", "TA", "DC", "LC", "MC", "PC"]
    cells = [text.get_text() for text in ax.texts]
    truth = predictions.true_labels(table)
    counts = confusion_matrix(truth, predictions.predicted_labels(table))
    assert [int(cell.split("\n")[1]) for cell in cells] == counts.ravel().tolist()
    shares = [int(cell.split("\u00a0%")[0]) for cell in cells]
    assert shares == (100 * counts / counts.sum(axis=1, keepdims=True)).round().astype(int).ravel().tolist()
    assert [line.get_xdata()[0] for line in ax.lines] == [3.5, 0]  # the divider, down and across


def test_a_class_without_images_has_dashes_for_shares() -> None:
    table = made()
    assert "–" in words(plots.confusion_matrix(table[table["label"] == "malignant"]))


@pytest.mark.parametrize("sharpness", [0.5, 1, 20])
def test_writing_on_a_shade_has_contrast(sharpness: float) -> None:
    table = made()
    p = np.where(table["label"] == "malignant", 0.5 + sharpness / 40, 0.5 - sharpness / 40)
    table["p_malignant"] = np.where(np.arange(60) % 20 < sharpness, p, 1 - p)
    ax = plots.confusion_matrix(table).axes[0]
    for text in ax.texts:
        column, row = map(int, text.get_position())
        shade = np.asarray(ax.images[0].get_array())[row, column, :3]
        linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
        assert ((linear + 0.05) / 0.05 if text.get_color() == "black" else 1.05 / (linear + 0.05)) >= 4.5


def test_roc_curves_enclose_the_area_of_the_metric() -> None:
    figure = plots.roc(made(), "AUC")
    _, pooled, *by_magnification = figure.axes[0].lines
    x, y = np.asarray(pooled.get_xdata()), np.asarray(pooled.get_ydata())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    truth, scores = predictions.true_labels(made()), made()["p_malignant"]
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(truth, scores))
    assert len(by_magnification) == 4
    assert len({str(line.get_linestyle()) + str(line.get_color()) for line in [pooled, *by_magnification]}) == 5


def test_a_stratum_of_one_class_has_no_curve() -> None:
    table = made()
    only = table[(table["magnification"] == 40) | (table["label"] == "malignant")]
    assert len(plots.roc(only, "AUC").axes[0].lines) == 3  # the diagonal, all, 40X


def test_learning_curves_mark_where_a_phase_begins() -> None:
    figure = plots.learning_curves(HISTORY)
    assert "lowest validation loss 0.600 at epoch 1 (head)" in words(figure)
    assert [ax.get_ylabel() for ax in figure.axes] == ["Loss", "Accuracy"]
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"] == [1.5]
    empty = plots.learning_curves(HISTORY.assign(val_loss=np.nan, val_accuracy=np.nan))
    assert "no validation loss" in words(empty)


@pytest.mark.parametrize("draw", [plots.confusion_matrix, lambda table: plots.roc(table, "AUC")])
def test_equal_figures_give_equal_bytes(draw, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        plots.save(draw(made()), tmp_path / folder, "f")
    first, again = ([(tmp_path / folder / f"f.{kind}").read_bytes() for kind in ("png", "svg")] for folder in "ab")
    assert first == again and first[0].startswith(b"\x89PNG") and b"<svg" in first[1]
    with Image.open(tmp_path / "a" / "f.png") as opened:
        assert opened.width == pytest.approx(plots.COLUMN_IN * 300, abs=2)


def test_a_saved_figure_has_no_title_and_keeps_its_size(tmp_path: Path) -> None:
    """A paper says it in the caption; a notebook shows it."""
    figure = plots.roc(made(), "The area under this curve")
    size, title = figure.get_size_inches().tolist(), figure.get_suptitle()
    plots.save(figure, tmp_path, "paper")
    assert (figure.get_size_inches().tolist(), figure.get_suptitle()) == (pytest.approx(size), title)
    plots.save(figure, tmp_path, "titled", titled=True)
    paper, titled = (Image.open(tmp_path / f"{name}.png") for name in ("paper", "titled"))
    lines = len(title.split("\n"))
    assert titled.height - paper.height == pytest.approx(300 * plots.TITLE_LINE_IN * lines, abs=2)
    paper_text, titled_text = ((tmp_path / f"{name}.svg").read_text() for name in ("paper", "titled"))
    assert "The area under this curve" in titled_text and "The area" not in paper_text


def test_labels_are_those_of_the_field() -> None:
    table = made()
    drawn = {
        ("False positive rate", "True positive rate"): plots.roc(table, "ROC curve"),
        ("Threshold probability", "Net benefit"): plots.decision_curve(net_benefit_curve(table), 0.6),
    }
    for labels, figure in drawn.items():
        assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == labels
    upper, lower = plots.calibration(calibration.smooth_curve(table), table, "Calibration").axes
    assert (upper.get_ylabel(), lower.get_xlabel()) == ("Observed frequency", "Predicted probability")


def test_a_decision_curve_says_where_the_model_is_better_than_all_or_none() -> None:
    curve = net_benefit_curve(made())
    assert "at 0 % of thresholds" in words(plots.decision_curve(curve.assign(model=curve["treat_all"]), 0.6))
    above = curve["treat_all"].clip(lower=0) + np.where(curve["threshold"] <= 0.495, 0.1, 0)
    assert "at 49 % of thresholds" in words(plots.decision_curve(curve.assign(model=above), 0.6))


def test_a_flow_chart_holds_every_number() -> None:
    counts = {"n_images": 1_000, "n_slides": 12, "n_cases": 11}
    boxes = [("BreakHis", {"n_images": 7_909, "n_slides": 82, "n_cases": 70}), ("In the experiment", counts)]
    parts = [(part, counts | {"n_images": n}) for part, n in (("Train", 700), ("Validation", 100), ("Test", 200))]
    shown = words(plots.flow(boxes + parts, [("cannot be read", 1)]))
    for expected in ("7,909 images, 82 slides, 70 cases", "1 image: cannot be read", "700 images", "100 images"):
        assert expected in shown
