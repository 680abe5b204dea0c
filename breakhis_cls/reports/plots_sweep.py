"""The figures of many runs and many splits: scores beside published results, and what protocols leak."""

import textwrap

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from .plots import BLACK, BLUE, GREY, PAGE_IN, STYLE, VERMILION, add_title, new_figure

NULL, GRID = "#d5d5dc", {"axis": "x", "color": "#e4e4e8", "linewidth": 0.6}
MARKERS = "DsvP^X<*>hpd"  # shapes distinguish published models, since colours do not survive print
OURS = "this package"  # in column `by` of the sweep's table


@mpl.rc_context(STYLE)
def sweep_figure(table: pd.DataFrame, labels: dict[str, str], title: str) -> Figure:
    """A panel for each metric, a line for each row of the sweep's table; published results as open markers. table:
    lines of `sweep_report.sweep_table` of one task; labels: of the metrics."""
    ours, published = table[table["by"] == OURS], table[table["by"] != OURS]
    cited = (published["by"] + ", " + published["model"]).drop_duplicates().tolist()
    rows = ours.drop_duplicates("row").reset_index(drop=True)
    y = pd.Series(rows.index, index=rows["row"])

    # What distinguishes the rows: `spanhol, 200X`, and below it the model where there are several.
    several = rows["model"].nunique() > 1
    names = [
        f"{row.protocol}, {where(row.magnification)}" + several * f"\n{textwrap.fill(row.model, 40)}"
        for row in rows.itertuples()
    ]
    row_in = max(0.3, 0.14 * (1 + max(name.count("\n") + 1 for name in names)))

    height_in = 0.75 + row_in * len(rows) + 0.16 * (len(cited) + 1)
    figure, axes = new_figure(PAGE_IN, height_in, 1, len(labels))
    for ax, (metric, label) in zip(axes[0], labels.items(), strict=True):
        scores = ours[ours["metric"] == metric].set_index("row").loc[y.index]
        ax.hlines(y, scores["low"], scores["high"], color=BLACK, linewidth=1.2)
        pooled = "ours: all folds pooled; line: 95 % interval over cases"
        ax.plot(scores["value"], y, "o", color=BLUE, markersize=5, label=pooled)
        ax.plot(scores["mean"], y, "|", color=BLACK, markersize=9, label="ours: mean over folds")
        if "null_low" in scores and ours["null_low"].notna().any():
            width = (scores["null_high"] - scores["null_low"]).clip(lower=0.008)
            null = "null: the same head on random backbones, all seeds"
            ax.use_sticky_edges = False
            ax.barh(y, width, 0.8, scores["null_low"], color=NULL, zorder=0.5, label=null)
        for at in y[scores["value"].isna()]:
            ax.text(0.02, at, "undefined", transform=ax.get_yaxis_transform(), va="center", fontsize=6, color=GREY)
        for marker, name in zip(MARKERS * (1 + len(cited) // len(MARKERS)), cited, strict=False):
            theirs = published[(published["by"] + ", " + published["model"] == name) & (published["metric"] == metric)]
            ax.plot(theirs["mean"], theirs["row"].map(y) + 0.3, marker, color=VERMILION, markerfacecolor="white",
                    markersize=4.5, label=f"{name}: as published")  # fmt: skip
        for at in rows.index[1:][rows["protocol"].ne(rows["protocol"].shift())[1:]]:
            ax.axhline(at - 0.45, color=GREY, linewidth=0.6)
        ax.set(xlabel=label, ylim=(len(rows) - 0.4, -0.6), yticks=y, yticklabels=[])
        ax.set_xlim(right=1.01)
        ax.locator_params(axis="x", nbins=4)
        ax.tick_params(axis="y", length=0)
        ax.grid(**GRID)
        ax.set_axisbelow(True)
    axes[0, 0].set_yticklabels(names)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=1 if cited else 2)
    return add_title(figure, title)


def where(magnification: str) -> str:
    return magnification if magnification == "all" else f"{magnification}X"
