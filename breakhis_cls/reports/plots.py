"""Figures from tables. Each function returns a Figure, never shows or saves; `save` writes PNG and SVG.

Colours are Okabe and Ito's, told apart by dash and marker too, so that they survive greyscale and colour
blindness.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation import predictions
from ..files import atomic_path

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


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.svg`; equal figures give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    with mpl.rc_context(STYLE):
        for path in paths:
            metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=PNG_DPI, metadata=metadata, facecolor="white")
    return paths


def new_figure(width_in: float, height_in: float, n_rows: int = 1, n_columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure in the package's style and its axes, (n_rows, n_columns)."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        return figure, figure.subplots(n_rows, n_columns, squeeze=False)


def add_title(figure: Figure, finding: str) -> None:
    """The finding as the figure's title, flush left and wrapped to its width."""
    with mpl.rc_context(STYLE):
        lines = textwrap.fill(finding, int(13.5 * figure.get_figwidth()))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=8.5, fontweight="bold")


def percent(share: float) -> str:
    """0.842 -> `84 %`, with a space that does not break."""
    return f"{100 * share:.0f}\u00a0%"


def confusion_matrix(table: pd.DataFrame, threshold: float = 0.5) -> Figure:
    """Counts of images and shares of each true class's row, for two to eight classes.
    Rows true, columns named."""
    named = predictions.class_names(table)
    counts = confusion(table, threshold)
    few = len(named) == 2
    figure, axes = new_figure(COLUMN_IN if few else PAGE_IN, 3.1 if few else 6.0)
    ax = axes[0, 0]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    with mpl.rc_context(STYLE):
        shades = mpl.colormaps["Blues"](shares / 1.15)
        ax.imshow(shades)
        _write_cells(ax, counts, shades, 10 if few else 8)
        ticks = range(len(named))
        ax.set_xticks(ticks, named)
        ax.set_yticks(ticks, [f"{name}\n{total:,}" for name, total in zip(named, totals[:, 0], strict=True)])
        ax.set_xlabel("named by the model")
        ax.set_ylabel("true (images)")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    add_title(figure, _confusion_finding(named, counts))
    return figure


def confusion(table: pd.DataFrame, threshold: float = 0.5) -> np.ndarray:
    """(true, named) counts of rows, int."""
    n_classes = len(predictions.class_names(table))
    counts = np.zeros((n_classes, n_classes), int)
    np.add.at(counts, (predictions.true_labels(table), predictions.predicted_labels(table, threshold)), 1)
    return counts


def _write_cells(ax: Axes, counts: np.ndarray, shades: np.ndarray, size: float) -> None:
    for (row, column), count in np.ndenumerate(counts):
        total = counts[row].sum()
        text = f"{percent(count / total)}\n{count:,}" if total else "–"
        colour = readable_on(shades[row, column])
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=size, linespacing=1.35)


