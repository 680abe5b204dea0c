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

# Block letters, such as `AB`, tell the folders of one case number apart. Slides cut from file names have a hyphen.
_SLIDE = rf"SOB_(?P<label>[BM])_(?P<subtype>{'|'.join(SUBTYPES)})[_-](?P<year>\d\d)-(?P<case>\d+)(?P<block>[A-Z]*)"
SLIDE_NAME = re.compile(_SLIDE.replace("[_-]", "_"))
_STEM = _SLIDE.replace("[_-]", "-") + r"-(?P<magnification>40|100|200|400)-(?P<sequence>\d+)"
IMAGE_NAME = re.compile(rf"(?P<stem>{_STEM})(\.\w+)*")  # with any suffix, or none
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}
# Left by operating systems, archivers and network disks, beside what begins with a dot.
SYSTEM_FILES = {
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information",
    "lost+found",
}  # fmt: skip


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


def is_system_file(name: str) -> bool:
    """Whether a file or folder is hidden, or was left by an operating system, an editor or an archiver."""
    # `._x.png` is what macOS keeps beside x.png on foreign disks: it has an image's suffix and is none.
    return name.startswith(".") or name.lower() in SYSTEM_FILES


@functools.lru_cache(maxsize=100_000)  # a sweep's worker asks for the same names in every run
def official_name(path: str) -> str | None:
    """The official file name that a path bears, in any folder, with any slashes and suffix or none; else None.
    `C:\\x\\SOB_B_A-14-22549AB-40-001.JPG` -> `SOB_B_A-14-22549AB-40-001.png`."""
    match = IMAGE_NAME.fullmatch(_last_part(path))
    return f"{match['stem']}.png" if match else None


def image_stem(path: str) -> str:
    """What tells images apart in tables of any origin: the name without folder and suffix."""
    if official := official_name(path):
        return official.removesuffix(".png")
    return re.sub(r"\.[^\W_]+$", "", _last_part(path))


def official_slide(path: str) -> str:
    """The last part of a path; of slides cut from file names, `SOB_B_A-14-22549AB`, as the folder is called."""
    match = re.fullmatch(_SLIDE, _last_part(path))
    return _slide_of(match) if match else _last_part(path)


def parse_image_name(path: str) -> ImageName:
    """The parts of `SOB_B_A-14-22549AB-40-001.png`, in any folder; DataError if it is invalid or contradicts itself."""
    label, match = _match(IMAGE_NAME, path, "image", "SOB_B_A-14-22549AB-40-001.png")
    numbers = int(match["magnification"]), int(match["sequence"])
    return ImageName(label, match["subtype"], _slide_of(match), match["case"], *numbers)


def parse_slide_name(slide: str) -> SlideName:
    """The parts of `SOB_B_A_14-22549AB`: benign, A, 22549. DataError if it is invalid or contradicts itself."""
    label, match = _match(SLIDE_NAME, slide, "slide", "SOB_B_A_14-22549AB")
    return SlideName(label, match["subtype"], match["case"])


def official_path(path: str) -> str:
    """Where an image lies in the official tree, relative to the folder that contains `histology_slides`, POSIX; for a
    file name or a path of any other tree. DataError if the name is not official."""
    name = parse_image_name(path)
    folder, label = SUBTYPES[name.subtype]
    return f"{TREE}/breast/{label}/SOB/{folder}/{name.slide}/{name.magnification}X/{official_name(path)}"


@functools.lru_cache(maxsize=100_000)
def canonical_path(path: str) -> str:
    """The official path of an official name, in whatever folders it lies; of another file the path as it is."""
    return official_path(path) if official_name(path) else path


def contradicts_folders(path: str) -> bool:
    """Whether a folder of a relative POSIX path names another label, subtype, slide or magnification than its file."""
    name, folders = parse_image_name(path), path.split("/")[:-1]
    others = {*LABELS, *(folder for folder, _ in SUBTYPES.values())} - {name.label, SUBTYPES[name.subtype][0]}
    slides = {official_slide(folder) for folder in folders if re.fullmatch(_SLIDE, folder)}
    shown = {*re.findall(r"(?<!\d)(40|100|200|400)x(?![a-z\d])", "/".join(folders).lower())}
    words = {re.sub("[ -]", "_", folder.lower()) for folder in folders}
    return bool(words & others or slides - {name.slide} or shown - {str(name.magnification)})


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.strip().rstrip("\\/"))[-1]


def _slide_of(match: re.Match[str]) -> str:
    return "SOB_{label}_{subtype}_{year}-{case}{block}".format(**match.groupdict())


def _match(grammar: re.Pattern[str], path: str, kind: str, example: str) -> tuple[str, re.Match[str]]:
    match = grammar.fullmatch(_last_part(path))
    if match is None:
        raise DataError(f"'{path}' is not a BreakHis {kind} name; expected one like {example}")
    # The name says the label twice: by its B or M, and by its subtype.
    label, expected = LABELS["BM".index(match["label"])], SUBTYPES[match["subtype"]][1]
    if label != expected:
        raise DataError(f"'{path}' says {label}, but subtype {match['subtype']} is {expected}; rename or remove it")
    return label, match
