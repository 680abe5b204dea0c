"""The leak penalty: what one model and one budget seem to score under protocols that leak more and less."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ..evaluation import metrics, predictions
from . import plots

METRICS = {
    name: metrics.METRICS[name].label for name in ("image_accuracy", "balanced_accuracy", "recognition_rate", "roc_auc")
}
PROTOCOLS = ("image", "slide", "case")  # from the leakiest to the honest one


def table(predicted: pd.DataFrame, n_resamples: int = 10_000) -> pd.DataFrame:
    """Predictions of several protocols -> rows of protocol, metric, value, low, high, n_images, n_cases.

    Each protocol's folds are pooled and its seeds averaged; 95 % intervals resample cases. low and high are missing
    where there are too few cases for an interval.
    """
    rows = []
    for protocol in [name for name in PROTOCOLS if name in set(predicted["protocol"])]:
        test = predictions.select_part(predicted[predicted["protocol"] == protocol], "test")
        found = metrics.compute_stratum(test, "pooled", n_resamples, seed=0)
        for name in METRICS:
            kept = {key: found[name].get(key) for key in ("value", "low", "high", "n_images", "n_cases")}
            rows.append({"protocol": protocol, "metric": name} | kept)
    return pd.DataFrame(rows)


def sentence(penalties: pd.DataFrame, data: str) -> str:
    """What a paper would quote, whichever way it falls."""
    auc = penalties[penalties["metric"] == "roc_auc"].set_index("protocol")
    said = ", ".join(f"{auc.at[name, 'value']:.2f}{_interval(auc.loc[name])} by {name}" for name in auc.index)
    return f"One model, one budget, {data}: ROC AUC {said} (95 % intervals over cases)."


def figure(penalties: pd.DataFrame, data: str) -> Figure:
    """Dots with intervals: one panel a metric, one row a protocol."""
    drawn, axes = plots.new_figure(plots.PAGE_IN, 2.1, 1, len(METRICS))
    for ax, (name, label) in zip(axes[0], METRICS.items(), strict=True):
        rows = penalties[penalties["metric"] == name]
        for at, row in enumerate(rows.itertuples()):
            if pd.notna(row.low):
                ax.plot([row.low, row.high], [at, at], color=plots.GREY, linewidth=1.5)
            ax.plot(row.value, at, "o", color=plots.BLUE if row.protocol == "case" else plots.VERMILION)
            ax.annotate(
                f"{row.value:.3f}", (row.value, at), (0, 6), textcoords="offset points", ha="center", fontsize=7
            )
        ax.set_yticks(range(len(rows)), rows["protocol"] if ax is axes[0][0] else [""] * len(rows))
        ax.set_ylim(len(rows) - 0.5, -0.6)
        ax.set_xlim(right=1.02)
        ax.set_xlabel(label)
    plots.add_title(drawn, _finding(penalties) + f" {data}; bars: 95 % over cases.")
    return drawn


def _finding(penalties: pd.DataFrame) -> str:
    accuracy = penalties[penalties["metric"] == "image_accuracy"].set_index("protocol")["value"]
    if not {"image", "case"} <= set(accuracy.index):
        return "The same model under several protocols."
    gap = 100 * (accuracy["image"] - accuracy["case"])
    return (
        f"The split by image scores {abs(gap):.1f} points {'higher' if gap >= 0 else 'lower'} in accuracy than by case."
    )


def _interval(row: pd.Series) -> str:
    return f" ({row['low']:.2f} to {row['high']:.2f})" if pd.notna(row["low"]) else ""
