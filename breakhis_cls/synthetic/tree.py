"""Synthetic tissue: a BreakHis-shaped tree of drawn H&E images, so that everything runs without a download.

It is no medical data: scores on it only show that the software works. Architecture follows the subtype, nuclei follow
subtype and case, stain and texture follow the case alone: a model can memorise those under an image split and cannot
use them under a case split. The nuclei of a few cases look like the other label's.
"""

import contextlib
import json
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .. import files, names
from ..errors import DataError
from ..parallel import map_in_threads
from . import tissue

VERSION = 2  # of the pixels; a new number draws new trees
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
MARKER = "synthetic.json"  # lies in a complete tree, and holds the arguments that it was drawn from


def list_filenames(images_per_cell: int, slides: Sequence[str]) -> list[str]:
    """File names of the images that `write_tree` draws."""
    return [
        f"{'-'.join(slide.rsplit('_', 1))}-{magnification}-{at:03d}.png"
        for slide in slides
        for magnification in names.MAGNIFICATIONS
        for at in range(1, images_per_cell + 1)
    ]


def write_tree(
    folder: Path, seed: int = 0, images_per_cell: int = IMAGES_PER_CELL, slides: Sequence[str] = SLIDES
) -> Path:
    """Draw `folder`/BreaKHis_v1/histology_slides/...: 700x460 PNGs, equal bytes for equal arguments. The tree appears
    whole or not at all, and one that is there for the same arguments is kept. DataError if the folder holds anything
    else."""
    drawn_from = json.dumps({"version": VERSION, "seed": seed, "images_per_cell": images_per_cell, "slides": [*slides]})
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        marker = folder / MARKER
        if marker.is_file() and marker.read_text(encoding="utf-8", errors="replace") == drawn_from:
            return folder
        raise DataError(f"{folder} exists and is not this synthetic tree; remove it or name another folder")

    filenames = list_filenames(images_per_cell, slides)
    with files.atomic_folder(folder) as temporary:
        root = temporary / "BreaKHis_v1"
        for parent in {(root / names.official_path(filename)).parent for filename in filenames}:
            parent.mkdir(parents=True)

        def save(filename: str) -> None:
            # Level 1: a higher one costs more than drawing does. The twin has other bytes for its equal pixels.
            level = 3 if names.parse_image_name(filename).slide in TWINS else 1
            picture = Image.fromarray(draw_image(filename, seed).rgb)
            picture.save(root / names.official_path(filename), compress_level=level)

        # Closing stops the threads after an error, before their folder is removed.
        with contextlib.closing(map_in_threads(save, filenames, "drawing synthetic tissue")) as saved:
            deque(saved, maxlen=0)
        files.write_text(temporary / MARKER, drawn_from)
    return folder


def default_tree(cache: Path) -> Path:
    """The default tree of this version, kept under `cache` and drawn on first use."""
    return write_tree(cache / "synthetic" / f"v{VERSION}-seed0-{IMAGES_PER_CELL}")


def draw_image(filename: str, seed: int = 0) -> tissue.Drawing:
    """The image of this name, and where its nuclei are; 460 rows, or 456 as SHORT_PX says."""
    name = names.parse_image_name(filename)
    slide = TWINS.get(name.slide, name.slide)
    case = tissue.draw_case(np.random.default_rng([seed, int(name.case)]))
    rng = np.random.default_rng([seed, zlib.crc32(slide.encode()), name.magnification, name.sequence])
    drawing = tissue.draw_field(rng, names.parse_slide_name(slide).subtype, case, name.magnification)
    height_px = SHORT_PX.get((name.slide, name.magnification), names.FULL_PX[1])
    return tissue.Drawing(*(layer[:height_px] for layer in drawing))


def epithelial_mask(filename: str, seed: int = 0) -> np.ndarray:
    """(height, 700) bool: the nuclei that make the label, since their size and shape follow the subtype."""
    return draw_image(filename, seed).epithelium
