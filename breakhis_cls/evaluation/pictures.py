"""Sheets of images: what the model was tested on, and where it was surest and wrong. Needs the images on
disk."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .. import names
from . import predictions
from .figures import PAGE_IN, STYLE, blank, titled

TILE_PX = (350, 230)  # width, height; some 200 dpi at a quarter of the page
N_ERRORS = 12


def sample_sheet(table: pd.DataFrame, root: Path) -> Figure | None:
    """A row for each subtype: the first image of each magnification, or of four slides where there is but one
    magnification. None without images."""
    rows = _on_disk(_samples(table), root)
    if rows.empty:
        return None
    kinds = [kind for kind in names.SUBTYPES if (rows["subtype"] == kind).any()]
    figure, axes = blank(PAGE_IN, 1.32 * len(kinds) + 0.3, len(kinds), 4)
    _hide(axes)
    with mpl.rc_context(STYLE):
        for at, kind in enumerate(kinds):
            for ax, (_, row) in zip(axes[at], rows[rows["subtype"] == kind].iterrows(), strict=False):
                _show(ax, root / row["file"], f"{row['subtype']} {row['label']}, {row['magnification']}X")
    titled(figure, f"What the model was tested on: {len(kinds)} subtypes")
    return figure


def _samples(table: pd.DataFrame) -> pd.DataFrame:
    column = "magnification" if table["magnification"].nunique() > 1 else "slide"
    first = table.sort_values("file").drop_duplicates(["subtype", column]).sort_values(["subtype", column])
    return first[first.groupby("subtype").cumcount() < 4]


def confident_errors(table: pd.DataFrame, root: Path) -> Figure | None:
    """The wrong images with the highest stated probability, at most two of one slide;
    None without any on disk."""
    rows = _on_disk(surest_errors(table, 4 * N_ERRORS), root).head(N_ERRORS)
    if rows.empty:
        return None
    n_rows = -(-len(rows) // 3)
    figure, axes = blank(PAGE_IN, 2.0 * n_rows + 0.3, n_rows, 3)
    _hide(axes)
    with mpl.rc_context(STYLE):
        for ax, (_, row) in zip(axes.flat, rows.iterrows(), strict=False):
            said = f"{row['true']}, called {row['named']} ({row['p']:.2f})"
            _show(
                ax,
                root / row["file"],
                f"{said}\n{row['slide'].removeprefix('SOB_')}, {row['magnification']}X",
            )
    titled(figure, "Where the model was surest and wrong")
    return figure


def surest_errors(table: pd.DataFrame, n: int = N_ERRORS) -> pd.DataFrame:
    """Rows named wrongly, surest first, at most two a slide: table's columns with true, named, p."""
    classes = np.array(predictions.classes(table))
    truth, named = predictions.truth(table), predictions.predicted(table)
    p = predictions.probabilities(table)[np.arange(len(table)), named]
    rows = table.assign(true=classes[truth], named=classes[named], p=p)[truth != named]
    rows = rows.sort_values(["p", "file"], ascending=[False, True]).drop_duplicates("file")
    return rows[rows.groupby("slide").cumcount() < 2].head(n)


def _on_disk(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    return rows[[(root / file).is_file() for file in rows["file"]]]


def _hide(axes: np.ndarray) -> None:
    for ax in axes.flat:
        ax.axis("off")


def _show(ax: Axes, path: Path, caption: str) -> None:
    """The whole field at 700:460, which restores one that was squeezed to a square."""
    with Image.open(path) as opened:
        ax.imshow(np.asarray(opened.convert("RGB").resize(TILE_PX, Image.Resampling.LANCZOS)))
    ax.set_title(caption, fontsize=7, fontweight="normal", pad=3)
