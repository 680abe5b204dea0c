"""Figures about trust: calibration, cases to refer, where errors lie, and differences between models."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import names
from .plots import BLACK, BLUE, COLUMN_IN, GREY, PAGE_IN, STYLE, VERMILION, add_title, new_figure, percent, readable_on


def reliability(curves: dict[str, pd.DataFrame], finding: str) -> Figure:
    """A panel for each stratum: came true over stated, with the band over resampled cases;
    `calibration.reliability`."""
    n_columns = 3 if len(curves) in (5, 6) else min(4, len(curves))
    n_rows = -(-len(curves) // n_columns)
    width = PAGE_IN if n_columns > 1 else COLUMN_IN
    figure, axes = new_figure(width, n_rows * width / n_columns * (1.12 if n_columns > 1 else 1), n_rows, n_columns)
    with mpl.rc_context(STYLE):
        for ax in axes.flat[len(curves) :]:
            ax.axis("off")
        for ax, (name, curve) in zip(axes.flat, curves.items(), strict=False):
            _reliability(ax, curve)
            ax.set_title(f"{name}, {curve['n_images'].sum():,} images" if n_columns > 1 else "", fontweight="normal")
    add_title(figure, finding)
    return figure


def _reliability(ax: Axes, curve: pd.DataFrame) -> None:
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6)
    ax.fill_between(curve["stated"], curve["low"], curve["high"], color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(curve["stated"], curve["came_true"], "o-", color=BLUE, markersize=3, linewidth=1)
    ax.set(xlabel="stated", ylabel="came true", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def risk_coverage(curve: pd.DataFrame, unit: str) -> Figure:
    """Accuracy of the cases (or slides) kept over the share referred to a human;
    `operating.risk_coverage`."""
    figure, axes = new_figure(COLUMN_IN, 2.8)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        ax.step(100 * curve["referred"], 100 * curve["accuracy"], where="post", color=BLACK)
        ax.set(
            xlabel=f"{unit}s referred, least certain first (%)",
            ylabel=f"{unit} votes right among the rest (%)",
        )
        ax.set_xlim(0, 100)
        ax.set_ylim(top=100.5)
        flawless = curve[curve["accuracy"] >= 1 - 1e-12]
        if len(flawless):
            ax.axvline(100 * flawless["referred"].iloc[0], color=VERMILION, linestyle=":", linewidth=1)
    add_title(figure, _referral(curve, unit))
    return figure


def _referral(curve: pd.DataFrame, unit: str) -> str:
    start = curve["accuracy"].iloc[0]
    flawless = curve[curve["accuracy"] >= 1 - 1e-12]
    if start >= 1 - 1e-12:
        return f"Every {unit} vote is right; none need be referred for that"
    if flawless.empty:
        return f"The model is wrong even about the {unit} it is surest of"
    return f"No error is left once {percent(flawless['referred'].iloc[0])} of {unit}s are referred"


def errors(rows: pd.DataFrame) -> Figure:
    """Share of images named wrongly, subtypes by magnifications; `failures.by_subtype_and_magnification`."""
    grid = rows.pivot(index="subtype", columns="magnification", values="error")
    grid = grid.loc[[code for code in names.SUBTYPES if code in grid.index]]
    counts = rows.pivot(index="subtype", columns="magnification", values="n_images").loc[grid.index]
    figure, axes = new_figure(COLUMN_IN, 0.36 * len(grid) + 0.9)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        shades = mpl.colormaps["Oranges"](grid.fillna(0).to_numpy() * 0.85)
        ax.imshow(shades, aspect="auto")
        for (row, column), error in np.ndenumerate(grid.to_numpy()):
            text = "" if np.isnan(error) else f"{percent(error)} of {counts.iat[row, column]:,.0f}"
            ink = readable_on(shades[row, column])
            ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
        ax.set_xticks(range(len(grid.columns)), [f"{value}X" for value in grid.columns])
        ax.set_yticks(range(len(grid)), list(grid.index))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    worst = rows.loc[rows["error"].idxmax()]
    add_title(
        figure,
        f"Most errors: {worst['subtype']} at {worst['magnification']}X, {percent(worst['error'])} wrong",
    )
    return figure


def influences(table: pd.DataFrame, metric: str, label: str, n: int = 16) -> Figure:
    """The cases that move a metric most; `failures.cases`."""
    column = f"influence_{metric}"
    known = table.dropna(subset=[column])
    rows = known.loc[known[column].abs().sort_values(ascending=False).index[:n]].iloc[::-1]
    figure, axes = new_figure(COLUMN_IN, 0.18 * len(rows) + 0.9)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        below = rows[column] < 0
        ax.barh(range(len(rows)), rows[column], color=np.where(below, VERMILION, BLUE), height=0.7)
        ax.axvline(0, color=BLACK, linewidth=0.6)
        ticks = [f"{row.case} ({row.subtypes})" for row in rows.itertuples()]
        ax.set_yticks(range(len(rows)), ticks, fontsize=6.5)
        ax.set_xlabel(f"{label} with the case minus without it")
    if len(rows):
        top = rows.iloc[-1]
        add_title(figure, f"No case moves {label} more than {top['case']} does: {top[column]:+.3f}")
    return figure


def differences(entries: list[dict[str, Any]], pairs: list[str], label: str) -> Figure:
    """Difference of one metric for each pair of models, with its interval and the smallest one detectable."""
    known = [(pair, entry) for pair, entry in zip(pairs, entries, strict=True) if entry["difference"] is not None]
    figure, axes = new_figure(COLUMN_IN, 0.28 * len(known) + 1.1)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        for at, (_, entry) in enumerate(known):
            reach = entry["detectable"]
            ax.plot([-reach, reach], [at, at], color="#d9d9d9", linewidth=9, solid_capstyle="butt")
            ax.plot([entry["low"], entry["high"]], [at, at], color=BLACK, linewidth=1.4)
            ax.plot(entry["difference"], at, "o", color=BLACK, markersize=4)
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.set_yticks(range(len(known)), [pair for pair, _ in known])
        ax.set_ylim(len(known) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(f"difference in {label}")
    add_title(figure, _differences_finding([entry for _, entry in known], label))
    return figure


def _differences_finding(entries: list[dict[str, Any]], label: str) -> str:
    clear = sum(entry["p_holm"] < 0.05 for entry in entries)
    if not entries:
        return f"{label} is undefined here"
    if len(entries) == 1:
        entry = entries[0]
        told = f"{label}: {entry['difference']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f})"
        return told if clear else f"{told}: not told apart by these cases"
    return f"{label}: {clear} of {len(entries)} pairs told apart at 5 % after Holm's correction"
