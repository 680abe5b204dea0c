"""The figure of a paper: one line a condition, ours with 95 % intervals, published results as open markers."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..evaluation.metrics import metric_words
from . import plots
from .paper_rows import METRICS, Row

MARKERS = "DsvP^X<*>hpd"  # shapes tell published models apart, where colours would not survive print
LINE_IN, MARGIN_IN = 0.3, 0.75


def sweep_figure(rows: list[Row], finding: str) -> Figure:
    """A panel a metric, a line a row; the rows of one task, with the same metrics, belong together."""
    cited = list(dict.fromkeys(one.cited for row in rows for one in row.published))
    height = MARGIN_IN + LINE_IN * len(rows) + 0.16 * (len(cited) + 1) + 0.14 * (len(finding) // 97 + 1)
    drawn, axes = plots.new_figure(plots.PAGE_IN, height, 1, len(METRICS))
    markers = dict(zip(cited, MARKERS * (1 + len(cited) // len(MARKERS)), strict=False))
    words = metric_words(rows[0].task == "binary")
    with mpl.rc_context(plots.STYLE):
        for ax, name in zip(axes[0], METRICS, strict=True):
            for at, row in enumerate(rows):
                _ours(ax, row, name, at)
                _published(ax, row, name, at, markers)
            _framed(ax, rows, words[name][0], ax is axes[0][0])
        drawn.legend(handles=_legend(markers), loc="outside lower left", ncols=1 if cited else 2)
    plots.add_title(drawn, finding)
    return drawn


def _ours(ax: Axes, row: Row, name: str, at: int) -> None:
    score = row.scores[name]
    if score["value"] is None:
        ax.text(0.02, at, "undefined", transform=ax.get_yaxis_transform(), va="center", fontsize=6, color=plots.GREY)
        return
    if score["low"] is not None:
        ax.plot([score["low"], score["high"]], [at, at], color=plots.BLACK, linewidth=1.2, solid_capstyle="butt")
    ax.plot(score["value"], at, "o", color=plots.BLUE, markersize=5)
    if score["mean"] is not None:
        ax.plot(score["mean"], at, "|", color=plots.BLACK, markersize=9)


def _published(ax: Axes, row: Row, name: str, at: int, markers: dict[str, str]) -> None:
    for one in row.published:
        if name in one.scores:
            ax.plot(one.scores[name][0], at + 0.3, markers[one.cited], color=plots.VERMILION, markerfacecolor="white",
                    markersize=4.5, markeredgewidth=1)  # fmt: skip


def _framed(ax: Axes, rows: list[Row], label: str, first: bool) -> None:
    ax.set_yticks(range(len(rows)), [label_of(row, rows) for row in rows] if first else [""] * len(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(right=1.01)
    ax.set_xlabel(label)
    ax.locator_params(axis="x", nbins=4)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#e4e4e8", linewidth=0.6)
    ax.set_axisbelow(True)
    for at in range(1, len(rows)):
        if rows[at].protocol != rows[at - 1].protocol:
            ax.axhline(at - 0.45, color=plots.GREY, linewidth=0.6)


def label_of(row: Row, rows: list[Row]) -> str:
    """Protocol and magnification; `joint` where one model serves several, its settings where they vary."""
    joint = ", joint" if row.is_joint else ""
    several = len({one.experiment.meta("model") for one in rows}) > 1
    model = f"\n{row.experiment.meta('model')}" if several else ""
    return f"{row.protocol}, {row.where}{joint}{model}" + (f"\n{row.variant}" if row.variant else "")


def _legend(markers: dict[str, str]) -> list[Line2D]:
    ours = Line2D([], [], color=plots.BLACK, marker="o", markerfacecolor=plots.BLUE, markeredgecolor=plots.BLUE,
                  markersize=5, linewidth=1.2, label="ours: all folds pooled, 95 % interval over cases")  # fmt: skip
    mean = Line2D([], [], color=plots.BLACK, marker="|", linestyle="", markersize=9, label="ours: mean over folds")
    return [ours, mean] + [
        Line2D([], [], color=plots.VERMILION, marker=marker, markerfacecolor="white", markersize=4.5, linestyle="",
               label=f"{cited}: as published")
        for cited, marker in markers.items()
    ]  # fmt: skip
