"""Figures are returned, say what they found, and are saved to equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import predictions
from breakhis_cls.reports import plots, plots_images

HISTORY = pd.DataFrame(
    {
        "phase": ["head", "head", "tune"], "epoch": [0, 1, 2], "loss": [0.9, 0.6, 0.5], "accuracy": [0.5, 0.7, 0.8],
        "val_loss": [0.8, 0.6, 0.7], "val_accuracy": [0.6, 0.7, 0.7],
    }
)  # fmt: skip


def words(figure: Figure) -> str:
    """All text of a figure."""
    inside = [text.get_text() for ax in figure.axes for text in ax.texts]
    return " ".join([figure.get_suptitle(), *inside]).replace("\u00a0", " ")


def test_confusion_counts_rows_true_and_columns_named() -> None:
    table = made()
    counts = plots.confusion(table)
    truth, named = predictions.true_labels(table), predictions.predicted_labels(table)
    assert counts.tolist() == [[((truth == t) & (named == n)).sum() for n in (0, 1)] for t in (0, 1)]
    said = words(plots.confusion_matrix(table))
    assert all(f"{count:,}" in said for count in counts.flat)
    assert f"{100 * counts[1, 1] / counts[1].sum():.0f} % of malignant" in said


def test_eight_classes_show_every_count() -> None:
    figure = plots.confusion_matrix(subtypes())
    assert len(figure.axes[0].texts) == 64 and figure.get_figwidth() == plots.PAGE_IN


def test_a_class_without_images_has_dashes_for_shares() -> None:
    table = made()
    assert "–" in words(plots.confusion_matrix(table[table["label"] == "malignant"]))


def test_writing_on_a_shade_has_contrast() -> None:
    for grey in np.linspace(0, 1, 21):
        ink = plots.readable_on(np.array([grey] * 3))
        linear = grey / 12.92 if grey <= 0.04045 else ((grey + 0.055) / 1.055) ** 2.4
        contrast = (linear + 0.05) / 0.05 if ink == "black" else 1.05 / (linear + 0.05)
        assert contrast >= 4.5


def test_curves_run_from_corner_to_corner() -> None:
    figure = plots.roc(made(), "AUC")
    _, pooled, *by_magnification = figure.axes[0].lines
    x, y = np.asarray(pooled.get_xdata()), np.asarray(pooled.get_ydata())
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1) and (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    assert len(by_magnification) == 4
    assert len({str(line.get_linestyle()) + str(line.get_color()) for line in [pooled, *by_magnification]}) == 5


def test_a_stratum_of_one_class_has_no_curve() -> None:
    table = made()
    only = table[(table["magnification"] == 40) | (table["label"] == "malignant")]
    assert len(plots.roc(only, "AUC").axes[0].lines) == 3  # the diagonal, all, 40X


def test_learning_curves_mark_where_a_phase_begins() -> None:
    figure = plots.learning_curves(HISTORY)
    assert "0.600, epoch 1 (head)" in words(figure)
    assert [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"] == [1.5]
    empty = plots.learning_curves(HISTORY.assign(val_loss=np.nan, val_accuracy=np.nan))
    assert "No validation loss" in words(empty)


@pytest.mark.parametrize("draw", [plots.confusion_matrix, lambda table: plots.roc(table, "AUC")])
def test_equal_figures_give_equal_bytes(draw, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plots.save(draw(made()), tmp_path / "a", "f")]
    again = [path.read_bytes() for path in plots.save(draw(made()), tmp_path / "b", "f")]
    assert first == again and first[0].startswith(b"\x89PNG") and b"<svg" in first[1]
    with Image.open(tmp_path / "a" / "f.png") as opened:
        assert opened.width == pytest.approx(plots.COLUMN_IN * plots.PNG_DPI, abs=2)


def test_surest_errors_are_wrong_and_at_most_two_of_a_slide() -> None:
    rows = plots_images.most_confident_errors(made(), 50)
    assert (rows["true"] != rows["named"]).all() and (rows["p"] >= 0.5).all() and rows["p"].is_monotonic_decreasing
    assert rows["slide"].value_counts().max() <= 2


def test_pictures_come_from_disk_or_not_at_all(tiny_tree: Path, tmp_path: Path) -> None:
    table, root = made(), tiny_tree / "BreaKHis_v1"
    sheet, errors = plots_images.sample_sheet(table, root), plots_images.confident_errors(table, root)
    assert sheet and errors
    assert sum(len(ax.images) for ax in sheet.axes) == 32
    assert sum(len(ax.images) for ax in errors.axes) == len(plots_images.most_confident_errors(table))
    assert plots_images.sample_sheet(table, tmp_path) is None and plots_images.confident_errors(table, tmp_path) is None
