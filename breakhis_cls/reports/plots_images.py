"""Sheets of images: what the model was tested on, and where it was surest and wrong. Needs the images on
disk."""

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
from ..evaluation import predictions
from .plots import PAGE_IN, STYLE, add_title, new_figure

TILE_PX = (350, 230)  # width, height; some 200 dpi at a quarter of the page
N_ERRORS = 12


def sample_sheet(table: pd.DataFrame, root: Path, finding: str = "What the model was tested on") -> Figure | None:
    """A row for each subtype: the first image of each magnification, or of four slides where there is but one
    magnification. None without images."""
    rows = _on_disk(_samples(table), root)
    if rows.empty:
        return None
    kinds = [kind for kind in names.SUBTYPES if (rows["subtype"] == kind).any()]
    figure, axes = new_figure(PAGE_IN, 1.32 * len(kinds) + 0.3, len(kinds), 4)
    _hide(axes)
    with mpl.rc_context(STYLE):
        for at, kind in enumerate(kinds):
            for ax, (_, row) in zip(axes[at], rows[rows["subtype"] == kind].iterrows(), strict=False):
                _show(ax, root / row["file"], f"{row['subtype']} {row['label']}, {row['magnification']}X")
    add_title(figure, f"{finding}: {len(kinds)} subtypes")
    return figure


def _samples(table: pd.DataFrame) -> pd.DataFrame:
    column = "magnification" if table["magnification"].nunique() > 1 else "slide"
    first = table.sort_values("file").drop_duplicates(["subtype", column]).sort_values(["subtype", column])
    return first[first.groupby("subtype").cumcount() < 4]


def confident_errors(table: pd.DataFrame, root: Path) -> Figure | None:
    """The wrong images with the highest stated probability, at most two of one slide;
    None without any on disk."""
    rows = _on_disk(most_confident_errors(table, 4 * N_ERRORS), root).head(N_ERRORS)
    if rows.empty:
        return None
    said = [
        f"{row['true']}, called {row['named']} ({row['p']:.2f})\n"
        f"{row['slide'].removeprefix('SOB_')}, {row['magnification']}X"
        for _, row in rows.iterrows()
    ]
    return sheet(rows["file"], root, said, "Where the model was surest and wrong", 3)


def sheet(
    images: Iterable[str | np.ndarray], root: Path, captions: Iterable[str], finding: str, n_columns: int
) -> Figure:
    """Fields in reading order, each under its caption: files below `root`, or pixels (h, w, 3) uint8."""
    shown = list(zip(images, captions, strict=True))
    n_rows = -(-len(shown) // n_columns)
    n_lines = max((caption.count("\n") + 1 for _, caption in shown), default=1)
    figure, axes = new_figure(PAGE_IN, n_rows * (PAGE_IN / n_columns * 0.66 + 0.14 * n_lines) + 0.3, n_rows, n_columns)
    _hide(axes)
    with mpl.rc_context(STYLE):
        for ax, (image, caption) in zip(axes.flat, shown, strict=False):
            _show(ax, root / image if isinstance(image, str) else image, caption)
    add_title(figure, finding)
    return figure


def most_confident_errors(table: pd.DataFrame, n: int = N_ERRORS) -> pd.DataFrame:
    """Rows named wrongly, surest first, at most two a slide: table's columns with true, named, p."""
    classes = np.array(predictions.class_names(table))
    truth, named = predictions.true_labels(table), predictions.predicted_labels(table)
    p = predictions.probabilities(table)[np.arange(len(table)), named]
    rows = table.assign(true=classes[truth], named=classes[named], p=p)[truth != named]
    rows = rows.sort_values(["p", "file"], ascending=[False, True]).drop_duplicates("file")
    return rows[rows.groupby("slide").cumcount() < 2].head(n)


def _on_disk(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    return rows[[(root / file).is_file() for file in rows["file"]]]


def _hide(axes: np.ndarray) -> None:
    for ax in axes.flat:
        ax.axis("off")


def _show(ax: Axes, image: Path | np.ndarray, caption: str) -> None:
    """A file's whole field at 700:460, which restores one that was squeezed to a square; pixels as they are."""
    if isinstance(image, Path):
        with Image.open(image) as opened:
            image = np.asarray(opened.convert("RGB").resize(TILE_PX, Image.Resampling.LANCZOS))
    ax.imshow(image)
    ax.set_title(caption, fontsize=7, fontweight="normal", pad=3)
