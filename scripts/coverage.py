"""How often do 95 % intervals hold the true value? Simulated cases of BreakHis's sizes: all, a third, one fold of five.

python scripts/coverage.py [--samples 300] [--out DIR] [--eight]     some 9 minutes on 2 cores; writes coverage.csv,
.png and .svg; with --eight, in 3 minutes, coverage_eight.csv: each of the eight subtypes against the rest
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product, repeat
from pathlib import Path
from unittest import mock

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import special

from breakhis_cls import names
from breakhis_cls.data.protocols import official_images
from breakhis_cls.evaluation import bootstrap, metrics
from breakhis_cls.files import write_csv
from breakhis_cls.reports import plots

SIZES = {"all of BreakHis": (54, 16), "a third of it": (18, 5), "one fold of five": (11, 3)}  # cases: malignant, benign
MAGNIFICATION = 200  # whose images a case has: 9 to 118
# How strongly a case's images pull to the right side, by `simulate`.
CASES = ("gaussian", "beta-binomial", "heteroscedastic", "t3", "5 % of cases fail", "10 % of cases fail")
QUALITIES = {"middling": 1.3, "good": 2.0}  # distance of each class from the threshold, in spreads of cases
N_RESAMPLES = 500
METHODS = ("in use", "without guard", "images")
ONCE = ("slide_vote_accuracy", "roc_auc_within_folds")  # here equal to the case vote and to ROC AUC
EIGHT = ("sensitivity", "specificity", "roc_auc")  # of a subtype against the rest
SHOWN = [name for name in metrics.METRICS if name not in ONCE]


def main(argv: list[str] | None = None) -> int:
    """Simulate, write the table and the figure, print the worst cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300, help="simulated test sets for each size and model")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs")
    parser.add_argument("--eight", action="store_true", help="the eight subtypes, instead of benign or malignant")
    asked = parser.parse_args(argv)
    if asked.eight:
        table = measure_eight_classes(asked.samples).round(3)
        write_csv(asked.out / "coverage_eight.csv", table)
        print(table.to_string(index=False))
        return 0
    with ProcessPoolExecutor() as pool:
        cells = [measure_coverage(pool, *cell, asked.samples) for cell in product(SIZES, CASES, QUALITIES)]
    table = pd.concat(cells).sort_values(["covered", "width"], ignore_index=True).round(3)
    write_csv(asked.out / "coverage.csv", table)
    plots.save(plot_coverage(table), asked.out, "coverage", titled=True)
    for method in METHODS:
        print(table[table["method"] == method].head(15).to_string(index=False))
    return 0


def measure_coverage(pool: ProcessPoolExecutor, size: str, cases: str, quality: str, n_samples: int) -> pd.DataFrame:
    """By metric and method: share of intervals that hold the true value, their mean width, share of samples without."""
    cell = [repeat(one) for one in (size, cases, quality)]
    truth = dict(zip(SHOWN, np.mean(list(pool.map(compute_values, range(12), *cell)), axis=0), strict=True))
    samples = pool.map(compute_intervals, range(n_samples), *cell, chunksize=10)
    rows = pd.DataFrame([row for sample in samples for row in sample], columns=["metric", "method", "low", "high"])
    rows[["low", "high"]] = rows[["low", "high"]].astype(float)
    true = rows["metric"].map(truth)
    rows["covered"] = ((rows["low"] <= true) & (true <= rows["high"])).where(rows["low"].notna()).astype(float)
    rows = rows.assign(width=rows["high"] - rows["low"], refused=rows["low"].isna())
    summary = rows.groupby(["metric", "method"], sort=False)[["covered", "width", "refused"]].mean().reset_index()
    return summary.assign(size=size, cases=cases, quality=quality, true_value=summary["metric"].map(truth))


def compute_values(seed: int, size: str, cases: str, quality: str) -> list[float]:
    """Metrics of a test set of ten times the size: their mean over twelve is taken for the true value."""
    table = simulate(np.random.default_rng((seed, 2)), SIZES[size], cases, QUALITIES[quality], times=10)
    statistics, all_cases = metrics.compute_statistics(table, SHOWN)
    return [bootstrap.statistic_value(statistics[name], len(all_cases)) for name in SHOWN]


