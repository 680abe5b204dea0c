"""Is a tree whole? Its images counted per slide and magnification, against the 82-row table of BreakHis."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from .. import names
from ..errors import DataError
from .sources import TREE

Group = tuple[str, int]  # slide, magnification


class Completeness(NamedTuple):
    """What was counted; `missing` and `extra` are one phrase each, sorted, and empty if the tree is whole."""

    root: Path
    n_images: int
    n_expected: int
    missing: list[str]  # "SOB_B_A_14-22549AB 40X: 28 of 29"
    extra: list[str]

    @property
    def is_whole(self) -> bool:
        """Every image that the table promises, and no other."""
        return not self.missing and not self.extra

    def __str__(self) -> str:
        counted = f"{self.root} holds {self.n_images:,} of {self.n_expected:,} images"
        if self.is_whole:
            return f"{counted}: it is whole"
        faults = [("missing: ", self.missing), ("not expected: ", self.extra)]
        return "; ".join([counted, *(title + _few(found) for title, found in faults if found)])


def check_tree(root: Path, expected: Mapping[Group, int] | None = None) -> Completeness:
    """Count the images of `root / "histology_slides"`; `expected` is by default the table of all 7,909.

    An image counts if its name is BreakHis's, it lies where the name says, and it is not empty.
    """
    expected = official() if expected is None else expected
    found: Counter[Group] = Counter()
    extra = []
    for path in _pngs(root / TREE):
        group = _group(path, root)
        if isinstance(group, str):
            extra.append(group)
        else:
            found[group] += 1
    counts = [(*group, found[group], expected.get(group, 0)) for group in sorted({*found, *expected})]
    missing = [f"{slide} {m}X: {n} of {wanted}" for slide, m, n, wanted in counts if n < wanted]
    surplus = [f"{slide} {m}X: {n} instead of {wanted}" for slide, m, n, wanted in counts if n > wanted]
    return Completeness(root, found.total(), sum(expected.values()), missing, surplus + extra)


def official() -> dict[Group, int]:
    """Images per slide and magnification, counted from the official file names: 82 slides, 7,909 images."""
    table = resources.files("breakhis_cls.data").joinpath("tables/slides.csv").read_text(encoding="utf-8")
    return {
        (row["slide"], magnification): int(row[f"n_{magnification}x"])
        for row in csv.DictReader(table.splitlines())
        for magnification in names.MAGNIFICATIONS
    }


def _group(path: Path, root: Path) -> Group | str:
    """The slide and magnification of an image, or what is wrong with it."""
    place = path.relative_to(root).as_posix()
    try:
        official_place = names.official_path(path.name)
    except DataError:
        return f"{place} (no BreakHis name)"
    if place != official_place:
        return f"{place} (belongs under {Path(official_place).parent.as_posix()})"
    if path.stat().st_size == 0:
        return f"{place} (empty)"
    image = names.parse_image_name(path.name)
    return image.slide, image.magnification


def _pngs(tree: Path) -> list[Path]:
    """Every image of the tree, sorted; what systems leave behind (`._*`) is no image."""
    return sorted(
        Path(folder, name)
        for folder, subfolders, filenames in os.walk(tree, followlinks=True)  # as the index does
        if "__MACOSX" not in Path(folder).parts
        for name in filenames
        if name.lower().endswith(".png") and not name.startswith("._")
    )


def _few(found: list[str], n: int = 3) -> str:
    return ", ".join(found[:n]) + (f" and {len(found) - n:,} more" if len(found) > n else "")
