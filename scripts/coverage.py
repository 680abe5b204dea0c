"""Do the intervals cover? Simulated cases of BreakHis's size, a third of it and one fold; writes
docs/coverage.png.

python scripts/coverage.py [--samples 1000]     some 8 minutes on 2 cores; the table goes to docs/coverage.csv
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from breakhis_cls.evaluation import bootstrap, metrics
from breakhis_cls.evaluation.case_statistics import Statistic
from breakhis_cls.reports import plots

SIZES = {
    "all of BreakHis": (54, 16),
    "a third of it": (18, 5),
    "one fold of five": (11, 3),
}  # malignant, benign
MODELS = {
    "a middling model": 1.3,
    "a good model": 2.0,
}  # distance of each class from the threshold, in case spreads
CASE_SPREAD, IMAGE_SPREAD, STEEPNESS = 1.0, 0.8, 1.6  # so that images of one case correlate at 0.6
IMAGES_A_CASE = 24  # on average, very unequal; more images change little, since cases carry the spread
N_RESAMPLES = 1_000
METHODS = ("logit_t", "bca", "percentile", "images")
SHOWN = ("roc_auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity", "image_accuracy",
         "recognition_rate", "case_vote_accuracy", "f1", "mcc", "brier", "log_loss", "ece")  # fmt: skip


def main() -> int:
    """Simulate, write docs/coverage.csv, .png and .svg, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="simulated test sets for each size and model")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs")
    given = parser.parse_args()
    table = pd.concat([coverage(size, model, given.samples) for model in MODELS for size in SIZES])
    given.out.mkdir(exist_ok=True)
    table.round(4).to_csv(given.out / "coverage.csv", index=False)
    plots.save(drawn(table), given.out, "coverage")
    print(table.pivot_table(index=["model", "size", "metric"], columns="method", values="covered", sort=False).round(3))
    return 0


def coverage(size: str, model: str, n_samples: int) -> pd.DataFrame:
    """Share of samples whose interval holds the population's value, by metric and method,
    and the mean width."""
    truth = population(*SIZES[size], MODELS[model])
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(one_sample, range(n_samples), repeat(size), repeat(model), chunksize=8))
    rows = pd.DataFrame([row for sample in found for row in sample], columns=["metric", "method", "low", "high"])
    rows["covered"] = (rows["low"] <= rows["metric"].map(truth)) & (rows["metric"].map(truth) <= rows["high"])
    rows["width"] = rows["high"] - rows["low"]
    rows = rows.dropna(subset=["low", "high"]).astype({"covered": float})
    summary = rows.groupby(["metric", "method"], sort=False, as_index=False)[["covered", "width"]].mean()
    return summary.assign(size=size, model=model, true_value=summary["metric"].map(truth), n_samples=n_samples)


def one_sample(seed: int, size: str, model: str) -> list[tuple[str, str, float | None, float | None]]:
    """(metric, method, low, high) of one simulated test set."""
    table = sample(np.random.default_rng((seed, 1)), *SIZES[size], MODELS[model])
    by_image = table.assign(case=(np.random.default_rng(seed).permutation(len(table)) % 200).astype(str))
    rows = []
    for method in METHODS:
        grouped = by_image if method == "images" else table
        statistics, cases = metrics.compute_statistics(grouped, SHOWN)
        weights = bootstrap.case_weights(len(cases), N_RESAMPLES, seed)
        groups = bootstrap.case_labels(grouped, cases)
        for name in SHOWN:
            behind = metrics.count_cases_behind(name, table)
            limits = metrics.METRICS[name].range
            bounds = interval(method, statistics[name], weights, groups, behind, limits)
            rows.append((name, method, bounds.low, bounds.high))
    return [row for row in rows if not (row[1] == "images" and row[0] in ("recognition_rate", "case_vote_accuracy"))]


