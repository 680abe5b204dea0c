"""Figures of predictions and of training. Each function returns a Figure, never shows or saves; `save` writes it.

Titles say the result; they are for notebooks. A saved figure has none, since a paper and a page say it in a caption.
Colours are Okabe and Ito's; dashes and markers differ too, so that figures survive greyscale and colour blindness.
"""

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics

from .. import names
from ..evaluation import case_statistics, predictions
from ..files import atomic_path
from .text import count, percent, sizes

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
PNG_DPI = 300  # what journals ask for
TITLE_LINE_IN = 0.15


@mpl.rc_context(STYLE)
def save(
    figure: Figure, folder: Path, name: str, titled: bool = False, kinds: tuple[str, ...] = ("png", "svg")
) -> Image.Image:
    """Write `<name>.png` and `<name>.svg`, without the title unless `titled`, and return the picture; equal figures
    give equal bytes."""
    title, dpi = "" if titled else figure.get_suptitle(), figure.dpi
    if title:
        figure.suptitle("")
        figure.set_figheight(figure.get_figheight() - TITLE_LINE_IN * len(title.split("\n")))
    # savefig would lay out and draw each kind twice: here the layout of the PNG serves the SVG too.
    figure.set_dpi(PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    layout = figure.get_layout_engine()
    figure.set_layout_engine("none")
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    for kind in kinds:
        with atomic_path(folder / f"{name}.{kind}") as temporary:
            if kind == "png":  # level 1: a third of the seconds of level 6, for a seventh more bytes
                picture.save(temporary, "PNG", dpi=(PNG_DPI, PNG_DPI), compress_level=1)
            else:  # without a date and the library's version, which would change the bytes
                figure.savefig(temporary, format=kind, metadata={"Date": None, "Creator": None}, facecolor="white")
    figure.set_layout_engine(layout)
    figure.set_dpi(dpi)
    if title:
        add_title(figure, title)
    return picture


@mpl.rc_context(STYLE)
def new_figure(width_in: float, height_in: float, n_rows: int = 1, n_columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure in the package's style and its axes, (n_rows, n_columns)."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False)


@mpl.rc_context(STYLE)
def add_title(figure: Figure, title: str) -> Figure:
    """The figure with a title, flush left and wrapped to its width, and so much higher."""
    lines = textwrap.fill(title, int(13.5 * figure.get_figwidth()))
    figure.suptitle(lines, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    figure.set_figheight(figure.get_figheight() + TITLE_LINE_IN * len(lines.split("\n")))
    return figure


@mpl.rc_context(STYLE)
def confusion_matrix(table: pd.DataFrame, model: str = "") -> Figure:
    """Percent of each true class and counts of images, for two to eight classes; rows true, columns predicted. Benign
    subtypes come first, and a line divides them from the malignant ones."""
    binary, confusions = predictions.is_binary(table), predictions.count_confusions(table)
    classes = [name for name in (*names.LABELS, *names.SUBTYPES) if name in confusions]
    counts = confusions.loc[classes, classes].to_numpy()
    totals, n = counts.sum(axis=1), len(classes)

    # --- cells ---
    figure, axes = new_figure(COLUMN_IN, 3.0 if n < 5 else 3.5)
    ax, shares = axes[0, 0], counts / np.maximum(totals, 1)[:, None]
    ax.imshow(mpl.colormaps["Blues"](0.75 * shares), aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        cell = f"{percent(share)}\n{counts[row, column]:,}" if totals[row] else "–"
        ax.text(column, row, cell, ha="center", va="center", linespacing=1.3, fontsize=10 if n < 5 else 6.5,
                color="white" if share > 0.95 else "black",  # 4.5 to 1 and more (WCAG 2)
                weight="bold" if row == column else "normal")  # fmt: skip
    ax.set_xticks(np.arange(0.5, n - 1), minor=True)
    ax.set_yticks(np.arange(0.5, n - 1), minor=True)
    ax.grid(which="minor", color=GREY, linewidth=0.5)
    ax.spines[:].set(visible=True, color=GREY, linewidth=0.5)
    ax.tick_params(which="both", length=0)
    ax.set_xticks(range(n), classes)
    ax.set_yticks(range(n), [f"{name}\n{total:,}" for name, total in zip(classes, totals, strict=True)])
    ax.set(xlabel="Predicted label", ylabel="True label")

    n_benign = sum(names.SUBTYPES[name][1] == "benign" for name in classes if not binary)
    if 0 < n_benign < n:
        ax.axvline(n_benign - 0.5, color=BLACK, linewidth=1.8)
        ax.axhline(n_benign - 0.5, color=BLACK, linewidth=1.8)
    where = f", {table['magnification'].iloc[0]}X" if table["magnification"].nunique() == 1 else ""
    title = f"Confusion matrix{model and f' of {model}'}{where}, {count(len(table), 'test image')}"
    return add_title(figure, f"{title}: {percent(counts.trace() / counts.sum())} correctly classified")


@mpl.rc_context(STYLE)
def roc(table: pd.DataFrame, title: str) -> Figure:
    """ROC curves: pooled and by magnification for two classes, each class against the rest for more. Rows of one class
    alone have no curve."""
    binary = predictions.is_binary(table)
    truth, scores, zoom = predictions.true_labels(table), predictions.probabilities(table), table["magnification"]
    if binary:
        strata = {"all": zoom > 0} | {f"{at}X": zoom == at for at in sorted(zoom.unique()) if zoom.nunique() > 1}
        curves = [(name, truth[rows] == 1, scores[rows, 1]) for name, rows in strata.items()]
    else:
        curves = [(name, truth == at, scores[:, at]) for at, name in enumerate(predictions.class_names(table))]
    figure, axes = new_figure(COLUMN_IN, 3.3 if binary else 3.8)
    ax = axes[0, 0]
    ax.set(xlabel="False positive rate", ylabel="True positive rate", aspect="equal")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
    defined = [curve for curve in curves if 0 < curve[1].sum() < len(curve[1])]
    for at, ((name, y, score), (colour, dash)) in enumerate(zip(defined, LINES, strict=False)):
        points = metrics.roc_curve(y, score)[:2]
        ax.plot(*points, label=name, color=colour, linestyle=dash, linewidth=1.1 if at else 1.8)
    lines, labels = ax.get_legend_handles_labels()
    if len(lines) > 5:  # eight names would cover the curves
        figure.legend(lines, labels, loc="outside lower center", ncols=4)
    elif len(lines) > 1:
        ax.legend(loc="lower right")
    return add_title(figure, title)


@mpl.rc_context(STYLE)
def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy by epoch, training solid and validation dashed; a dotted line is where fine-tuning begins."""
    history = history.reindex(columns=[*dict.fromkeys([*history, "val_loss", "val_accuracy"])])
    figure, axes = new_figure(PAGE_IN, 2.5, 1, 2)
    for ax, name in zip(axes[0], ("loss", "accuracy"), strict=True):
        ax.plot(history["epoch"], history[name], color=BLACK, marker="o", markersize=2.5, label="training")
        if history[f"val_{name}"].notna().any():
            ax.plot(history["epoch"], history[f"val_{name}"], "--s", color=BLUE, markersize=2.5, label="validation")
        for phase, epoch in history.groupby("phase", sort=False)["epoch"].min().items():
            if epoch > history["epoch"].min():
                ax.axvline(epoch - 0.5, color=VERMILION, linestyle=":", linewidth=1)
            ax.annotate(phase, (epoch - 0.3, 1.02), xycoords=("data", "axes fraction"), color=VERMILION)
        ax.set(xlabel="Epoch", ylabel=name.capitalize())
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend()
    if history["val_loss"].isna().all():
        return add_title(figure, "Learning curves: no validation loss was recorded")
    best = history.loc[history["val_loss"].idxmin()]  # the checkpoint
    where = f"{best['val_loss']:.3f} at epoch {best['epoch']:.0f} ({best['phase']})"
    return add_title(figure, f"Learning curves: lowest validation loss {where}")


# --- what reporting guidelines ask for ---


@mpl.rc_context(STYLE)
def calibration(curve: pd.DataFrame, test: pd.DataFrame, title: str) -> Figure:
    """Observed frequency over predicted probability, with the band over cases; below, how the predictions spread.
    curve: of `calibration.smooth_curve`. The histogram is of each true label; for more than two classes, of images
    whose most probable class is correct and is not."""
    figure = Figure(figsize=(COLUMN_IN, 4.1), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
    above.fill_between(curve["predicted"], curve["low"], curve["high"], color=BLUE, alpha=0.2, linewidth=0)
    above.plot(curve["predicted"], curve["observed"], color=BLUE, linewidth=1.4)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="Observed frequency")

    pairs = [piece.predicted_and_observed() for piece in case_statistics.score_images(test)[0]]
    predicted, observed = (np.concatenate(side) for side in zip(*pairs, strict=True))
    kinds = ("benign", "malignant") if predictions.is_binary(test) else ("misclassified", "correct")
    for value, kind, colour, fill in ((0, kinds[0], BLUE, True), (1, kinds[1], VERMILION, False)):
        histogram = {"bins": np.linspace(0, 1, 26).tolist(), "color": colour, "linewidth": 1.2}
        below.hist(predicted[observed == value], histtype="stepfilled" if fill else "step", alpha=0.6 if fill else 1,
                   label=kind, **histogram)  # fmt: skip
    below.set(xlabel="Predicted probability", ylabel="Images")
    below.legend(loc="upper center")
    return add_title(figure, title)


@mpl.rc_context(STYLE)
def decision_curve(curve: pd.DataFrame, prevalence: float) -> Figure:
    """Net benefit over the threshold, beside calling all and none malignant; curve: of `net_benefit_curve`."""
    figure, axes = new_figure(COLUMN_IN, 3.5)
    ax = axes[0, 0]
    ax.axhline(0, color=GREY, linewidth=0.8, label="none malignant")
    ax.plot(curve["threshold"], curve["treat_all"], "--", color=GREY, linewidth=1.1, label="all malignant")
    ax.fill_between(curve["threshold"], curve["low"], curve["high"], color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(curve["threshold"], curve["model"], color=BLUE, linewidth=1.4, label="model")
    ax.set(xlabel="Threshold probability", ylabel="Net benefit", xlim=(0, 1))
    ax.set_ylim(-0.1, 1.05 * max(prevalence, curve["high"].max()))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.13))  # above the line at 0
    is_best = curve["model"] > np.maximum(curve["treat_all"], 0) + 1e-9
    best = f"better than all or none at {percent(is_best.mean())} of thresholds"
    return add_title(figure, f"Decision curve at {percent(prevalence)} malignant: {best}")


@mpl.rc_context(STYLE)
def flow(boxes: list[tuple[str, dict[str, int]]], excluded: list[tuple[str, int]]) -> Figure:
    """Boxes of images, slides and cases down to the parts, and what was left out; of `participants.count_flow`."""
    figure, axes = new_figure(COLUMN_IN * 1.6, 2.9)
    ax = axes[0, 0]
    ax.axis("off")
    ax.set(xlim=(0, 1), ylim=(-0.06, 1))
    (first, start), (second, used), *parts = boxes
    main = 0.28 if excluded else 0.5
    shown = parts if len(parts) <= 3 else parts[-1:]  # of a cross-validation all folds together
    places = [(at + 0.5) / len(shown) for at in range(len(shown))] if len(shown) > 1 else [main]
    drawn = [(main, 0.93, "center", "-", f"{first}\n{sizes(start)}"),
             (main, 0.52, "center", "-", f"{second}\n{sizes(used)}")]  # fmt: skip
    drawn += [
        (x, 0.08, "center", "-", "\n".join([title, *sizes(counts).split(", ")]))
        for x, (title, counts) in zip(places, shown, strict=True)
    ]
    arrows = [((main, 0.9), (main, 0.62)), *(((main, 0.5), (x, 0.23)) for x in places)]
    if excluded:
        arrows.append(((main, 0.74), (0.56, 0.74)))
        lines = [f"{count(n, 'image')}: {reason}" for reason, n in excluded]
        drawn.append((0.58, 0.74, "left", "--", "\n".join(["Left out", *lines])))
    for begin, end in arrows:
        ax.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": GREY}, zorder=0)
    for x, y, align, dash, words in drawn:
        frame = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": BLACK, "linewidth": 0.8, "ls": dash}
        ax.text(x, y, words, ha=align, va="center", fontsize=7, linespacing=1.5, bbox=frame)
    return add_title(figure, f"Flow: {count(used['n_cases'], 'case')} in the experiment")
