"""Figures about trust: calibration, cases to refer, where errors are, and differences between models."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import names
from .plots import BLACK, BLUE, COLUMN_IN, GREY, PAGE_IN, STYLE, VERMILION, add_title, new_figure, readable_on
from .text import percent


@mpl.rc_context(STYLE)
def reliability(curves: dict[str, pd.DataFrame], title: str) -> Figure:
    """A panel for each stratum: observed frequency over predicted probability, with the 95 % band over resampled cases.

    curves: of `calibration.reliability_curve`.
    """
    # Five or six panels fill two rows of three better than a row of four and a rest.
    n_columns = 3 if len(curves) in (5, 6) else min(4, len(curves))
    n_rows = -(-len(curves) // n_columns)
    width_in = PAGE_IN if n_columns > 1 else COLUMN_IN
    height_in = n_rows * width_in / n_columns * (1.12 if n_columns > 1 else 1)
    figure, axes = new_figure(width_in, height_in, n_rows, n_columns)
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    for ax, (name, curve) in zip(axes.flat, curves.items(), strict=False):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
        ax.fill_between(curve["stated"], curve["low"], curve["high"], color=BLUE, alpha=0.2, linewidth=0)
        ax.plot(curve["stated"], curve["came_true"], "o-", color=BLUE, markersize=3, linewidth=1)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        ax.set_title(f"{name}, {curve['n_images'].sum():,} images" if n_columns > 1 else "", fontweight="normal")
    figure.supxlabel("Predicted probability", fontsize=8)
    figure.supylabel("Observed frequency", fontsize=8)
    add_title(figure, title)
    return figure


@mpl.rc_context(STYLE)
def risk_coverage(curve: pd.DataFrame, unit: str) -> Figure:
    """Accuracy of the cases (or slides) that are kept, over the share referred to a human.

    curve: of `thresholds.risk_coverage_curve`.
    """
    figure, axes = new_figure(COLUMN_IN, 2.8)
    ax: Axes = axes[0, 0]
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
    add_title(figure, f"Risk and coverage: {title}")
    return figure


@mpl.rc_context(STYLE)
def errors(rows: pd.DataFrame) -> Figure:
    """Share of misclassified images, subtypes by magnifications; rows: of `error_analysis.errors_by_stratum`."""
    grid = rows.pivot(index="subtype", columns="magnification", values="error")
    grid = grid.loc[[code for code in names.SUBTYPES if code in grid.index]]
    counts = rows.pivot(index="subtype", columns="magnification", values="n_images").loc[grid.index]
    figure, axes = new_figure(COLUMN_IN, 0.36 * len(grid) + 1.0)
    ax: Axes = axes[0, 0]
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
    add_title(figure, f"Misclassified images: highest share for {where}")
    return figure


@mpl.rc_context(STYLE)
def influence(table: pd.DataFrame, metric: str, label: str, n: int = 16) -> Figure:
    """The n cases that change a metric most; table: of `error_analysis.case_table`."""
    column = f"influence_{metric}"
    rows = table.dropna(subset=[column]).sort_values(column, key=np.abs).tail(n)
    figure, axes = new_figure(COLUMN_IN, 0.18 * len(rows) + 0.9)
    ax: Axes = axes[0, 0]
    ax.barh(range(len(rows)), rows[column], color=np.where(rows[column] < 0, VERMILION, BLUE), height=0.7)
    ax.axvline(0, color=BLACK, linewidth=0.6)
    ax.set_yticks(range(len(rows)), [f"{row.case} ({row.subtypes})" for row in rows.itertuples()], fontsize=6.5)
    ax.set(xlabel=f"{label} with the case minus without it", ylabel="Case (subtype)")
    largest = (
        f"largest change {rows[column].iloc[-1]:+.3f} (case {rows['case'].iloc[-1]})" if len(rows) else "undefined"
    )
    add_title(figure, f"Influence of single cases on {label}: {largest}")
    return figure


@mpl.rc_context(STYLE)
def differences(entries: list[dict[str, Any]], pairs: list[str], label: str) -> Figure:
    """Difference of one metric for each pair of models: dot, 95 % interval, and in grey what would mostly be missed.

    entries: of `comparison.compare_experiments`.
    """
    known = [(pair, entry) for pair, entry in zip(pairs, entries, strict=True) if entry["difference"] is not None]
    figure, axes = new_figure(COLUMN_IN, 0.28 * len(known) + 1.1)
    ax: Axes = axes[0, 0]
    for at, (_, entry) in enumerate(known):
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

    n_significant = sum(entry["p_holm"] < 0.05 for _, entry in known)
    title = f"{n_significant} of {len(known)} differences significant at 5 % (Holm)"
    if not known:
        title = "undefined for these test images"
    elif len(known) == 1:
        entry = known[0][1]
        title = f"difference {entry['difference']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f})"
        title += "" if n_significant else ", not significant"
    add_title(figure, f"{label}: {title}")
    return figure
