"""Is a tree complete? Its images counted by slide and magnification, against the 82-row table of BreakHis."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .. import names
from . import index, protocols


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
    """Count the images under `root`, an `index.find_root`, against the table of all 7,909. An image counts once, and
    only if it is not empty, as an interrupted copy leaves it. No image is opened."""
    expected = count_official_images()
    listed, extra = index.scan_tree(root)
    extra = sorted(extra + [f"{file}: empty" for file in listed.loc[listed["bytes"] == 0, "file"]])
    listed = listed[listed["bytes"] > 0]
    listed = listed[~listed["file"].map(names.image_stem).duplicated()]
    counts = Counter(zip(listed["slide"], listed["magnification"], strict=True))
    groups = [(f"{slide} {m}X", counts[slide, m], expected.get((slide, m), 0)) for slide, m in {*counts, *expected}]
    missing = sorted(f"{group}: {n} of {wanted}" for group, n, wanted in groups if n < wanted)
    surplus = sorted(f"{group}: {n} instead of {wanted}" for group, n, wanted in groups if n > wanted)
    return Completeness(root, counts.total(), sum(expected.values()), missing, surplus + extra)


def count_official_images() -> dict[tuple[str, int], int]:
    """Images of each slide and magnification, counted from the official file names: 82 slides, 7,909 images."""
    table = protocols.slides().set_index("slide")
    return {(slide, m): int(table.loc[slide, f"n_{m}x"]) for slide in table.index for m in names.MAGNIFICATIONS}