def compute_intervals(
    seed: int, size: str, cases: str, quality: str
) -> list[tuple[str, str, float | None, float | None]]:
    """(metric, method, low, high) of one simulated test set."""
    table = simulate(np.random.default_rng((seed, 1)), SIZES[size], cases, QUALITIES[quality])
    # "images" resamples images as if they were independent: 200 random groups stand for the cases.
    by_image = table.assign(case=(np.random.default_rng(seed).permutation(len(table)) % 200).astype(str))
    rows, n_cases = [], metrics.count_cases(table)
    # A contrast alone: at one size.
    for grouped in (table, by_image) if size == "all of BreakHis" else (table,):
        statistics, all_cases = metrics.compute_statistics(grouped, SHOWN)
        weights = bootstrap.case_weights(len(all_cases), N_RESAMPLES, seed)
        groups = bootstrap.case_classes(grouped, all_cases)
        for name, statistic in statistics.items():
            known = {id(weights): statistic(weights)}  # two methods share these draws

            def remembered(drawn: np.ndarray, statistic=statistic, known=known) -> np.ndarray:
                return known[id(drawn)] if id(drawn) in known else statistic(drawn)

            behind, limits = metrics.cases_behind(name, n_cases)[0], metrics.METRICS[name].range
            plain = bootstrap.bootstrap_interval(remembered, weights, groups, behind, limits)
            if grouped is table:
                used = metrics.compute_interval(name, remembered, weights, groups, table, n_cases)
                rows += [(name, "in use", used.low, used.high), (name, "without guard", plain.low, plain.high)]
            elif name not in ("recognition_rate", "case_vote_accuracy"):  # means over slides and cases
                rows.append((name, "images", plain.low, plain.high))
    return rows


def simulate(
    rng: np.random.Generator, n_cases: tuple[int, int], cases: str, distance: float, times: int = 1
) -> pd.DataFrame:
    """Predictions of `times` as many cases, of the numbers of images that real ones have; one slide a case."""
    images = official_images()
    images = images[images["magnification"] == MAGNIFICATION]
    n_images = []
    for label, n in zip(("malignant", "benign"), n_cases, strict=True):
        real = images[images["label"] == label].groupby("case").size().to_numpy()
        n_images += [rng.choice(real, n, replace=False) for _ in range(times)]  # all of them, or some
    case = np.repeat(np.arange(times * sum(n_cases)), np.concatenate(n_images))
    is_malignant = np.repeat([True, False], np.multiply(times, n_cases))
    n, noise = len(is_malignant), rng.normal(0, 1, len(case))

    # --- (images,) log odds of the true class ---
    spread = np.full(n, 0.8)  # of a case's images, so that they correlate at 0.6
    if cases == "beta-binomial":  # each image is correct or not, with a correlation of 0.4 within its case
        mean = special.ndtr(distance / 1.3)  # 0.84 and 0.94
        share = rng.beta(1.5 * mean, 1.5 * (1 - mean), n)
        right = np.where(rng.random(len(case)) < share[case], 1, -1)
        log_odds = right * np.abs(2.5 + 1.5 * noise)
    else:
        if cases == "gaussian":
            pull = distance + rng.normal(0, 1, n)
        elif cases == "t3":  # heavy tails, of the same spread
            pull = distance + rng.standard_t(3, n) / np.sqrt(3)
        elif cases == "heteroscedastic":  # some cases are far more uncertain than others
            spread = np.exp(rng.normal(-0.3, 0.8, n))
            pull = distance + spread * rng.normal(0, 1, n)
        else:  # some cases are wrong as a whole, all others right
            fails = rng.random(n) < float(cases.split()[0]) / 100
            pull = 1.5 * distance * np.where(fails, -1, 1) + rng.normal(0, 0.4, n)
        log_odds = 1.6 * (pull[case] + spread[case] * noise)

    malignant = is_malignant[case]
    p = special.expit(np.where(malignant, log_odds, -log_odds))
    return pd.DataFrame({
        "file": np.arange(len(case)).astype(str), "slide": case.astype(str), "case": case.astype(str), "fold": 0,
        "label": np.where(malignant, "malignant", "benign"), "subtype": np.where(malignant, "DC", "F"),
        "magnification": MAGNIFICATION, "part": "test", "seed": 0, "p_benign": 1 - p, "p_malignant": p,
    })  # fmt: skip


def measure_eight_classes(n_samples: int) -> pd.DataFrame:
    """A row for each kind of case, class and metric: coverage and share of refusals, by three methods.

    Before: freedom by label (all malignant cases for LC), no guard, no refusal; by subtype without refusal; in use.
    """
    summaries = []
    with ProcessPoolExecutor() as pool:
        for fails in (0.0, 0.1):
            truth = pd.concat(pool.map(_eight_values, range(12), repeat(fails))).groupby(level=0).mean()
            rows = pd.concat(pool.map(_eight_intervals, range(n_samples), repeat(fails), chunksize=10))
            true = truth[rows["class"] + " " + rows["metric"]].to_numpy()
            covered = ((rows["low"] <= true) & (true <= rows["high"])).where(rows["low"].notna()).astype(float)
            rows = rows.assign(covered=covered, refused=rows["low"].isna(), fails=fails)
            keys = ["fails", "class", "n_cases", "metric", "method"]
            summaries.append(rows.groupby(keys, sort=False)[["covered", "refused"]].mean().reset_index())
    return pd.concat(summaries, ignore_index=True)


def _eight_values(seed: int, fails: float) -> pd.Series:
    table = simulate_eight_classes(np.random.default_rng((seed, 2)), fails, times=10)
    values = {}
    for name in names.SUBTYPES:
        statistics, cases = metrics.compute_statistics(table, EIGHT, name)
        values |= {f"{name} {metric}": bootstrap.statistic_value(statistics[metric], len(cases)) for metric in EIGHT}
    return pd.Series(values)


