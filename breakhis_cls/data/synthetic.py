"""Synthetic tissue: a BreakHis-shaped tree of drawn H&E images, so that everything runs without a download.

It is no medical data: a program's idea of tissue, with the names, the layout and every oddity of the real set.
Scores on it are never a BreakHis result; they only show that the software works.

A picture is drawn in micrometres and in optical density. Architecture (glands or nests) follows the subtype, nuclei
follow subtype and case, stain and texture follow the case alone: what a model may memorise under an image split and
cannot use under a case split. Some cases lie on the wrong side of the border in size and density of their nuclei.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from .. import files, names
from ..errors import DataError
from .parallel import in_parallel

VERSION = 1  # of the pictures; a new number draws new trees
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

# The published 0.49 um a pixel at 40X would make nuclei twice as large as the images show them.
UM_PER_PX = {40: 1.2, 100: 0.48, 200: 0.24, 400: 0.12}
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)  # Ruifrok & Johnston 2001
COARSE_PX, FIBRE_PX = 4, 2  # pixels a grid point of architecture and of fibres stands for
LATTICE = 128  # points a side of the noise that repeats


class Subtype(NamedTuple):
    """How a subtype is built. Lengths in um, shares and atypia in [0, 1]."""

    size_um: float  # mean radius of a gland, or length of a nest
    gap_um: float  # between the centres of glands; 0: nests instead of glands
    stretch: float  # long over short axis
    cover: float  # share of the field that belongs to lobules or nests
    space: float  # share of white or mucinous space between nests
    mucin: float  # how bluish that space is
    atypia: float  # 0: nuclei bland and small, 1: large, varied and irregular
    stroma_per_mm2: float


SUBTYPES = {
    "A": Subtype(22, 62, 1.2, 0.60, 0.0, 0.0, 0.25, 1500),
    "F": Subtype(34, 120, 2.6, 0.70, 0.0, 0.0, 0.20, 2200),
    "PT": Subtype(48, 170, 2.2, 0.65, 0.0, 0.0, 0.35, 3600),
    "TA": Subtype(21, 50, 1.1, 0.85, 0.0, 0.0, 0.25, 1200),
    "DC": Subtype(55, 0, 1.5, 0.60, 0.03, 0.0, 0.80, 2000),
    "LC": Subtype(9, 0, 5.0, 0.40, 0.0, 0.0, 0.55, 2000),
    "MC": Subtype(38, 0, 1.2, 0.35, 0.40, 0.35, 0.60, 1400),
    "PC": Subtype(26, 0, 1.8, 0.60, 0.28, 0.0, 0.65, 1800),
}


class Case(NamedTuple):
    """What all images of a case share: stain, texture, and how its nuclei differ from the subtype's."""

    stains: np.ndarray  # (2, 3) optical density of haematoxylin and eosin
    light: np.ndarray  # (3,) background in [0, 255]
    stroma: tuple[float, float]  # haematoxylin and eosin of the ground
    cytoplasm: tuple[float, float]
    fibre_um: float
    contrast: float  # of fibres
    blur_um: float
    size: float  # factor on the radius of nuclei
    density: float  # factor on their number
    atypia: float  # added to the subtype's
    cover: float  # added to the subtype's
    lymphocytes_per_mm2: float


class Layers(NamedTuple):
    """(height, width) float32 each: what a picture is mixed from, before colour."""

    haematoxylin: np.ndarray
    eosin: np.ndarray
    nuclei: np.ndarray  # density of the nuclei alone; > 0 inside


class Tissue(NamedTuple):
    """Architecture on a coarse grid, float32: depth into epithelium in um, white space and fibre angle in radian."""

    depth_um: np.ndarray
    lumen: np.ndarray
    space: np.ndarray
    bend_um: np.ndarray
    angle: np.ndarray


