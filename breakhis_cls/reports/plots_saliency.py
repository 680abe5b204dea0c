"""Figures of what a model looked at: overlays, contact sheets, the randomisation check."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from .plots import BLACK, BLUE, GREY, PAGE_IN, PNG_DPI, STYLE, add_title, new_figure

COLOURS = mpl.colormaps["viridis"]  # its lightness rises steadily, so that a grey print tells the same
OPACITY = 0.65  # of the hottest place; a cold one shows the bare tissue


class SaliencyImage(NamedTuple):
    """A field and what spoke for a class in it."""

    rgb: np.ndarray  # (height, width, 3) uint8
    heat: np.ndarray  # (height, width) in [0, 1]
    caption: str


def blend_heat(rgb: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) in [0, 1] -> (h, w, 3) uint8: the hotter, the more of the colour scale."""
    share = OPACITY * heat[..., None]
    return ((1 - share) * rgb + share * 255 * COLOURS(heat)[..., :3]).round().astype(np.uint8)


def overlay(seen: SaliencyImage, finding: str) -> Figure:
    """The field and its heat side by side, a pixel of the original to a pixel of the PNG, with a colour bar."""
    height_px, width_px = seen.heat.shape
    wide, high = width_px / PNG_DPI, height_px / PNG_DPI
    total = 2 * wide + 0.85, high + 0.3
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=total)
        for left, picture in ((0.0, seen.rgb), (wide + 0.1, blend_heat(seen.rgb, seen.heat))):
            ax = figure.add_axes((left / total[0], 0, wide / total[0], high / total[1]))
            ax.imshow(picture, interpolation="none")
            ax.axis("off")
        _bar(figure, figure.add_axes(((2 * wide + 0.2) / total[0], 0.02, 0.12 / total[0], 0.94 * high / total[1])))
        caption = seen.caption.replace("\n", "; ")
        figure.suptitle(f"{finding}: {caption}", x=0.01, y=0.99, ha="left", fontsize=8.5, fontweight="bold")
    return figure


def _bar(figure: Figure, ax: Axes) -> None:
    """The scale as it looks over white."""
    steps = np.linspace(0, 1, 256)
    shown = blend_heat(np.full((256, 1, 3), 255, np.uint8), steps[:, None])[:, 0] / 255
    scale = ScalarMappable(Normalize(0, 1), ListedColormap(shown))
    bar = figure.colorbar(scale, cax=ax, ticks=[0, 0.5, 1])
    bar.set_label("heat (share of this image's maximum)", fontsize=7)
    bar.ax.tick_params(labelsize=7)


def sheet(rows: dict[str, list[SaliencyImage]], finding: str) -> Figure:
    """Two rows of tiles for each kind: the fields, and below each its heat."""
    n_columns = max(4, *(len(fields) for fields in rows.values()))
    tile_in = 0.66 * PAGE_IN / n_columns  # high, by the shape of 700:460
    figure, axes = new_figure(PAGE_IN, len(rows) * (2 * tile_in + 0.33) + 0.3, 2 * len(rows), n_columns)
    with mpl.rc_context(STYLE):
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for at, (kind, fields) in enumerate(rows.items()):
            axes[2 * at, 0].set_ylabel(kind, fontsize=7.5, fontweight="bold", loc="top")
            for column, seen in enumerate(fields):
                _tile(axes[2 * at, column], seen.rgb, seen.caption)
                _tile(axes[2 * at + 1, column], blend_heat(seen.rgb, seen.heat), "")
    add_title(figure, finding)
    return figure


def _tile(ax: Axes, picture: np.ndarray, caption: str) -> None:
    ax.imshow(picture)
    ax.set_title(caption, fontsize=6.5, fontweight="normal", pad=2)


def randomization_curve(table: pd.DataFrame, finding: str) -> Figure:
    """Rank correlation with the trained model's heat, by how much of the network was randomised.

    table: columns share, image, rho (means over draws). Dots are images.
    """
    figure, axes = new_figure(PAGE_IN, 2.4)
    ax = axes[0, 0]
    with mpl.rc_context(STYLE):
        for at, (_, rows) in enumerate(table.groupby("share")):
            rho = rows["rho"].to_numpy()
            spread = np.linspace(-0.18, 0.18, len(rho)) if len(rho) > 1 else np.zeros(1)
            ax.plot(at + spread, rho, "o", color=BLUE, markersize=3, alpha=0.6, markeredgewidth=0)
            ax.plot([at - 0.3, at + 0.3], [np.median(rho)] * 2, color=BLACK, linewidth=2)
            ax.annotate(f"{np.median(rho):.2f}", (at + 0.33, np.median(rho)), va="center")
        ax.axhline(0, color=GREY, linewidth=0.6)
        ax.set_xticks(range(table["share"].nunique()), [top(share) for share in sorted(table["share"].unique())])
        ax.set(
            ylabel="rank correlation of heat",
            xlabel="what was randomised, counted in layers from the top",
            ylim=(-1.02, 1.02),
        )
    add_title(figure, finding)
    return figure


def top(share: float) -> str:
    """Share of the trunk's layers that forgot with the head, in words."""
    if share == 0:
        return "head"
    return "everything" if share == 1 else f"head and last {100 * share:.0f} %"