def _eight_intervals(seed: int, fails: float) -> pd.DataFrame:
    table, rows = simulate_eight_classes(np.random.default_rng((seed, 1)), fails), []
    for name in names.SUBTYPES:
        statistics, cases = metrics.compute_statistics(table, EIGHT, name)
        weights, n_cases = bootstrap.case_weights(len(cases), N_RESAMPLES, seed), metrics.count_cases(table, name)
        malignant = table.drop_duplicates("case").set_index("case").loc[cases, "label"] == "malignant"
        by_label, by_subtype = malignant.to_numpy(int), bootstrap.case_classes(table, cases)
        for metric, statistic in statistics.items():
            interval = partial(metrics.compute_interval, metric, statistic, weights, by_subtype, table, n_cases)
            with mock.patch.object(bootstrap, "MIN_CASES", 1):
                behind = metrics.cases_behind(metric, n_cases)[0]
                before = bootstrap.bootstrap_interval(statistic, weights, by_label, behind)
                found = {"before": before, "by subtype": interval()}
            found["in use"] = interval()
            about = {"class": name, "n_cases": n_cases["malignant"], "metric": metric}
            rows += [about | {"method": method, "low": one.low, "high": one.high} for method, one in found.items()]
    return pd.DataFrame(rows).astype({"low": float, "high": float})


def simulate_eight_classes(rng: np.random.Generator, fails: float, times: int = 1) -> pd.DataFrame:
    """Predictions of BreakHis's cases at 200X, `times` as many; a share of cases `fails` as a whole."""
    images = official_images()
    images = images[images["magnification"] == MAGNIFICATION]
    sizes = images.groupby(["case", "subtype"]).size().reset_index(name="n")  # three cases have two subtypes
    unit = np.repeat(np.arange(times * len(sizes)), np.tile(sizes["n"], times))
    case = np.concatenate([pd.factorize(sizes["case"])[0] + at * len(sizes) for at in range(times)])[unit]
    true = np.tile([list(names.SUBTYPES).index(code) for code in sizes["subtype"]], times)[unit]
    n = times * len(sizes)
    logits = rng.normal(0, 1.2, (n, 8))[unit] + rng.normal(0, 0.8, (len(unit), 8))
    logits[np.arange(len(unit)), true] += np.where(rng.random(n) < fails, -2, 2.5)[unit]
    p = special.softmax(logits, axis=1)
    codes = np.array(list(names.SUBTYPES))[true]
    return pd.DataFrame({
        "file": np.arange(len(case)).astype(str), "slide": unit.astype(str), "case": case.astype(str), "fold": 0,
        "label": [names.SUBTYPES[code][1] for code in codes], "subtype": codes, "magnification": MAGNIFICATION,
        "part": "test", "seed": 0, **{f"p_{code}": p[:, at] for at, code in enumerate(names.SUBTYPES)},
    })  # fmt: skip


@mpl.rc_context(plots.STYLE)
def plot_coverage(table: pd.DataFrame) -> Figure:
    """A panel for each size, a line for each metric, the worst first; a mark for each kind of case and quality."""
    figure, axes = plots.new_figure(plots.PAGE_IN, 4.4, 1, len(SIZES))
    used = table[table["method"] == "in use"]
    worst = used[used["size"] == "all of BreakHis"].groupby("metric")["covered"].min().sort_values()
    places = {name: at for at, name in enumerate(worst.index)}
    marks = {"images": ("x", plots.GREY), "without guard": ("^", plots.VERMILION), "in use": ("o", plots.BLACK)}
    for ax, size in zip(axes[0], SIZES, strict=True):
        panel = table[table["size"] == size]
        ax.axvline(95, color=plots.GREY, linewidth=0.6)
        for offset, (method, (marker, colour)) in zip((0.25, 0, -0.25), marks.items(), strict=True):
            rows = panel[panel["method"] == method]
            at = rows["metric"].map(places) + offset
            ax.plot(100 * rows["covered"], at, marker, color=colour, markersize=3, alpha=0.7, label=method)
        refused = panel[panel["method"] == "in use"].groupby("metric")["refused"].mean()
        for name, share in refused[refused > 0.005].items():
            ax.text(1, places[name] - 0.25, f"{plots.percent(share)} refused", fontsize=5.5, va="center")
        ax.set_yticks(range(len(places)), list(places) if ax is axes[0, 0] else [""] * len(places))
        ax.set(xlim=(0, 101), ylim=(len(places) - 0.5, -0.6), title=size)
        ax.grid(axis="y", color="#eeeeee")
    axes[0, 1].set_xlabel("95 % intervals that hold the true value (%), a mark for each model")
    handles, methods = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, methods, loc="outside lower center", ncols=len(methods))
    lows = table[table["size"] != "one fold of five"].groupby("method")["covered"].min()
    shares = ", ".join(f"{plots.percent(lows[method])} {method}" for method in METHODS)
    return plots.add_title(figure, f"Coverage with 70 or 23 cases, in the worst metric and model: {shares}")


if __name__ == "__main__":
    sys.exit(main())
