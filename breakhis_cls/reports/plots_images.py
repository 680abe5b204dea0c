"""Sheets of images: what the model was tested on, and its most confident errors. Needs the images on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from .. import names
from ..evaluation.error_analysis import add_predictions as add_predictions
from ..evaluation.error_analysis import most_confident_errors
from .plots import PAGE_IN, STYLE, add_title, new_figure

TILE_PX = (350, 230)  # width, height; some 200 dpi at a quarter of the page
N_ERRORS = 12


@mpl.rc_context(STYLE)
def sample_sheet(table: pd.DataFrame, root: Path, title: str = "Examples of the test images") -> Figure | None:
    """A row for each subtype: the first image of each magnification, or of four slides of the only magnification.

    None where no image is on disk.
    """
    column = "magnification" if table["magnification"].nunique() > 1 else "slide"
    rows = table.sort_values("file").drop_duplicates(["subtype", column]).sort_values(["subtype", column])
    rows = _on_disk(rows[rows.groupby("subtype").cumcount() < 4], root)
    if rows.empty:
        return None
    kinds = [kind for kind in names.SUBTYPES if (rows["subtype"] == kind).any()]
    figure, axes = new_figure(PAGE_IN, 1.32 * len(kinds) + 0.3, len(kinds), 4)
    for ax in axes.flat:
        ax.axis("off")
    for row_axes, kind in zip(axes, kinds, strict=True):
        for ax, (_, row) in zip(row_axes, rows[rows["subtype"] == kind].iterrows(), strict=False):
            _show(ax, root / row["file"], f"{row['subtype']} {row['label']}, {row['magnification']}X")
    add_title(figure, f"{title}: {len(kinds)} subtypes")
    return figure


def confident_errors(table: pd.DataFrame, root: Path) -> Figure | None:
    """Misclassified images by descending probability, at most two of one slide; None without any on disk."""
    rows = _on_disk(most_confident_errors(table, 4 * N_ERRORS), root).head(N_ERRORS)
    if rows.empty:
        return None
    return sheet(rows["file"], root, [caption(row) for _, row in rows.iterrows()], "Most confident errors", 3)


@mpl.rc_context(STYLE)
def sheet(
    images: Iterable[str | np.ndarray], root: Path, captions: Iterable[str], title: str, n_columns: int
) -> Figure:
    """Images in reading order, each under its caption: files below `root`, or pixels (h, w, 3) uint8."""
    shown = list(zip(images, captions, strict=True))
    n_rows = -(-len(shown) // n_columns)
    n_lines = max((text.count("\n") + 1 for _, text in shown), default=1)
    figure, axes = new_figure(PAGE_IN, n_rows * (PAGE_IN / n_columns * 0.66 + 0.14 * n_lines) + 0.3, n_rows, n_columns)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (image, text) in zip(axes.flat, shown, strict=False):
        _show(ax, root / image if isinstance(image, str) else image, text)
    add_title(figure, title)
    return figure


def caption(row: pd.Series) -> str:
    """Slide and magnification, true and predicted label, of a row of `add_predictions`."""
    where = f"{row['slide'].removeprefix('SOB_')}, {row['magnification']}X"
    return f"{where}\ntrue {row['true_label']}, predicted {row['predicted_label']} ({row['p']:.2f})"


def _on_disk(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    return rows[[(root / file).is_file() for file in rows["file"]]]


def _show(ax: Axes, image: Path | np.ndarray, text: str) -> None:
    """A whole image at 700:460, which restores one that was squeezed to a square; pixels as they are."""
    if isinstance(image, Path):
        with Image.open(image) as opened:
            image = np.asarray(opened.convert("RGB").resize(TILE_PX, Image.Resampling.LANCZOS))
    ax.imshow(image)
    ax.set_title(text, fontsize=7, fontweight="normal", pad=3)
