"""What a file name of BreakHis says, and the facts of the data set that must hold.

Labels come from file names, never from folders. A *slide* is one of the 82 folders (the literature's "patient"); a
*case* is the number without its block letters: 70 of them. That equal numbers mean one woman is likely, not documented.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import DataError

N_IMAGES, N_SLIDES, N_CASES = 7_909, 82, 70  # counted from the file names; the home page's 9,109 is wrong
MAGNIFICATIONS = (40, 100, 200, 400)
LABELS = ("benign", "malignant")
SUBTYPES = {  # code -> (folder name, label), in the order of the published tables
    "A": ("adenosis", "benign"),
    "F": ("fibroadenoma", "benign"),
    "PT": ("phyllodes_tumor", "benign"),
    "TA": ("tubular_adenoma", "benign"),
    "DC": ("ductal_carcinoma", "malignant"),
    "LC": ("lobular_carcinoma", "malignant"),
    "MC": ("mucinous_carcinoma", "malignant"),
    "PC": ("papillary_carcinoma", "malignant"),
}
TREE = "histology_slides"  # the folder of the official tree that holds all images
FULL_PX = (700, 460)  # width, height; slide SOB_M_PC_14-12465 is 700x456 at 100X

_SUBTYPE = "|".join(sorted(SUBTYPES, key=len, reverse=True))
IMAGE_NAME = re.compile(
    rf"SOB_(?P<label>[BM])_(?P<subtype>{_SUBTYPE})-(?P<year>\d{{2}})-(?P<case>\d+)(?P<block>[A-Z]*)"
    r"-(?P<magnification>40|100|200|400)-(?P<sequence>\d+)\.png"
)
SLIDE_NAME = re.compile(
    rf"SOB_(?P<label>[BM])_(?P<subtype>{_SUBTYPE})_(?P<year>\d{{2}})-(?P<case>\d+)(?P<block>[A-Z]*)"
)


def is_system_file(name: str) -> bool:
    """Whether a file or folder is what operating systems and archivers leave behind, such as `.DS_Store`."""
    return name.lower() in {".ds_store", "thumbs.db", "__macosx", "desktop.ini"} or name.startswith("._")


class ImageName(NamedTuple):
    """One parsed file name; `case` stays text, since it is a name and not a quantity."""

    label: str
    subtype: str
    slide: str
    case: str
    magnification: int
    sequence: int


def parse_image_name(filename: str) -> ImageName:
    """Read `SOB_B_A-14-22549AB-40-001.png`; DataError if a name breaks the grammar or contradicts itself."""
    match = IMAGE_NAME.fullmatch(filename)
    if match is None:
        raise DataError(f"'{filename}' is not a BreakHis image name; expected one like SOB_B_A-14-22549AB-40-001.png")
    subtype = match["subtype"]
    return ImageName(
        label=_label(match, filename),
        subtype=subtype,
        slide=f"SOB_{match['label']}_{subtype}_{match['year']}-{match['case']}{match['block']}",
        case=match["case"],
        magnification=int(match["magnification"]),
        sequence=int(match["sequence"]),
    )


def case_of(slide: str) -> str:
    """The case number of a slide folder: `SOB_B_A_14-22549AB` -> `22549`."""
    return _slide_match(slide)["case"]


def subtype_of(slide: str) -> str:
    """The subtype code of a slide folder: `SOB_B_A_14-22549AB` -> `A`."""
    return _slide_match(slide)["subtype"]


def label_of(slide: str) -> str:
    """The label of a slide folder: `SOB_B_A_14-22549AB` -> `benign`."""
    return _label(_slide_match(slide), slide)


def official_path(filename: str) -> str:
    """Where the official tree keeps an image, relative to the folder that holds `histology_slides`, POSIX."""
    name = parse_image_name(filename)
    folder, label = SUBTYPES[name.subtype]
    return f"{TREE}/breast/{label}/SOB/{folder}/{name.slide}/{name.magnification}X/{filename}"


def _slide_match(slide: str) -> re.Match[str]:
    match = SLIDE_NAME.fullmatch(slide)
    if match is None:
        raise DataError(f"'{slide}' is not a BreakHis slide name; expected one like SOB_B_A_14-22549AB")
    return match


def _label(match: re.Match[str], found: str) -> str:
    label = LABELS["BM".index(match["label"])]
    expected = SUBTYPES[match["subtype"]][1]
    if label != expected:
        raise DataError(f"'{found}' says {label}, but subtype {match['subtype']} is {expected}; rename or remove it")
    return label
