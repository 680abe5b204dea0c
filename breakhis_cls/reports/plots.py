"""Figures of predictions and of training. Each function returns a Figure, never shows or saves; `save` writes it.

Colours are Okabe and Ito's; dashes and markers differ too, so that figures survive greyscale and colour blindness.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn import metrics

from .. import names
from ..evaluation import predictions
from ..files import atomic_path
from .text import count, percent

COLUMN_IN, PAGE_IN = 3.5, 7.2  # widths of a journal's column and page
BLACK, BLUE, VERMILION, GREEN, PURPLE, GREY = "#1a1a1a", "#0072B2", "#D55E00", "#007A5A", "#8B4A8B", "#6b6b6b"
LINES = (  # eight, for eight classes; the first five are for all and four magnifications
    (BLACK, "-"), (BLUE, "--"), (VERMILION, "-."), (GREEN, ":"), (PURPLE, (0, (5, 1, 1, 1, 1, 1))),
    ("#9a6a00", "-"), ("#4a9fd4", "-"), ("#b5527f", (0, (1, 1))),
)  # fmt: skip
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.titlesize": 8.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "legend.frameon": False, "legend.fontsize": 7, "svg.hashsalt": "breakhis", "figure.dpi": 100,
}  # fmt: skip
PNG_DPI = 200


@mpl.rc_context(STYLE)
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`; equal figures give equal bytes."""
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        # Without a date and the library's version, which would change the bytes.
        metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=PNG_DPI, metadata=metadata, facecolor="white")
    return paths


@mpl.rc_context(STYLE)
def new_figure(width_in: float, height_in: float, n_rows: int = 1, n_columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure in the package's style and its axes, (n_rows, n_columns)."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


@mpl.rc_context(STYLE)
def add_title(figure: Figure, title: str) -> Figure:
    """The figure with a title, flush left and wrapped to its width."""
    lines = textwrap.fill(title, int(13.5 * figure.get_figwidth()))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    return figure


@mpl.rc_context(STYLE)
def confusion_matrix(table: pd.DataFrame, threshold: float = 0.5) -> Figure:
    """Counts of images and shares of each true class, for two to eight classes; rows true, columns predicted."""
    classes = predictions.class_names(table)
    truth, predicted = predictions.true_labels(table), predictions.predicted_labels(table, threshold)
    counts = metrics.confusion_matrix(truth, predicted, labels=range(len(classes)))
    totals, few = counts.sum(axis=1), len(classes) == 2
    # Below the darkest blue, so that black or white text is readable on every cell.
    shades = mpl.colormaps["Blues"](counts / np.maximum(totals, 1)[:, None] / 1.15)

    # --- cells ---
    figure, axes = new_figure(COLUMN_IN if few else PAGE_IN, 3.1 if few else 6.0)
    ax = axes[0, 0]
    ax.imshow(shades)
    for (row, column), n in np.ndenumerate(counts):
        text = f"{percent(n / totals[row])}\n{n:,}" if totals[row] else "–"
        ax.text(column, row, text, ha="center", va="center", color=readable_on(shades[row, column]),
                fontsize=10 if few else 8, linespacing=1.35)  # fmt: skip
    ax.set_xticks(range(len(classes)), classes)
    ax.set_yticks(range(len(classes)), [f"{name}\n{n:,}" for name, n in zip(classes, totals, strict=True)])
    ax.set(xlabel="Predicted label", ylabel="True label")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)

    # --- title ---
    magnifications = table["magnification"].unique()
    where = f", {magnifications[0]}X" if len(magnifications) == 1 else ""
    correct = percent(counts.trace() / counts.sum())
    title = f"Confusion matrix{where}, {count(len(table), 'test image')}: {correct} correctly classified"
    wrong = counts - np.diag(counts.diagonal())
    if not few and wrong.any():
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        title += f"; most frequent error: {classes[row]} predicted as {classes[column]} ({count(wrong.max(), 'image')})"
    return add_title(figure, title)


