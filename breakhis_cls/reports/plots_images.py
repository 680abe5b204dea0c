"""Sheets of images: what the model was tested on, and its most confident errors. Needs the images on disk."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from .. import names
from ..evaluation.error_analysis import most_confident_errors
from .plots import PAGE_IN, STYLE, add_title, new_figure

N_ERRORS = 12


def sample_sheet(table: pd.DataFrame, root: Path, title: str = "Examples of the test images") -> Figure | None:
    """A row for each subtype: the first image of each magnification, or of four slides of the only magnification. None
    where no image is on disk."""
    column = "magnification" if table["magnification"].nunique() > 1 else "slide"
    rows = table.sort_values("file").drop_duplicates(["subtype", column]).sort_values(["subtype", column])
    rows, tiles = _on_disk(rows.groupby("subtype").head(4), root), []
    for kind in names.SUBTYPES:
        some = [(row.file, f"{kind} {row.label}, {row.magnification}X")
                for row in rows[rows["subtype"] == kind].itertuples()]  # fmt: skip
        tiles += [*some, *[(None, "")] * (-len(some) % 4)]
    if not tiles:
        return None
    files, captions = zip(*tiles, strict=True)
    return sheet(files, root, captions, f"{title}: {rows['subtype'].nunique()} subtypes", 4)


def confident_errors(table: pd.DataFrame, root: Path) -> Figure | None:
    """Misclassified images by descending probability, at most two of one slide; None without any on disk."""
    # Four times as many as are shown, since some may not be on disk.
    rows = _on_disk(most_confident_errors(table, 4 * N_ERRORS), root).head(N_ERRORS)
    captions = [caption(row) for _, row in rows.iterrows()]
    return sheet(rows["file"], root, captions, "Most confident errors", 4) if captions else None


@mpl.rc_context(STYLE)
def sheet(
    images: Iterable[str | np.ndarray | None], root: Path, captions: Iterable[str], title: str, n_columns: int
) -> Figure:
    """Images in reading order, each under its caption: files below `root`, pixels (h, w, 3) uint8, or None for a gap.
    All are shown at 700:460, which restores those that were squeezed to a square."""
    images, captions = list(images), list(captions)
    n_rows = -(-len(images) // n_columns)
    lines = [len(caption.splitlines()) for caption in captions]
    n_lines = sum(max(lines[at : at + n_columns]) for at in range(0, len(lines), n_columns))
    height_in = n_rows * PAGE_IN / n_columns * 0.66 + 0.14 * n_lines
    figure, axes = new_figure(PAGE_IN, height_in, n_rows, n_columns)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, caption in zip(axes.flat, images, captions, strict=False):
        if image is not None:
            ax.imshow(Image.open(root / image).convert("RGB") if isinstance(image, str) else image, aspect="auto")
            ax.set_box_aspect(460 / 700)
            ax.set_title(caption, fontsize=7, fontweight="normal", pad=3)
    return add_title(figure, title)


def caption(row: pd.Series) -> str:
    """Slide and magnification, true and predicted label, of a row of `error_analysis.add_predictions`."""
    where = f"{row['slide'].removeprefix('SOB_')}, {row['magnification']}X"
    return f"{where}\ntrue {row['true_label']}\npredicted {row['predicted_label']} ({row['p']:.2f})"


def _on_disk(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    return rows[[(root / file).is_file() for file in rows["file"]]]
