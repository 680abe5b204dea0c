"""Sheets of images: what is shown, in which order, under which words."""

import numpy as np

from breakhis_cls.config import Data
from breakhis_cls.data import index
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
