"""The grammar of BreakHis file names, and the facts of the data set.

Labels come from file names, never from folders. A *slide* is one of the 82 folders (the literature's "patient"); a
*case* is its number without the block letters: 70 of them. That equal numbers mean one woman is likely, but not
documented.
"""

import functools
import re
from typing import NamedTuple

from .errors import DataError

N_IMAGES, N_SLIDES, N_CASES = 7_909, 82, 70  # counted from the file names; the home page's 9,109 is wrong
MAGNIFICATIONS = (40, 100, 200, 400)
LABELS = ("benign", "malignant")
SUBTYPES = {  # code -> (folder name, label), in the order of the tables of Spanhol et al. (2016)
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

# Longest codes first: `TA` before `A`. Block letters, such as `AB`, tell the folders of one case number apart.
_SUBTYPE = "|".join(sorted(SUBTYPES, key=len, reverse=True))
_PARTS = rf"SOB_(?P<label>[BM])_(?P<subtype>{_SUBTYPE})[-_](?P<year>\d{{2}})-(?P<case>\d+)(?P<block>[A-Z]*)"
SLIDE_NAME = re.compile(_PARTS.replace("[-_]", "_"))
_STEM = _PARTS.replace("[-_]", "-") + r"-(?P<magnification>40|100|200|400)-(?P<sequence>\d+)"
IMAGE_NAME = re.compile(_STEM + r"\.png")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
# Left by operating systems, archivers and network disks, beside what begins with a dot.
SYSTEM_FILES = {
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information",
    "lost+found",
}  # fmt: skip


def is_system_file(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by an operating system, an editor or an archiver."""
    # `._x.png` is what macOS keeps beside x.png on foreign disks: it has an image's suffix and is none.
    return name.startswith(".") or name.lower() in SYSTEM_FILES


@functools.lru_cache(maxsize=100_000)  # a sweep's worker asks for the same names in every run
def official_name(path: str) -> str | None:
    """The official file name that a path bears, in any folder, with any slashes and suffix or none; else None.
    `C:\\x\\SOB_B_A-14-22549AB-40-001.JPG` -> `SOB_B_A-14-22549AB-40-001.png`."""
    match = re.fullmatch(rf"({_STEM})(\.\w+)*", _last_part(path))
    return f"{match[1]}.png" if match else None


def image_stem(path: str) -> str:
    """What tells images apart in tables of any origin: the name without folder and suffix."""
    if official := official_name(path):
        return official.removesuffix(".png")
    stem, dot, suffix = _last_part(path).rpartition(".")
    return stem if dot and suffix.isalnum() else _last_part(path)


def official_slide(path: str) -> str:
    """The last part of a path; of slides cut from file names, `SOB_B_A-14-22549AB`, as the folder is called."""
    return re.sub(rf"^(SOB_[BM]_(?:{_SUBTYPE}))-(?=\d\d-\d+[A-Z]*$)", r"\1_", _last_part(path))


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.strip().rstrip("\\/"))[-1]


class ImageName(NamedTuple):
    """The parts of a file name; `case` is text, because it is a name and not a quantity."""

    label: str
    subtype: str
    slide: str
    case: str
    magnification: int
    sequence: int


class SlideName(NamedTuple):
    """The parts of a slide folder's name."""

    label: str
    subtype: str
    case: str


def parse_image_name(filename: str) -> ImageName:
    """The parts of `SOB_B_A-14-22549AB-40-001.png`; DataError if the name is invalid or contradicts itself."""
    label, match = _match(IMAGE_NAME, filename, "image", "SOB_B_A-14-22549AB-40-001.png")
    slide = f"SOB_{match['label']}_{match['subtype']}_{match['year']}-{match['case']}{match['block']}"
    magnification, sequence = int(match["magnification"]), int(match["sequence"])
    return ImageName(label, match["subtype"], slide, match["case"], magnification, sequence)


def parse_slide_name(slide: str) -> SlideName:
    """The parts of `SOB_B_A_14-22549AB`: benign, A, 22549. DataError if it is invalid or contradicts itself."""
    label, match = _match(SLIDE_NAME, slide, "slide", "SOB_B_A_14-22549AB")
    return SlideName(label, match["subtype"], match["case"])


def official_path(path: str) -> str:
    """Where an image lies in the official tree, relative to the folder that contains `histology_slides`, POSIX; for a
    file name or a path of any other tree. DataError if the name is not official."""
    filename = official_name(path) or path
    name = parse_image_name(filename)
    folder, label = SUBTYPES[name.subtype]
    return f"{TREE}/breast/{label}/SOB/{folder}/{name.slide}/{name.magnification}X/{filename}"


@functools.lru_cache(maxsize=100_000)
def canonical_path(path: str) -> str:
    """The official path of an official name, in whatever folders it lies; of another file the path as it is."""
    return official_path(path) if official_name(path) else path


def contradicts_folders(path: str) -> bool:
    """Whether a folder of a relative POSIX path names another label, subtype, slide or magnification than its file."""
    name = parse_image_name(official_name(path) or path)
    others = {*LABELS, *(folder for folder, _ in SUBTYPES.values())} - {name.label, SUBTYPES[name.subtype][0]}
    for folder in path.split("/")[:-1]:
        slide, magnified = official_slide(folder), re.findall(r"(?<!\d)(40|100|200|400)x(?![a-z\d])", folder.lower())
        if (
            folder.lower().replace(" ", "_").replace("-", "_") in others
            or (SLIDE_NAME.fullmatch(slide) and slide != name.slide)
            or {*magnified} - {str(name.magnification)}
        ):
            return True
    return False


def _match(grammar: re.Pattern[str], name: str, kind: str, example: str) -> tuple[str, re.Match[str]]:
    match = grammar.fullmatch(name)
    if match is None:
        raise DataError(f"'{name}' is not a BreakHis {kind} name; expected one like {example}")
    # The name says the label twice: by its B or M, and by its subtype.
    label, expected = LABELS["BM".index(match["label"])], SUBTYPES[match["subtype"]][1]
    if label != expected:
        raise DataError(f"'{name}' says {label}, but subtype {match['subtype']} is {expected}; rename or remove it")
    return label, match
