"""Sheets of images: which are shown, in which order, under which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_predictions import made

from breakhis_cls.config import Data
from breakhis_cls.data import index
from breakhis_cls.evaluation import error_analysis
from breakhis_cls.reports import plots_images


def test_a_sheet_shows_files_and_pixels_in_order_and_hides_the_rest(tiny_tree):
    root = index.find_root(Data(root=str(tiny_tree)))
    file = min(root.rglob("*.png")).relative_to(root).as_posix()
    shown = [file, np.zeros((46, 70, 3), np.uint8)]
    figure = plots_images.sheet(shown, root, ["a file", "pixels\nall black"], "Two", 3)
    assert [ax.get_title("left") for ax in figure.axes] == ["a file", "pixels\nall black", ""]
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 0]
    assert np.asarray(figure.axes[1].images[0].get_array()).max() == 0
    assert figure.get_suptitle() == "Two"


def test_images_come_from_disk_or_not_at_all(tiny_tree: Path, tmp_path: Path):
    table, root = made(), tiny_tree / "BreaKHis_v1"
    sheet, errors = plots_images.sample_sheet(table, root), plots_images.confident_errors(table, root)
    assert sheet and errors
    assert sum(len(ax.images) for ax in sheet.axes) == 32
    assert sum(len(ax.images) for ax in errors.axes) == len(error_analysis.most_confident_errors(table))
    assert "predicted" in errors.axes[0].get_title("left")
    assert plots_images.sample_sheet(table, tmp_path) is None and plots_images.confident_errors(table, tmp_path) is None
