"""Is a tree complete? Its images counted by slide and magnification, against the 82-row table of BreakHis."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .. import names
from ..errors import DataError
from . import protocols
from .index import walk_tree

Group = tuple[str, int]  # slide, magnification


class Completeness(NamedTuple):
    """What was counted; `missing` and `extra` are one phrase each, sorted, and empty if the tree is complete."""

    root: Path
    n_images: int
    n_expected: int
    missing: list[str]  # "SOB_B_A_14-22549AB 40X: 28 of 29"
    extra: list[str]

    @property
    def is_complete(self) -> bool:
        """Every image of the table, and no other."""
        return not self.missing and not self.extra

    def __str__(self) -> str:
        phrases = [f"{self.root} holds {self.n_images:,} of {self.n_expected:,} images"]
        for title, found in (("missing", self.missing), ("not expected", self.extra)):
            if found:
                more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
                phrases.append(f"{title}: {', '.join(found[:3])}{more}")
        return "; ".join(phrases) + (": it is complete" if self.is_complete else "")


def check_tree(root: Path) -> Completeness:
    """Count the images of `root / "histology_slides"` against the table of all 7,909.

    An image counts if its name is BreakHis's, it lies where the name says, and it is not empty.
    """
    expected = count_official_images()
    paths = [Path(folder, name) for folder, _, filenames in walk_tree(root / names.TREE) for name in filenames]
    # An interrupted copy leaves empty files, and a tree sorted by hand has images in other folders: neither counts.
    counts: Counter[Group] = Counter()
    extra = []
    for path in sorted(path for path in paths if path.suffix.lower() == ".png"):
        file = path.relative_to(root).as_posix()
        try:
            expected_file = names.official_path(path.name)
        except DataError:
            extra.append(f"{file} (no BreakHis name)")
            continue
        if file != expected_file:
            extra.append(f"{file} (belongs under {Path(expected_file).parent.as_posix()})")
        elif path.stat().st_size == 0:
            extra.append(f"{file} (empty)")
        else:
            image = names.parse_image_name(path.name)
            counts[image.slide, image.magnification] += 1
    groups = [(*group, counts[group], expected.get(group, 0)) for group in sorted({*counts, *expected})]
    missing = [f"{slide} {m}X: {n} of {wanted}" for slide, m, n, wanted in groups if n < wanted]
    surplus = [f"{slide} {m}X: {n} instead of {wanted}" for slide, m, n, wanted in groups if n > wanted]
    return Completeness(root, counts.total(), sum(expected.values()), missing, surplus + extra)


def count_official_images() -> dict[Group, int]:
    """Images of each slide and magnification, counted from the official file names: 82 slides, 7,909 images."""
    table = protocols.slides().set_index("slide")
    return {(slide, m): int(table.loc[slide, f"n_{m}x"]) for slide in table.index for m in names.MAGNIFICATIONS}
