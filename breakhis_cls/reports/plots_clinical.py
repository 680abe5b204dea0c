"""Figures that reporting guidelines ask for: calibration, decision curve, and the flow of images, slides and cases."""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation import case_statistics, predictions
from .plots import BLACK, BLUE, COLUMN_IN, GREY, STYLE, VERMILION, add_title, new_figure
from .text import count, sizes


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
    ax.legend(loc="lower left")
    is_best = curve["model"] > np.maximum(curve["treat_all"], 0) + 1e-9
    title = (
        f"Decision curve at {prevalence:.0%} malignant: better than all or none at {is_best.mean():.0%} of thresholds"
    )
    return add_title(figure, title)


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