def interval(
    method: str, statistic: Statistic, weights: np.ndarray, groups: np.ndarray, n_behind: int, limits: bootstrap.Range
) -> bootstrap.Interval:
    """The package's own interval (`logit_t`), or the percentile ("images" too) or BCa interval (Efron 1987)."""
    chosen = bootstrap.bootstrap_interval(statistic, weights, groups, n_behind, limits)
    drawn = statistic(weights)
    drawn = drawn[np.isfinite(drawn)]
    value = bootstrap.statistic_value(statistic, weights.shape[1])
    if method == "logit_t" or chosen.low is None or (value in limits and np.ptp(drawn) == 0):
        return chosen
    tails = np.array([bootstrap.TAIL, 1 - bootstrap.TAIL])
    if method == "bca":
        left_out = bootstrap.jackknife_values(statistic, weights.shape[1])
        below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
        bias = stats.norm.ppf(np.clip(below, 1 / len(drawn), 1 - 1 / len(drawn)))
        pulls = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
        size = (pulls**2).sum() ** 1.5
        acceleration = (pulls**3).sum() / (6 * size) if size > 0 else 0.0
        z = bias + stats.norm.ppf(tails)
        tails = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(drawn, tails)
    return bootstrap.Interval(float(low), float(high))


def population(n_malignant: int, n_benign: int, distance: float) -> dict[str, float]:
    """The true values: means over twenty samples of ten times the size."""
    values = []
    for seed in range(20):
        table = sample(np.random.default_rng((seed, 2)), 10 * n_malignant, 10 * n_benign, distance)
        statistics, cases = metrics.compute_statistics(table, SHOWN)
        values.append([bootstrap.statistic_value(statistics[name], len(cases)) for name in SHOWN])
    return dict(zip(SHOWN, np.mean(values, axis=0), strict=True))


def sample(rng: np.random.Generator, n_malignant: int, n_benign: int, distance: float) -> pd.DataFrame:
    """Predictions of cases whose images share a strong pull towards one side; one slide a case."""
    y = np.repeat([1, 0], [n_malignant, n_benign])
    n_images = np.maximum(4, rng.negative_binomial(6, 6 / (6 + IMAGES_A_CASE), len(y)))
    pull = (2 * y - 1) * distance + rng.normal(0, CASE_SPREAD, len(y))
    case = np.repeat(np.arange(len(y)), n_images)
    p = 1 / (1 + np.exp(-STEEPNESS * (pull[case] + rng.normal(0, IMAGE_SPREAD, len(case)))))
    malignant = y[case] == 1
    return pd.DataFrame({
        "file": np.arange(len(case)).astype(str), "slide": case.astype(str), "case": case.astype(str), "fold": 0,
        "label": np.where(malignant, "malignant", "benign"), "subtype": np.where(malignant, "DC", "F"),
        "magnification": 40, "part": "test", "seed": 0, "p_benign": 1 - p, "p_malignant": p,
    })  # fmt: skip


def drawn(table: pd.DataFrame) -> Figure:
    """A panel for each model (row) and size (column): how often each method's interval covers each metric."""
    figure, axes = plots.new_figure(plots.PAGE_IN, 6.4, len(MODELS), len(SIZES))
    marks = {"logit_t": ("o", plots.BLACK), "bca": ("^", plots.BLUE), "percentile": ("s", plots.VERMILION),
             "images": ("x", plots.GREY)}  # fmt: skip
    with mpl.rc_context(plots.STYLE):
        for row, model in enumerate(MODELS):
            for column, size in enumerate(SIZES):
                ax, part = axes[row, column], table[(table["model"] == model) & (table["size"] == size)]
                ax.axvspan(92, 97, color="#dddddd")
                for method, (marker, colour) in marks.items():
                    rows = part[part["method"] == method]
                    places = [SHOWN.index(name) for name in rows["metric"]]
                    ax.plot(100 * rows["covered"], places, marker, color=colour, markersize=4, label=method)
                ax.set_yticks(range(len(SHOWN)), SHOWN if column == 0 else [""] * len(SHOWN))
                ax.set(xlim=(30, 101), ylim=(len(SHOWN) - 0.5, -0.5), title=f"{size}\n{model}")
                ax.grid(axis="y", color="#eeeeee")
        axes[-1, 1].set_xlabel("share of 95 % intervals that hold the true value, % (grey: 92 to 97)")
        handles, methods = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, methods, loc="outside lower center", ncols=len(methods))
    plots.add_title(figure, _finding(table))
    return figure


def _finding(table: pd.DataFrame) -> str:
    whole = table[table["size"] == "all of BreakHis"]  # the worst metric of the worst model
    lows = whole.groupby("method")["covered"].min()
    return (
        f"With 70 cases the chosen interval covers at worst {plots.percent(lows['logit_t'])}, "
        f"percentiles {plots.percent(lows['percentile'])}, images taken for independent "
        f"{plots.percent(lows['images'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
