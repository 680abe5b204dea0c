"""The figure of many runs: scores beside published results."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .plots import BLACK, BLUE, GREY, PAGE_IN, STYLE, VERMILION, add_title, new_figure

NULL = "#d5d5dc"
MARKERS = "DsvP^X<*>hpd"  # shapes distinguish published models, since colours do not survive print
HOLLOW: Any = {"color": VERMILION, "markerfacecolor": "white", "markersize": 4.5, "linestyle": ""}
OURS = "this package"  # in column `by` of the sweep's table


@mpl.rc_context(STYLE)
def sweep_figure(table: pd.DataFrame, labels: dict[str, str], title: str) -> Figure:
    """A panel for each metric, a line for each row of the sweep's table; published results as open markers. table:
    lines of `sweep_report.sweep_table` of one task; labels: of the metrics."""
    ours, published = table[table["by"] == OURS], table[table["by"] != OURS]
    cited = list(dict.fromkeys(published["by"] + ", " + published["model"]))
    markers = dict(zip(cited, MARKERS * (1 + len(cited) // len(MARKERS)), strict=False))
    rows = ours.drop_duplicates("row").reset_index(drop=True)

    # --- what distinguishes the rows: `spanhol, 200X, joint`, and below it what differs between their models ---
    parts = rows["model"].str.split("; ").tolist()
    common = set.intersection(*map(set, parts))
    names = []
    for row, mine in zip(rows.itertuples(), parts, strict=True):
        joint = ", joint" if any(part.startswith("one model for") for part in mine) else ""
        differing = [part for part in mine if part not in common and not part.startswith("one model for")]
        names.append("\n".join([f"{row.protocol}, {where(row.magnification)}{joint}", *differing]))
    row_in = max(0.3, 0.14 * (1 + max(name.count("\n") + 1 for name in names)))

    figure, axes = new_figure(PAGE_IN, 0.75 + row_in * len(rows) + 0.16 * (len(cited) + 1), 1, len(labels))
    for ax, (metric, label) in zip(axes[0], labels.items(), strict=True):
        scores = ours[ours["metric"] == metric].drop_duplicates("row").to_dict("records")
        for at, score in enumerate(scores):
            if pd.notna(score.get("null_low")):
                half = max((score["null_high"] - score["null_low"]) / 2, 0.004)
                centre = (score["null_high"] + score["null_low"]) / 2
                ends = centre - half, centre + half
                ax.fill_betweenx([at - 0.4, at + 0.4], *ends, color=NULL, linewidth=0, zorder=0.5)
            if pd.isna(score["value"]):
                ax.text(0.02, at, "undefined", transform=ax.get_yaxis_transform(), va="center", fontsize=6, color=GREY)
            else:
                ax.plot([score["low"], score["high"]], [at, at], color=BLACK, linewidth=1.2, solid_capstyle="butt")
                ax.plot(score["value"], at, "o", color=BLUE, markersize=5)
                ax.plot(score["mean"], at, "|", color=BLACK, markersize=9)
            for one in published[(published["row"] == score["row"]) & (published["metric"] == metric)].itertuples():
                ax.plot(one.mean, at + 0.3, markers[f"{one.by}, {one.model}"], **HOLLOW)
            if at and score["protocol"] != scores[at - 1]["protocol"]:
                ax.axhline(at - 0.45, color=GREY, linewidth=0.6)
        ax.set(xlabel=label, ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)), yticklabels=[])
        ax.set_xlim(right=1.01)
        ax.locator_params(axis="x", nbins=4)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color="#e4e4e8", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0, 0].set_yticklabels(names)

    legend: list[Any] = [
        Line2D([], [], color=BLACK, marker="o", markerfacecolor=BLUE, markeredgecolor=BLUE, markersize=5, linewidth=1.2,
               label="ours: all folds pooled, 95 % interval over cases"),
        Line2D([], [], color=BLACK, marker="|", linestyle="", markersize=9, label="ours: mean over folds"),
    ]  # fmt: skip
    if "null_low" in ours and ours["null_low"].notna().any():
        legend.append(Patch(color=NULL, label="null: the same head on random backbones, all seeds"))
    legend += [Line2D([], [], marker=markers[name], label=f"{name}: as published", **HOLLOW) for name in cited]
    figure.legend(handles=legend, loc="outside lower left", ncols=1 if cited else 2)
    return add_title(figure, title)


def where(magnification: str) -> str:
    """`200X`, or `all`."""
    return magnification if magnification == "all" else f"{magnification}X"


@mpl.rc_context(STYLE)
def leak_gallery(folds: pd.DataFrame, draws: pd.DataFrame) -> Figure:
    """A dot for each fold of each protocol over the distribution of random splits by folder, of `audit_gallery`."""
    figure, axes = new_figure(PAGE_IN, 2.9, 1, 2)
    protocols = folds["protocol"].unique().tolist()
    words = {"test_share": "Test images of a seen case number (%)", "benign_share": "of the benign ones (%)"}
    for ax, (column, label) in zip(axes[0], words.items(), strict=True):
        counts, edges = np.histogram(100 * draws[column], bins=25, range=(0, 100))
        heights = 0.9 * counts / counts.max()
        ax.bar(edges[:-1], -heights, width=4, align="edge", bottom=len(protocols) + 0.4, color="#b9b9c2")
        median = 100 * draws[column].median()
        ax.plot([median, median], [len(protocols) - 0.6, len(protocols) + 0.4], color=BLACK, linewidth=1.2)
        for at, protocol in enumerate(protocols):
            shares = 100 * folds.loc[folds["protocol"] == protocol, column]
            is_clean = shares.max() == 0
            ax.plot(shares, [at] * len(shares), "o" if is_clean else "s", color=BLUE if is_clean else VERMILION)
        ax.set(xlabel=label, xlim=(-4, 104), ylim=(len(protocols) + 0.5, -0.6), yticks=range(len(protocols) + 1))
        ax.set_yticklabels([])
        ax.grid(axis="x", color="#e4e4e8", linewidth=0.6)
        ax.set_axisbelow(True)
    axes[0, 0].set_yticklabels([*protocols, "random, by folder"])
    title = f"What a test set shares with training: a dot for each fold; grey: {len(draws):,} random splits by folder, "
    return add_title(figure, title + "with their median. Dots at 0 are clean.")
