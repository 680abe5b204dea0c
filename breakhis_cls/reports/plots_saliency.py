"""Figures of Grad-CAM heat maps: overlays, sheets, and the randomisation check."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .plots import BLACK, BLUE, GREY, PAGE_IN, STYLE, add_title, new_figure

COLOURS = mpl.colormaps["viridis"]  # its lightness rises steadily, so that a grey print shows the same
OPACITY = 0.65  # of the hottest place; a cold one shows the bare tissue


class SaliencyImage(NamedTuple):
    """An image and the evidence for a class in it."""

    rgb: np.ndarray  # (height, width, 3) uint8
    heat: np.ndarray  # (height, width) in [0, 1]
    caption: str


def blend_heat(rgb: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) in [0, 1] -> (h, w, 3) uint8: the hotter, the more of the colour scale."""
    share = OPACITY * heat[..., None]
    return ((1 - share) * rgb + share * 255 * COLOURS(heat)[..., :3]).round().astype(np.uint8)


@mpl.rc_context(STYLE)
def sheet(rows: dict[str, list[SaliencyImage]], title: str) -> Figure:
    """Two rows of tiles for each kind: the images, and below each its heat map. At three columns and 300 dpi a pixel of
    the PNG is one of the original."""
    n_columns = max(3, *(len(images) for images in rows.values()))
    tile_in = 0.66 * PAGE_IN / n_columns  # high, by the shape of 700:460
    # 0.45 in: three lines of caption above each pair of rows.
    figure, axes = new_figure(PAGE_IN, len(rows) * (2 * tile_in + 0.45), 2 * len(rows), n_columns)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for at, (kind, images) in enumerate(rows.items()):
        axes[2 * at, 0].set_ylabel(kind, fontsize=7.5, fontweight="bold", loc="top")
        for column, image in enumerate(images):
            axes[2 * at, column].imshow(image.rgb)
            axes[2 * at, column].set_title(image.caption, fontsize=6.5, fontweight="normal", pad=2)
            axes[2 * at + 1, column].imshow(blend_heat(image.rgb, image.heat))
    return add_title(figure, title)


@mpl.rc_context(STYLE)
def randomization_curve(table: pd.DataFrame, title: str) -> Figure:
    """Rank correlation with the trained model's heat map, by how much of the network was randomised. table: columns
    share, image, rho (means over draws). Dots are images, bars medians."""
    figure, axes = new_figure(PAGE_IN, 2.2)
    ax = axes[0, 0]
    for at, (_, rows) in enumerate(table.groupby("share")):
        rho = rows["rho"].to_numpy()
        offsets = np.linspace(-0.18, 0.18, len(rho)) if len(rho) > 1 else np.zeros(1)
        ax.plot(at + offsets, rho, "o", color=BLUE, markersize=3, alpha=0.6, markeredgewidth=0)
        ax.plot([at - 0.3, at + 0.3], [np.median(rho)] * 2, color=BLACK, linewidth=2)
        # A white box, since the line at 0 would strike the number through; + 0.0 turns -0.0 into 0.0.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.annotate(f"{round(np.median(rho), 2) + 0.0:.2f}", (at + 0.33, np.median(rho)), va="center", bbox=box)
    ax.axhline(0, color=GREY, linewidth=0.6)
    shares = sorted(table["share"].unique())
    ax.set_xticks(range(len(shares)), [randomized_layers(share) for share in shares])
    ax.set(xlabel="Randomised layers, from the top of the network", ylabel="Rank correlation", ylim=(-1.02, 1.02))
    return add_title(figure, title)


def randomized_layers(share: float) -> str:
    """Share of the backbone's layers that were randomised together with the head, in words."""
    if share == 0:
        return "head"
    return "all layers" if share == 1 else f"head and last {100 * share:.0f} %"