def readable_on(shade: np.ndarray) -> str:
    """Black or white, whichever has more contrast (WCAG 2 relative luminance)."""
    linear = np.where(shade[:3] <= 0.04045, shade[:3] / 12.92, ((shade[:3] + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


@mpl.rc_context(STYLE)
def roc(table: pd.DataFrame, title: str) -> Figure:
    """ROC curves: pooled and by magnification for two classes, each class against the rest for more."""
    figure, axes = new_figure(COLUMN_IN, 3.5 if predictions.is_binary(table) else 4.0)
    axes[0, 0].plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
    for name, y, score, line in _curves(table):
        false_positive_rate, true_positive_rate, _ = metrics.roc_curve(y, score)
        axes[0, 0].plot(false_positive_rate, true_positive_rate, label=name, **line)
    return _label_curves(figure, title, "False positive rate", "True positive rate", "lower right")


@mpl.rc_context(STYLE)
def precision_recall(table: pd.DataFrame, title: str) -> Figure:
    """Precision over recall, for the same curves as `roc`; steps, as average precision adds them up."""
    figure, axes = new_figure(COLUMN_IN, 3.5 if predictions.is_binary(table) else 4.0)
    for name, y, score, line in _curves(table):
        precision, recall, _ = metrics.precision_recall_curve(y, score, drop_intermediate=True)
        axes[0, 0].plot(recall, precision, drawstyle="steps-post", label=name, **line)
    return _label_curves(figure, title, "Recall", "Precision", "lower left")


def _curves(table: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]]:
    """(name, whether it is the class, its probability, look) of each curve; rows of one class alone have none."""
    truth, scores = predictions.true_labels(table), predictions.probabilities(table)
    if predictions.is_binary(table):
        strata = [("all", np.ones(len(table), bool))]
        present = sorted(table["magnification"].unique())
        strata += [(f"{value}X", (table["magnification"] == value).to_numpy()) for value in present if len(present) > 1]
        curves = [(name, truth[rows] == 1, scores[rows, 1]) for name, rows in strata]
    else:
        curves = [(name, truth == at, scores[:, at]) for at, name in enumerate(predictions.class_names(table))]
    defined = [curve for curve in curves if 0 < curve[1].sum() < len(curve[1])]
    looks = [{"color": colour, "linestyle": dash, "linewidth": 1.1} for colour, dash in LINES]
    looks[0]["linewidth"] = 1.8  # all images, or the first class
    return [(name, y, score, look) for (name, y, score), look in zip(defined, looks, strict=False)]


def _label_curves(figure: Figure, title: str, x: str, y: str, legend_at: Any) -> Figure:
    ax = figure.axes[0]
    ax.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    lines, labels = ax.get_legend_handles_labels()
    if len(lines) > 5:  # eight names would cover the curves
        figure.legend(lines, labels, loc="outside lower center", ncols=4)
    elif len(lines) > 1:
        ax.legend(loc=legend_at)
    return add_title(figure, title)


@mpl.rc_context(STYLE)
def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy by epoch, training solid and validation dashed; a dotted line is where fine-tuning begins."""
    figure, axes = new_figure(PAGE_IN, 2.7, 1, 2)
    first_epochs = history.groupby("phase", sort=False)["epoch"].min()
    for ax, name in zip(axes[0], ("loss", "accuracy"), strict=True):
        ax.plot(history["epoch"], history[name], color=BLACK, marker="o", markersize=2.5, label="training")
        if f"val_{name}" in history and history[f"val_{name}"].notna().any():
            ax.plot(history["epoch"], history[f"val_{name}"], "--s", color=BLUE, markersize=2.5, label="validation")
        for phase, epoch in first_epochs.items():
            if epoch > history["epoch"].min():
                ax.axvline(epoch - 0.5, color=VERMILION, linestyle=":", linewidth=1)
            ax.annotate(phase, (epoch - 0.3, 1.02), xycoords=("data", "axes fraction"), color=VERMILION)
        ax.set(xlabel="Epoch", ylabel=name.capitalize())
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend()

    # The checkpoint is the epoch of lowest validation loss, so that epoch is the title.
    title = "no validation loss was recorded"
    if "val_loss" in history and history["val_loss"].notna().any():
        best = history.loc[history["val_loss"].idxmin()]
        title = f"lowest validation loss {best['val_loss']:.3f} at epoch {best['epoch']:.0f} ({best['phase']})"
    return add_title(figure, f"Learning curves: {title}")


# --- trust: calibration, cases to refer, errors, differences between models ---


@mpl.rc_context(STYLE)
def reliability(curves: dict[str, pd.DataFrame], title: str) -> Figure:
    """A panel for each stratum: observed frequency over predicted probability, with the 95 % band over resampled cases.

    curves: of `calibration.reliability_curve`.
    """
    # All and four magnifications fill two rows of three better than a row of four and a rest.
    n_columns = 3 if len(curves) == 5 else len(curves)
    n_rows = -(-len(curves) // n_columns)
    width_in = PAGE_IN if n_columns > 1 else COLUMN_IN
    height_in = n_rows * width_in / n_columns * (1.12 if n_columns > 1 else 1)
    figure, axes = new_figure(width_in, height_in, n_rows, n_columns)
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    for ax, (name, curve) in zip(axes.flat, curves.items(), strict=False):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
        predicted, observed = curve["mean_predicted"], curve["observed_frequency"]
        ax.fill_between(predicted, curve["low"], curve["high"], color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(predicted, observed, "o-", color=BLUE, markersize=3, linewidth=1)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.set_title(f"{name}, {curve['n_images'].sum():,} images" if n_columns > 1 else "", fontweight="normal")
    figure.supxlabel("Predicted probability", fontsize=8)
    figure.supylabel("Observed frequency", fontsize=8)
    return add_title(figure, title)


@mpl.rc_context(STYLE)
def risk_coverage(curve: pd.DataFrame, unit: str) -> Figure:
    """Accuracy of the cases (or slides) that are kept, over the share referred to a human.

    curve: of `thresholds.risk_coverage_curve`.
    """
    figure, axes = new_figure(COLUMN_IN, 2.8)
    ax = axes[0, 0]
    ax.step(100 * curve["referred"], 100 * curve["accuracy"], where="post", color=BLACK)
    ax.set(xlabel=f"Referred {unit}s, least certain first (%)", ylabel=f"Accuracy of the other {unit}s (%)")
    ax.set(xlim=(0, 100))
    ax.set_ylim(top=100.5)
    # Shares are sums of floats: 1 - 1e-12 is every case.
    flawless = curve.loc[curve["accuracy"] >= 1 - 1e-12, "referred"]
    if flawless.empty:
        title = f"an error remains however many {unit}s are referred"
    elif flawless.iloc[0] == 0:
        title = f"every {unit} is correctly classified, none need be referred"
    else:
        title = f"no error remains once {percent(flawless.iloc[0])} of the {unit}s are referred"
        ax.axvline(100 * flawless.iloc[0], color=VERMILION, linestyle=":", linewidth=1)
    return add_title(figure, f"Risk and coverage: {title}")


@mpl.rc_context(STYLE)
def errors(rows: pd.DataFrame) -> Figure:
    """Share of misclassified images, subtypes by magnifications; rows: of `error_analysis.errors_by_stratum`."""
    grid = rows.pivot(index="subtype", columns="magnification", values="error")
    grid = grid.loc[[code for code in names.SUBTYPES if code in grid.index]]
    counts = rows.pivot(index="subtype", columns="magnification", values="n_images").loc[grid.index]
    figure, axes = new_figure(COLUMN_IN, 0.36 * len(grid) + 1.0)
    ax = axes[0, 0]
    shades = mpl.colormaps["Oranges"](grid.fillna(0).to_numpy() * 0.85)
    ax.imshow(shades, aspect="auto")
    for (row, column), error in np.ndenumerate(grid.to_numpy()):
        text = "" if np.isnan(error) else f"{percent(error)} of {counts.iat[row, column]:,.0f}"
        ax.text(column, row, text, ha="center", va="center", color=readable_on(shades[row, column]), fontsize=7)
    ax.set_xticks(range(len(grid.columns)), [f"{value}X" for value in grid.columns])
    ax.set_yticks(range(len(grid)), list(grid.index))
    ax.set(xlabel="Magnification", ylabel="True subtype")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    worst = rows.loc[rows["error"].idxmax()]
    where = f"{worst['subtype']} at {worst['magnification']}X ({percent(worst['error'])})"
    return add_title(figure, f"Misclassified images: highest share for {where}")


@mpl.rc_context(STYLE)
def influence(table: pd.DataFrame) -> Figure:
    """The 16 cases that change ROC AUC most; table: of `error_analysis.case_table`."""
    column = "influence_roc_auc"
    rows = table.dropna(subset=[column]).sort_values(column, key=np.abs).tail(16)
    figure, axes = new_figure(COLUMN_IN, 0.18 * len(rows) + 0.9)
    ax = axes[0, 0]
    ax.barh(range(len(rows)), rows[column], color=np.where(rows[column] < 0, VERMILION, BLUE), height=0.7)
    ax.axvline(0, color=BLACK, linewidth=0.6)
    ax.set_yticks(range(len(rows)), [f"{row.case} ({row.subtypes})" for row in rows.itertuples()], fontsize=6.5)
    ax.set(xlabel="ROC AUC with the case minus without it", ylabel="Case (subtype)")
    largest = "undefined"
    if len(rows):
        largest = f"largest change {rows[column].iloc[-1]:+.3f} (case {rows['case'].iloc[-1]})"
    return add_title(figure, f"Influence of single cases on ROC AUC: {largest}")


@mpl.rc_context(STYLE)
def differences(entries: list[dict[str, Any]], pairs: list[str], label: str) -> Figure:
    """Difference of one metric for each pair of models: dot, 95 % interval, and in grey what would mostly be missed.

    entries: of `comparison.compare_experiments`.
    """
    known = [(pair, entry) for pair, entry in zip(pairs, entries, strict=True) if entry["difference"] is not None]
    figure, axes = new_figure(COLUMN_IN, 0.28 * len(known) + 1.1)
    ax = axes[0, 0]
    for at, (_, entry) in enumerate(known):
        if entry["p_holm"] is not None:
            # Grey: a difference inside it would mostly be missed with this number of cases (80 % power).
            reach = entry["detectable"]
            ax.plot([-reach, reach], [at, at], color="#d9d9d9", linewidth=9, solid_capstyle="butt")
            ax.plot([entry["low"], entry["high"]], [at, at], color=BLACK, linewidth=1.4)
        ax.plot(entry["difference"], at, "o", color=BLACK, markersize=4)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.set_yticks(range(len(known)), [pair for pair, _ in known])
    ax.set_ylim(max(len(known), 1) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(f"{label}, difference")

    n_significant = sum(entry["p_holm"] is not None and entry["p_holm"] < 0.05 for _, entry in known)
    title = f"{n_significant} of {len(known)} differences significant at 5 % (Holm)"
    if not known:
        title = "undefined for these test images"
    elif len(known) == 1:
        entry = known[0][1]
        title = f"difference {entry['difference']:+.3f}"
        if entry["p_holm"] is None:
            title += ", not tested"
        else:
            title += f" ({entry['low']:+.3f} to {entry['high']:+.3f})" + ("" if n_significant else ", not significant")
    return add_title(figure, f"{label}: {title}")