def write(folder: Path, seed: int = 0, images_per_cell: int = IMAGES_PER_CELL, slides: Sequence[str] = SLIDES) -> Path:
    """Draw `folder`/BreaKHis_v1/histology_slides/...: 700x460 PNGs, equal bytes for equal arguments.

    The tree appears whole or not at all, and one that is there for the same arguments is left alone. DataError if
    the folder holds anything else.
    """
    made_of = {"version": VERSION, "seed": seed, "images_per_cell": images_per_cell, "slides": list(slides)}
    if _holds(folder, made_of):
        return folder
    with _appearing(folder) as temporary:
        root = temporary / "BreaKHis_v1"
        filenames = [name for slide in slides for name in _filenames(slide, images_per_cell)]
        for path in {(root / names.official_path(filename)).parent for filename in filenames}:
            path.mkdir(parents=True)
        for _ in in_parallel(lambda filename: _save(root, filename, seed), filenames, "drawing synthetic tissue"):
            pass
        files.write_json(temporary / MARKER, made_of)
    return folder


def tree(cache: Path) -> Path:
    """The default tree of this version, kept under `cache` and drawn on first use."""
    return write(cache / "synthetic" / f"v{VERSION}-seed0-{IMAGES_PER_CELL}")


def draw(filename: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(height, 700, 3) uint8 RGB and (height, 700) bool nuclei; height is 460, or 456 where SHORT_PX says so."""
    name = names.parse(filename)
    slide = TWINS.get(name.slide, name.slide)
    subtype = SUBTYPES[names.subtype_of(slide)]
    case = _case(np.random.default_rng([seed, int(name.case)]))
    rng = np.random.default_rng([seed, zlib.crc32(slide.encode()), name.magnification, name.sequence])
    um_per_px = UM_PER_PX[name.magnification]
    layers = _layers(rng, subtype, case, um_per_px)
    height_px = SHORT_PX.get((name.slide, name.magnification), names.FULL_PX[1])
    return _photograph(rng, layers, case, um_per_px)[:height_px], (layers.nuclei > 0)[:height_px]


def nuclei_mask(filename: str, seed: int = 0) -> np.ndarray:
    """(height, 700) bool: where nuclei were drawn, the truth that a heat map can be held against."""
    return draw(filename, seed)[1]


def _filenames(slide: str, images_per_cell: int) -> Iterator[str]:
    label, subtype, number = slide.removeprefix("SOB_").split("_")
    for magnification in names.MAGNIFICATIONS:
        for sequence in range(1, images_per_cell + 1):
            yield f"SOB_{label}_{subtype}-{number}-{magnification}-{sequence:03d}.png"


def _save(root: Path, filename: str, seed: int) -> None:
    """Level 1: compression would else cost more than drawing. Twins differ in bytes, not in pixels."""
    level = 3 if names.parse(filename).slide in TWINS else 1
    Image.fromarray(draw(filename, seed)[0]).save(root / names.official_path(filename), compress_level=level)


def _holds(folder: Path, made_of: dict) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == made_of:
        return True
    raise DataError(f"{folder} exists and is not the synthetic tree {made_of}; remove it or name another folder")


@contextlib.contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `folder` at the end, or goes away. Of two that race, the first stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        if time.time() - leftover.stat().st_mtime > STALE_S:
            shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        with contextlib.suppress(FileExistsError):
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _case(rng: np.random.Generator) -> Case:
    stains = np.clip(np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, [[0.09], [0.06]], (2, 3)), 0.02, None)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return Case(
        stains=stains * rng.lognormal(0, 0.25, (2, 1)),
        light=rng.normal(238, 7, 3).clip(215, 252),
        stroma=(rng.uniform(0.03, 0.22), rng.uniform(0.14, 0.42)),
        cytoplasm=(rng.uniform(0.12, 0.28), rng.uniform(0.18, 0.38)),
        fibre_um=rng.uniform(2.0, 4.5),
        contrast=rng.uniform(0.2, 0.5),
        blur_um=rng.uniform(0.05, 0.2),
        size=rng.lognormal(0, 0.10),
        density=rng.lognormal(0, 0.15),
        atypia=rng.normal(0, 0.20),
        cover=rng.normal(0, 0.08),
        lymphocytes_per_mm2=rng.lognormal(5.0, 1.0),
    )


def _layers(rng: np.random.Generator, subtype: Subtype, case: Case, um_per_px: float) -> Layers:
    tissue = _tissue(rng, subtype, case, um_per_px)
    depth, lumen, space = (_enlarged(layer) for layer in (tissue.depth_um, tissue.lumen, tissue.space))
    edge_um = max(1.0, um_per_px)
    epithelium = np.clip(depth / (2 * edge_um) + 0.5, 0, 1)
    empty = np.clip(np.maximum(lumen, space) / edge_um + 0.5, 0, 1)
    fibre = 1 + case.contrast * _fibres(rng, tissue, case, um_per_px) * (1 - 0.6 * epithelium)
    grain = _enlarged(rng.standard_normal((230, 350), dtype=np.float32))
    nuclei = _nuclei(rng, subtype, case, tissue, um_per_px)
    ground = [(tint * (1 - epithelium) + cell * epithelium) * fibre * (1 - empty)
              for tint, cell in zip(case.stroma, case.cytoplasm, strict=True)]  # fmt: skip
    mucin = subtype.mucin * np.clip(space / edge_um, 0, 1) * (1 + 0.4 * (fibre - 1))
    inside = np.clip(nuclei, 0, 1)
    haematoxylin = (ground[0] + 0.25 * mucin) * (1 - inside) + nuclei * (1 + 0.12 * grain)
    eosin = (ground[1] + 0.08 * mucin) * (1 - 0.5 * inside) + 0.012 * grain
    return Layers(haematoxylin.clip(0), eosin.clip(0), nuclei)


def _photograph(rng: np.random.Generator, layers: Layers, case: Case, um_per_px: float) -> np.ndarray:
    """Beer-Lambert: light * 10 ** -(stain vectors * amounts), slightly out of focus and darker in the corners."""
    blur_px = 0.5 + case.blur_um * rng.uniform(0.7, 1.5) / um_per_px
    amounts = [gaussian_filter(layer, blur_px, truncate=2.5) for layer in layers[:2]]
    y, x = np.ogrid[-1:1:460j, -1:1:700j]
    shade = (1 - 0.04 * (x**2 + y**2)).astype(np.float32) * np.float32(rng.uniform(0.96, 1.04))
    rgb = np.empty((*shade.shape, 3), np.uint8)
    for channel, light in enumerate(case.light):
        density = sum(
            amount * np.float32(stain) for amount, stain in zip(amounts, case.stains[:, channel], strict=True)
        )
        rgb[..., channel] = np.clip(np.float32(light) * shade * np.exp(np.float32(-np.log(10)) * density), 0, 255)
    return rgb


def _tissue(rng: np.random.Generator, subtype: Subtype, case: Case, um_per_px: float) -> Tissue:
    y, x = np.mgrid[0:460:COARSE_PX, 0:700:COARSE_PX].astype(np.float32) * np.float32(um_per_px)
    angle = rng.uniform(0, np.pi)
    bend = 22 * _noise(rng, x / 90, y / 90) + 5 * _noise(rng, x / 30, y / 30)
    slope_y, slope_x = np.gradient(bend, COARSE_PX * um_per_px)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle) + bend
    direction = np.arctan2(np.sin(angle) - slope_x, np.cos(angle) + slope_y)
    threshold = -_quantile(subtype.cover + case.cover + rng.normal(0, 0.08))
    if subtype.gap_um:
        depth, ring = _glands(rng, x, y, subtype, 10 + 8 * _atypia(subtype, case))
        depth = np.minimum(depth, 60 * (_noise(rng, x / 200, y / 200) + threshold))
        lumen, space = depth - ring, np.full_like(depth, -99)
    else:
        scale = subtype.size_um
        level = _noise(rng, along / (scale * subtype.stretch), across / scale)
        depth = 0.6 * scale * (level + threshold)
        lumen = np.minimum(depth - 6, 14 * (_noise(rng, x / 18, y / 18) - 1.9))
        space = np.minimum(-depth - 1, 60 * (_noise(rng, x / 150, y / 150) + _quantile(subtype.space) + 0.4))
    cleft = 6 * (_noise(rng, along / 70, across / 8) - 2.3)
    return Tissue(depth, lumen, np.maximum(space, np.minimum(cleft, -depth)), bend, direction)


def _glands(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, subtype: Subtype, ring_um: float):
    """Depth below the outline of the nearest glands and thickness of their walls, in um, both like x."""
    centres = _jittered(rng, x.max(), y.max(), subtype.gap_um, 0.3)
    n = len(centres)
    radius = subtype.size_um * rng.lognormal(0, 0.22, n)
    stretch, turn = rng.uniform(1, subtype.stretch, n), rng.uniform(0, np.pi, n)
    wobble = rng.normal(0, 0.09, (2, n)) * np.exp(2j * np.pi * rng.random((2, n)))
    _, nearest = cKDTree(centres).query(np.stack([x, y], -1).reshape(-1, 2), k=2, workers=1)
    points = np.stack([x, y], -1).reshape(-1, 1, 2) - centres[nearest]
    z = (points[..., 0] + 1j * points[..., 1]) * np.exp(-1j * turn)[nearest]
    z = z.real / np.sqrt(stretch)[nearest] + 1j * z.imag * np.sqrt(stretch)[nearest]
    r = np.abs(z) + 1e-6
    shape = 1 + sum(((z / r) ** k * wobble[k - 2][nearest]).real for k in (2, 3))
    depth = (radius[nearest] * shape - r).max(axis=1).reshape(x.shape)
    return depth.astype(np.float32), np.float32(ring_um)


def _fibres(rng: np.random.Generator, tissue: Tissue, case: Case, um_per_px: float) -> np.ndarray:
    """(460, 700) texture of about unit variance that runs along the fibres."""
    y, x = np.mgrid[0:460:FIBRE_PX, 0:700:FIBRE_PX].astype(np.float32) * np.float32(um_per_px)
    bend = _enlarged(tissue.bend_um, FIBRE_PX)
    turn = tissue.angle[0, 0]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn) + bend
    thin = _noise(rng, along / (12 * case.fibre_um), across / case.fibre_um, order=1)
    thick = _noise(rng, along / (25 * case.fibre_um), across / (4 * case.fibre_um), order=1)
    return _enlarged(0.6 * thin + 0.6 * thick)


def _nuclei(rng: np.random.Generator, subtype: Subtype, case: Case, tissue: Tissue, um_per_px: float) -> np.ndarray:
    """(460, 700) optical density of nuclei in epithelium, in stroma and of lymphocytes."""
    atypia = _atypia(subtype, case)
    canvas = np.zeros((460, 700), np.float32)
    radius_um = (3.1 + 1.5 * atypia) * case.size
    spacing_um = (2.15 + 0.3 * (1 - atypia)) * radius_um / np.sqrt(case.density)
    white = np.maximum(tissue.lumen, tissue.space)
    slope_y, slope_x = np.gradient(tissue.depth_um)
    populations = (   # where, spacing in um, radius in um, spread, long over short axis, angle, irregularity, darkness
        ((tissue.depth_um > 2) & (white < -2), spacing_um, radius_um, 0.08 + 0.2 * atypia, 1.35,
         np.arctan2(slope_y, slope_x) + atypia * rng.normal(0, 1), 0.03 + 0.12 * atypia, 0.75),
        ((tissue.depth_um < -3) & (white < -2), 1e3 / np.sqrt(subtype.stroma_per_mm2 * case.density), 2.9, 0.2, 2.8,
         tissue.angle, 0.08, 0.7),
        ((tissue.depth_um < 0) & (white < -2), 1e3 / np.sqrt(case.lymphocytes_per_mm2), 2.7, 0.06, 1.1,
         tissue.angle, 0.04, 1.0),
    )  # fmt: skip
    for where, spacing, radius, spread, aspect, angle, irregular, dark in populations:
        at = _jittered(rng, 700 * um_per_px, 460 * um_per_px, spacing, 0.28) / um_per_px
        cell = tuple(np.clip(at[:, ::-1] // COARSE_PX, 0, np.array(where.shape) - 1).astype(int).T)
        at, cell = at[where[cell]], tuple(index[where[cell]] for index in cell)
        if len(at):
            size_px = radius / um_per_px * rng.lognormal(0, spread, len(at)).clip(0.6, 1.7)
            aspects = aspect * rng.lognormal(0, 0.12, len(at))
            turns = angle[cell] + rng.normal(0, 0.3, len(at))
            darks = dark * rng.lognormal(0, 0.15, len(at))
            _stamp(canvas, rng, at, size_px, aspects, turns, irregular, darks)
    return canvas


def _stamp(canvas, rng, at_px, size_px, aspects, turns, irregular, darks) -> None:
    """Lay ellipses with a wavy outline and a dark rim on the canvas; where two overlap, the darker wins."""
    half = int(np.ceil(1.15 * (size_px * np.sqrt(aspects)).max())) + 1
    offset = np.arange(-half, half + 1)
    corner = np.floor(at_px).astype(int)
    dx, dy = ((offset[None, :] - (at_px - corner)[:, axis, None]).astype(np.float32) for axis in (0, 1))
    z = (dx[:, None, :] + 1j * dy[:, :, None]) * np.exp(-1j * turns)[:, None, None].astype(np.complex64)
    long, short = ((size_px * aspects**power)[:, None, None].astype(np.float32) for power in (0.5, -0.5))
    z = z.real / long + 1j * (z.imag / short)
    rho = np.abs(z) + np.float32(1e-6)
    z /= rho
    wave = (irregular * np.exp(2j * np.pi * rng.random((2, len(at_px), 1, 1)))).astype(np.complex64)
    rho /= 1 + (z * z * (wave[0] + z * wave[1])).real
    value = np.clip((1 - rho) * short + 0.5, 0, 1) * darks[:, None, None].astype(np.float32)
    value *= 0.75 + 0.3 * rho * rho
    rows, columns = corner[:, 1, None] + offset, corner[:, 0, None] + offset
    inside = ((rows >= 0) & (rows < 460))[:, :, None] & ((columns >= 0) & (columns < 700))[:, None, :] & (value > 0)
    flat = (rows[:, :, None] * 700 + columns[:, None, :])[inside]
    np.maximum.at(canvas.reshape(-1), flat, value[inside])


def _atypia(subtype: Subtype, case: Case) -> float:
    return float(np.clip(subtype.atypia + case.atypia, 0, 1))


def _jittered(rng: np.random.Generator, width: float, height: float, spacing: float, jitter: float) -> np.ndarray:
    """(n, 2) x and y of a shaken hexagonal grid that reaches one spacing beyond the field."""
    rows, columns = np.mgrid[-1 : height / spacing / 0.87 + 1, -1 : width / spacing + 1]
    points = np.stack([columns + 0.5 * (rows % 2), 0.87 * rows], -1).reshape(-1, 2)
    return spacing * (points + rng.random(2) + rng.normal(0, jitter, points.shape))


def _noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, order: int = 3) -> np.ndarray:
    """Noise of about unit variance at points u, v, whose features are one unit long: a B-spline over white noise."""
    lattice = rng.standard_normal((LATTICE, LATTICE), dtype=np.float32)
    at = np.stack([v + rng.uniform(0, LATTICE), u + rng.uniform(0, LATTICE)])
    gain = {1: 1.5, 3: 2.09}[order]  # one over the standard deviation that a B-spline of this order leaves
    return gain * map_coordinates(lattice, at, order=order, mode="grid-wrap", prefilter=False)


def _enlarged(coarse: np.ndarray, px: int = 1) -> np.ndarray:
    """A float layer on any grid, resampled to the field's 460x700 points, or to every px-th of them."""
    return np.asarray(
        Image.fromarray(coarse.astype(np.float32)).resize((700 // px, 460 // px), Image.Resampling.BICUBIC)
    )


def _quantile(share: float) -> float:
    """Level that a standard normal stays below with this probability, by Tukey's lambda."""
    share = float(np.clip(share, 0.01, 0.99))
    return (share**0.135 - (1 - share) ** 0.135) / 0.1975
