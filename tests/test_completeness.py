"""What a tree lacks, counted against the table of BreakHis."""

from __future__ import annotations

import shutil
from pathlib import Path

from conftest import SLIDES, image_name

from breakhis_cls import names
from breakhis_cls.data import completeness

TINY = {(slide, m): 2 if m == 200 else 1 for slide in SLIDES for m in names.MAGNIFICATIONS}  # of conftest


def test_the_table_is_that_of_breakhis() -> None:
    table = completeness.count_official_images()
    assert len({slide for slide, _ in table}) == names.N_SLIDES
    assert len({names.parse_slide_name(slide).case for slide, _ in table}) == names.N_CASES
    assert sum(table.values()) == names.N_IMAGES


def test_a_full_tree_is_complete_and_one_image_less_is_not(tmp_path: Path) -> None:
    for (slide, magnification), n in completeness.count_official_images().items():
        first = tmp_path / names.official_path(image_name(slide, magnification, 1))
        first.parent.mkdir(parents=True)
        for sequence in range(1, n + 1):
            first.with_name(image_name(slide, magnification, sequence)).write_bytes(b"x")
    found = completeness.check_tree(tmp_path)
    assert found.is_complete and str(found) == f"{tmp_path} holds 7,909 of 7,909 images: it is complete"
    (tmp_path / names.official_path("SOB_B_A-14-22549AB-40-001.png")).unlink()
    found = completeness.check_tree(tmp_path)
    assert not found.is_complete and found.missing == ["SOB_B_A_14-22549AB 40X: 28 of 29"]
    assert str(found) == f"{tmp_path} holds 7,908 of 7,909 images; missing: SOB_B_A_14-22549AB 40X: 28 of 29"


def test_what_is_not_expected_is_listed(tiny_tree: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(completeness, "count_official_images", lambda: TINY)
    root = Path(shutil.copytree(tiny_tree, tmp_path / "tree")) / "BreaKHis_v1"
    one, two = (root / names.official_path(f"SOB_B_A-14-22549AB-200-00{i}.png") for i in (1, 2))
    one.rename(root / names.official_path("SOB_B_A-14-22549AB-40-001.png").replace("-001", "-009"))
    two.rename(two.parents[1] / "40X" / two.name)
    (one.parent / "holiday.png").write_bytes(b"sun")
    (one.parent / "._holiday.png").write_bytes(b"a system file, which is ignored")
    (root / names.official_path("SOB_B_A-14-22549AB-100-001.png")).write_bytes(b"")
    found = completeness.check_tree(root)
    assert found.missing == ["SOB_B_A_14-22549AB 100X: 0 of 1", "SOB_B_A_14-22549AB 200X: 0 of 2"]
    assert found.extra[0] == "SOB_B_A_14-22549AB 40X: 2 instead of 1"
    home = two.parent.relative_to(root).as_posix()
    reasons = [extra.partition(": ")[2] for extra in found.extra[1:]]
    assert reasons[0] == "empty" and "not a BreakHis image name" in reasons[1]
    assert reasons[2:] == [f"its name says {home}"]
