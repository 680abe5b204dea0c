"""How often do 95 % intervals hold the true value? Simulated cases: all of BreakHis, a third of it, one fold of five.

python scripts/coverage.py [--samples 1000] [--out DIR]     some 8 minutes on 2 cores; writes coverage.csv, .png, .svg
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import product, repeat
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from breakhis_cls.evaluation import bootstrap, metrics
from breakhis_cls.evaluation.case_statistics import Statistic
from breakhis_cls.files import write_csv
from breakhis_cls.reports import plots

SIZES = {"all of BreakHis": (54, 16), "a third of it": (18, 5), "one fold of five": (11, 3)}  # cases: malignant, benign
MODELS = {"a middling model": 1.3, "a good model": 2.0}  # distance of each class from the threshold, in case spreads
CASE_SPREAD, IMAGE_SPREAD, STEEPNESS = 1.0, 0.8, 1.6  # so that images of one case correlate at 0.6
IMAGES_A_CASE = 24  # on average, very unequal; more images change little, since cases carry the spread
N_RESAMPLES = 1_000
METHODS = ("logit_t", "bca", "percentile", "images")
SHOWN = ("roc_auc", "average_precision", "balanced_accuracy", "sensitivity", "specificity", "image_accuracy",
         "recognition_rate", "case_vote_accuracy", "f1", "mcc", "brier", "log_loss", "ece")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Simulate, write the table and the figure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000, help="simulated test sets for each size and model")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs")
    asked = parser.parse_args(argv)
    table = pd.concat([measure_coverage(size, model, asked.samples) for model in MODELS for size in SIZES])
    write_csv(asked.out / "coverage.csv", table.round(4))
    plots.save(plot_coverage(table), asked.out, "coverage")
    print(table.pivot_table(index=["model", "size", "metric"], columns="method", values="covered", sort=False).round(3))
    return 0


def measure_coverage(size: str, model: str, n_samples: int) -> pd.DataFrame:
    """By metric and method: the share of samples whose interval holds the true value, and the mean width."""
    # The true value: the mean over twenty samples of ten times the size.
    values = []
    for seed in range(20):
        n_malignant, n_benign = (10 * n for n in SIZES[size])
        table = simulate(np.random.default_rng((seed, 2)), n_malignant, n_benign, MODELS[model])
        statistics, cases = metrics.compute_statistics(table, SHOWN)
        values.append([bootstrap.statistic_value(statistics[name], len(cases)) for name in SHOWN])
    truth = dict(zip(SHOWN, np.mean(values, axis=0), strict=True))

    with ProcessPoolExecutor() as pool:
        samples = list(pool.map(compute_intervals, range(n_samples), repeat(size), repeat(model), chunksize=8))
    rows = pd.DataFrame([row for sample in samples for row in sample], columns=["metric", "method", "low", "high"])
    rows["covered"] = (rows["low"] <= rows["metric"].map(truth)) & (rows["metric"].map(truth) <= rows["high"])
    rows["width"] = rows["high"] - rows["low"]
    rows = rows.dropna(subset=["low", "high"]).astype({"covered": float})
    summary = rows.groupby(["metric", "method"], sort=False, as_index=False)[["covered", "width"]].mean()
    return summary.assign(size=size, model=model, true_value=summary["metric"].map(truth), n_samples=n_samples)


def compute_intervals(seed: int, size: str, model: str) -> list[tuple[str, str, float | None, float | None]]:
    """(metric, method, low, high) of one simulated test set."""
    table = simulate(np.random.default_rng((seed, 1)), *SIZES[size], MODELS[model])
    # "images" resamples images as if they were independent: 200 random groups stand for the cases.
    by_image = table.assign(case=(np.random.default_rng(seed).permutation(len(table)) % 200).astype(str))
    rows = []
    for method in METHODS:
        grouped = by_image if method == "images" else table
        statistics, cases = metrics.compute_statistics(grouped, SHOWN)
        weights = bootstrap.case_weights(len(cases), N_RESAMPLES, seed)
        groups = bootstrap.case_labels(grouped, cases)
        for name in SHOWN:
            if method == "images" and name in ("recognition_rate", "case_vote_accuracy"):
                continue  # means over slides and cases, which these groups are not
            behind = metrics.count_cases_behind(name, table)
            bounds = interval(method, statistics[name], weights, groups, behind, metrics.METRICS[name].range)
            rows.append((name, method, bounds.low, bounds.high))
    return rows


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
        influence = np.nanmean(left_out) - left_out[np.isfinite(left_out)]
        size = (influence**2).sum() ** 1.5
        acceleration = (influence**3).sum() / (6 * size) if size > 0 else 0.0
        z = bias + stats.norm.ppf(tails)
        tails = stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(drawn, tails)
    return bootstrap.Interval(float(low), float(high))


def simulate(rng: np.random.Generator, n_malignant: int, n_benign: int, distance: float) -> pd.DataFrame:
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


@mpl.rc_context(plots.STYLE)
def plot_coverage(table: pd.DataFrame) -> Figure:
    """A panel for each model (row) and size (column): how often each method's interval covers each metric."""
    figure, axes = plots.new_figure(plots.PAGE_IN, 6.4, len(MODELS), len(SIZES))
    marks = {"logit_t": ("o", plots.BLACK), "bca": ("^", plots.BLUE), "percentile": ("s", plots.VERMILION),
             "images": ("x", plots.GREY)}  # fmt: skip
    for ax, (model, size) in zip(axes.flat, product(MODELS, SIZES), strict=True):
        panel = table[(table["model"] == model) & (table["size"] == size)]
        ax.axvspan(92, 97, color="#dddddd")
        for method, (marker, colour) in marks.items():
            rows = panel[panel["method"] == method]
            places = [SHOWN.index(name) for name in rows["metric"]]
            ax.plot(100 * rows["covered"], places, marker, color=colour, markersize=4, label=method)
        ax.set_yticks(range(len(SHOWN)), SHOWN if ax in axes[:, 0] else [""] * len(SHOWN))
        ax.set(xlim=(30, 101), ylim=(len(SHOWN) - 0.5, -0.5), title=f"{size}\n{model}")
        ax.grid(axis="y", color="#eeeeee")
    axes[-1, len(SIZES) // 2].set_xlabel("95 % intervals that hold the true value (%; grey: 92 to 97)")
    handles, methods = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, methods, loc="outside lower center", ncols=len(methods))
    lows = table[table["size"] == "all of BreakHis"].groupby("method")["covered"].min()
    shares = {method: plots.percent(low) for method, low in lows.items()}
    plots.add_title(
        figure,
        f"Coverage with 70 cases, worst metric and model: {shares['logit_t']} by the method in use, "
        f"{shares['percentile']} by percentiles, {shares['images']} by resampling images",
    )
    return figure


if __name__ == "__main__":
    sys.exit(main())