def readable_on(shade: np.ndarray) -> str:
    """Black or white, whichever has more contrast (WCAG 2 relative luminance)."""
    linear = np.where(shade[:3] <= 0.04045, shade[:3] / 12.92, ((shade[:3] + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def _confusion_finding(named: tuple[str, ...], counts: np.ndarray) -> str:
    totals, right = counts.sum(axis=1), counts.diagonal()
    if len(named) > 2:
        best = _mixed_up(named, counts)
        return f"{percent(right.sum() / totals.sum())} of images named right{best}"
    pairs = zip(named, right, totals, strict=True)
    shares = [f"{percent(hit / total)} of {name}" for name, hit, total in pairs if total]
    return f"Right: {', '.join(shares)}"


def _mixed_up(named: tuple[str, ...], counts: np.ndarray) -> str:
    off = counts - np.diag(counts.diagonal())
    if not off.any():
        return ""
    true, wrong = np.unravel_index(off.argmax(), off.shape)
    return f"; most often {named[true]} is called {named[wrong]} ({off.max():,} images)"


def roc(table: pd.DataFrame, finding: str) -> Figure:
    """ROC curves: pooled and by magnification for two classes, each class against the rest for more."""
    figure, axes = new_figure(COLUMN_IN, 3.5 if predictions.is_binary(table) else 4.0)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
        for (name, y, score), (colour, dash, width) in zip(_ranked(table), _strokes(), strict=False):
            order, positives = _by_score(y, score)
            false, true = np.cumsum(~order)[positives], np.cumsum(order)[positives]
            x, height = np.r_[0, false / max(false[-1], 1)], np.r_[0, true / max(true[-1], 1)]
            ax.plot(*_corners(x, height), color=colour, linestyle=dash, linewidth=width, label=name)
        _square(ax, "1 − specificity", "sensitivity", "lower right")
    add_title(figure, finding)
    return figure


def precision_recall(table: pd.DataFrame, finding: str) -> Figure:
    """Precision over recall, for the same curves as `roc`."""
    figure, axes = new_figure(COLUMN_IN, 3.5 if predictions.is_binary(table) else 4.0)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        for (name, y, score), (colour, dash, width) in zip(_ranked(table), _strokes(), strict=False):
            order, last = _by_score(y, score)
            hits = np.cumsum(order)[last]
            recall, precision = hits / max(hits[-1], 1), hits / (last + 1)
            ax.plot(*_corners(recall, precision), color=colour, linestyle=dash, linewidth=width, label=name)
        _square(ax, "recall (sensitivity)", "precision", "lower left")
    add_title(figure, finding)
    return figure


def _ranked(table: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, is the class, its probability) of each curve; a stratum of one class has none."""
    truth, scores = predictions.true_labels(table), predictions.probabilities(table)
    if predictions.is_binary(table):
        strata = [("all", np.ones(len(table), bool))]
        found = sorted(table["magnification"].unique())
        strata += [(f"{value}X", (table["magnification"] == value).to_numpy()) for value in found if len(found) > 1]
        curves = [(name, truth[rows] == 1, scores[rows, 1]) for name, rows in strata]
    else:
        curves = [(name, truth == at, scores[:, at]) for at, name in enumerate(predictions.class_names(table))]
    return [curve for curve in curves if 0 < curve[1].sum() < len(curve[1])]


def _strokes() -> list[tuple[str, Any, float]]:
    """(colour, dash, width) of each curve; what stands for all, or for the first class, is thick."""
    return [(colour, dash, 1.8 if at == 0 else 1.1) for at, (colour, dash) in enumerate(LINES)]


def _by_score(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Truth from the highest score down, and the index of the last row of each distinct score."""
    order = np.argsort(-score, kind="stable")
    return y[order], np.r_[np.nonzero(np.diff(score[order]))[0], len(y) - 1]


def _corners(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most some 600 points: what the eye cannot tell apart need not be in the file."""
    cells = np.round(np.stack([x, y]) * 300)
    keep = np.r_[True, (np.diff(cells, axis=1) != 0).any(axis=0)]
    keep[-1] = True
    return x[keep], y[keep]


def _square(ax: Axes, x: str, y: str, legend_at: Any) -> None:
    ax.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    curves, labels = ax.get_legend_handles_labels()
    if len(curves) > 5 and isinstance(ax.figure, Figure):
        ax.figure.legend(curves, labels, loc="outside lower center", ncols=4)
    elif len(curves) > 1:
        ax.legend(loc=legend_at)


def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy by epoch, training solid and validation dashed;
    a line marks where fine-tuning begins."""
    figure, axes = new_figure(PAGE_IN, 2.7, 1, 2)
    with mpl.rc_context(STYLE):
        for ax, name in zip(axes[0], ("loss", "accuracy"), strict=True):
            ax.plot(history["epoch"], history[name], color=BLACK, marker="o", markersize=2.5, label="training")
            held_out = history[f"val_{name}"] if f"val_{name}" in history else pd.Series(dtype=float)
            if held_out.notna().any():
                ax.plot(
                    history["epoch"],
                    held_out,
                    "--",
                    color=BLUE,
                    marker="s",
                    markersize=2.5,
                    label="validation",
                )
            _mark_phases(ax, history)
            ax.set(xlabel="epoch", ylabel=f"{name} (nats)" if name == "loss" else name)
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].legend()
    add_title(figure, _learning_finding(history))
    return figure


def _mark_phases(ax: Axes, history: pd.DataFrame) -> None:
    begins = history.groupby("phase", sort=False)["epoch"].min()
    for phase, epoch in begins.items():
        if epoch > history["epoch"].min():
            ax.axvline(epoch - 0.5, color=VERMILION, linestyle=":", linewidth=1)
        ax.annotate(phase, (epoch - 0.3, 1.02), xycoords=("data", "axes fraction"), color=VERMILION)


def _learning_finding(history: pd.DataFrame) -> str:
    held_out = history["val_loss"] if "val_loss" in history else pd.Series(dtype=float)
    if not held_out.notna().any():
        return "No validation loss was recorded"
    best = history.loc[held_out.idxmin()]
    return f"Lowest validation loss: {best['val_loss']:.3f}, epoch {best['epoch']:.0f} ({best['phase']})"
