"""Synthetic tissue: a BreakHis-shaped tree of drawn H&E images, so that everything runs without a download.

It is no medical data: a program's idea of tissue, with the names, the layout and the oddities of the real
set. Scores on it are never a BreakHis result; they only show that the software works.

Architecture follows the subtype, nuclei follow subtype and case, stain and texture follow the case alone: a
model can memorise those under an image split and cannot use them under a case split. The nuclei of a few cases
look like the other label's. Threads draw it: NumPy, SciPy and Pillow let go of the interpreter's lock for most
of the time, and a script that calls this needs no `if __name__` guard.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .. import files, names
from ..errors import DataError
from ..parallel import map_in_threads
from . import tissue

VERSION = 2  # of the pictures; a new number draws new trees
IMAGES_PER_CELL = 4  # of one slide at one magnification
SLIDES = (   # 24 slides of 18 cases, 7 of them benign; numbers that BreakHis does not use
    "SOB_B_A_14-90001AB", "SOB_B_A_14-90001CD", "SOB_B_A_14-90002CD", "SOB_B_F_14-90002AB", "SOB_B_F_14-90003",
    "SOB_B_F_14-90004CD", "SOB_B_PT_14-90004AB", "SOB_B_PT_14-90005EF", "SOB_B_TA_14-90006", "SOB_B_TA_14-90006CD",
    "SOB_B_TA_14-90007", "SOB_M_DC_14-90008", "SOB_M_DC_14-90009", "SOB_M_DC_14-90010", "SOB_M_DC_14-90011",
    "SOB_M_LC_14-90011", "SOB_M_LC_14-90012", "SOB_M_LC_14-90013", "SOB_M_MC_14-90014", "SOB_M_MC_14-90014C",
    "SOB_M_MC_14-90015", "SOB_M_PC_14-90016", "SOB_M_PC_14-90018B", "SOB_M_PC_15-90017EF",
)  # fmt: skip
TWINS = {"SOB_M_LC_14-90011": "SOB_M_DC_14-90011"}  # drawn as the other, as BreakHis has 13412 twice
SHORT_PX = {("SOB_M_PC_14-90016", 100): 456}  # height, as of SOB_M_PC_14-12465 at 100X
MARKER = "synthetic.json"  # lies in a tree that is whole, and says of what
STALE_S = 3600.0  # a draw takes seconds: an older leftover has no owner


def write_tree(
    folder: Path, seed: int = 0, images_per_cell: int = IMAGES_PER_CELL, slides: Sequence[str] = SLIDES
) -> Path:
    """Draw `folder`/BreaKHis_v1/histology_slides/...: 700x460 PNGs, equal bytes for equal arguments.

    The tree appears whole or not at all, and one that is there for the same arguments is left alone.
    DataError if the folder holds anything else.
    """
    made_of = json.dumps({"version": VERSION, "seed": seed, "images_per_cell": images_per_cell, "slides": [*slides]})
    if _holds(folder, made_of):
        return folder
    with _appearing(folder) as temporary:
        root = temporary / "BreaKHis_v1"
        filenames = [name for slide in slides for name in _filenames(slide, images_per_cell)]
        for path in {(root / names.official_path(filename)).parent for filename in filenames}:
            path.mkdir(parents=True)
        drawn = map_in_threads(lambda filename: _save(root, filename, seed), filenames, "drawing synthetic tissue")
        with contextlib.closing(drawn):  # no thread may write on when the folder is taken away
            deque(drawn, maxlen=0)
        files.write_text(temporary / MARKER, made_of)
    return folder


def default_tree(cache: Path) -> Path:
    """The default tree of this version, kept under `cache` and drawn on first use."""
    return write_tree(cache / "synthetic" / f"v{VERSION}-seed0-{IMAGES_PER_CELL}")


def draw_image(filename: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(height, 700, 3) uint8 RGB and (height, 700) bool nuclei; height is 460, or 456 as SHORT_PX says."""
    rng, code, case, magnification, height_px = _recipe(filename, seed)
    rgb, nuclei = tissue.draw_field(rng, code, case, magnification)
    return rgb[:height_px], nuclei[:height_px]


def nuclei_mask(filename: str, seed: int = 0) -> np.ndarray:
    """(height, 700) bool: where nuclei were drawn, the truth that a heat map can be held against."""
    return draw_image(filename, seed)[1]


def epithelial_mask(filename: str, seed: int = 0) -> np.ndarray:
    """(height, 700) bool: the nuclei among them that make the label, since their size and shape follow the subtype."""
    rng, code, case, magnification, height_px = _recipe(filename, seed)
    return tissue.epithelial_nuclei(rng, code, case, magnification)[:height_px]


def _recipe(filename: str, seed: int) -> tuple[np.random.Generator, str, tissue.Case, int, int]:
    """Generator, subtype, case, magnification and height of an image: all that it is drawn from."""
    name = names.parse_image_name(filename)
    slide = TWINS.get(name.slide, name.slide)
    case = tissue.draw_case(np.random.default_rng([seed, int(name.case)]))
    rng = np.random.default_rng([seed, zlib.crc32(slide.encode()), name.magnification, name.sequence])
    height_px = SHORT_PX.get((name.slide, name.magnification), names.FULL_PX[1])
    return rng, names.parse_slide_name(slide).subtype, case, name.magnification, height_px


def _filenames(slide: str, images_per_cell: int) -> Iterator[str]:
    label, subtype, number = slide.removeprefix("SOB_").split("_")
    for magnification in names.MAGNIFICATIONS:
        for sequence in range(1, images_per_cell + 1):
            yield f"SOB_{label}_{subtype}-{number}-{magnification}-{sequence:03d}.png"


def _save(root: Path, filename: str, seed: int) -> None:
    """Level 1: compression would else cost more than drawing. Twins differ in bytes, not in pixels."""
    level = 3 if names.parse_image_name(filename).slide in TWINS else 1
    Image.fromarray(draw_image(filename, seed)[0]).save(root / names.official_path(filename), compress_level=level)


def _holds(folder: Path, made_of: str) -> bool:
    """Whether the tree is there; DataError if something else is."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8", errors="replace") == made_of:
        return True
    raise DataError(f"{folder} is there and is not the synthetic tree asked for; remove it or name another folder")


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder` at the end, or goes away; of two that race, the first stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - leftover.stat().st_mtime > STALE_S:
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        if not (folder / MARKER).exists():
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
