"""Draws one field of H&E tissue in um and optical density: architecture by subtype, stain by case, nuclei by both.

Equal generators give equal pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from ..names import FULL_PX
from .nuclei import NucleusKind, draw_nuclei, jittered_grid

# The published 0.49 um a pixel at 40X would make nuclei twice as large as the images show them.
UM_PER_PX = {40: 1.2, 100: 0.48, 200: 0.24, 400: 0.12}
DRAWN_AT = {40: 1, 100: 1, 200: 2, 400: 2}  # times smaller, for speed: optics blur more than that
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)  # Ruifrok & Johnston 2001
COARSE, FINE = 4, 2  # pixels that a grid point of architecture and of texture stands for
LATTICE = 128  # points a side of the noise, which then repeats


class Subtype(NamedTuple):
    """How a subtype is built. Lengths in um, shares and atypia in [0, 1]."""

    size_um: float  # mean radius of a gland, or length of a nest
    gap_um: float  # between the centres of glands; 0: nests instead of glands
    stretch: float  # long over short axis
    cover: float  # share of the field that belongs to lobules or nests
    space: float  # share of empty or mucinous space around nests
    mucin: float  # how bluish that space is
    atypia: float  # 0: nuclei bland and small, 1: large, varied and irregular
    stroma_per_mm2: float  # nuclei


SUBTYPES = {
    "A": Subtype(22, 62, 1.2, 0.60, 0.0, 0.0, 0.25, 1500),
    "F": Subtype(34, 120, 2.6, 0.70, 0.0, 0.0, 0.20, 2200),
    "PT": Subtype(48, 170, 2.2, 0.65, 0.0, 0.0, 0.35, 3600),
    "TA": Subtype(21, 50, 1.1, 0.85, 0.0, 0.0, 0.25, 1200),
    "DC": Subtype(55, 0, 1.5, 0.60, 0.03, 0.0, 0.80, 2000),
    "LC": Subtype(9, 0, 5.0, 0.40, 0.0, 0.0, 0.55, 2000),
    "MC": Subtype(26, 0, 1.2, 0.38, 0.50, 0.30, 0.60, 1400),
    "PC": Subtype(26, 0, 1.8, 0.60, 0.28, 0.0, 0.65, 1800),
}  # fmt: skip


class Case(NamedTuple):
    """What all images of a case share: stain, texture, and how its nuclei differ from the subtype's."""

    stains: np.ndarray  # (2, 3) optical density of haematoxylin and eosin in red, green and blue
    light: np.ndarray  # (3,) empty glass in [0, 255]
    stroma: tuple[float, float]  # amounts of haematoxylin and eosin
    cytoplasm: tuple[float, float]
    fibre_um: float
    contrast: float  # of fibres
    blur_um: float
    size: float  # factor on the radius of nuclei
    density: float  # factor on their number
    atypia: float  # added to the subtype's, as is cover
    cover: float
    lymphocytes_per_mm2: float


class Drawing(NamedTuple):
    """A drawn field and the truth about it."""

    rgb: np.ndarray  # (460, 700, 3) uint8
    nuclei: np.ndarray  # (460, 700) bool: where any nuclei are
    epithelium: np.ndarray  # (460, 700) bool: those nuclei whose size and shape follow the subtype, and so the label


def draw_case(rng: np.random.Generator) -> Case:
    """A case with a stain, texture and nuclei of its own."""
    fading = rng.uniform(0, 1, (2, 1)) * [[0.0, -0.1, 0.05], [0.22, -0.1, 0.30]]  # few slides are pure magenta
    stains = np.clip(np.array([HAEMATOXYLIN, EOSIN]) + fading + rng.normal(0, 0.05, (2, 3)), 0.02, None)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return Case(
        stains=stains * rng.lognormal(0, 0.25, (2, 1)),
        light=rng.normal(238, 7, 3).clip(215, 252),
        stroma=(rng.uniform(0.01, 0.13), rng.uniform(0.14, 0.36)),
        cytoplasm=(rng.uniform(0.08, 0.24), rng.uniform(0.15, 0.34)),
        fibre_um=rng.uniform(2.0, 4.5),
        contrast=rng.uniform(0.25, 0.6),
        blur_um=rng.uniform(0.05, 0.2),
        size=rng.lognormal(0, 0.10),
        density=rng.lognormal(0, 0.15),
        atypia=rng.normal(0, 0.20),
        cover=rng.normal(0, 0.08),
        lymphocytes_per_mm2=rng.lognormal(5.0, 1.0),
    )


def draw_field(rng: np.random.Generator, code: str, case: Case, magnification: int) -> Drawing:
    """A field of a subtype at 40, 100, 200 or 400X."""
    shrunk = DRAWN_AT[magnification]
    um_per_px = UM_PER_PX[magnification] * shrunk
    width_px, height_px = FULL_PX[0] // shrunk, FULL_PX[1] // shrunk
    subtype = SUBTYPES[code]
    atypia = float(np.clip(subtype.atypia + case.atypia, 0, 1))

    def grid(step_px: int) -> tuple[np.ndarray, np.ndarray]:  # x and y of every step-th pixel, um
        y, x = np.mgrid[0:height_px:step_px, 0:width_px:step_px].astype(np.float32)
        return x * np.float32(um_per_px), y * np.float32(um_per_px)

    def enlarge(layer: np.ndarray, step_px: int = 1) -> np.ndarray:  # a coarser layer at every step-th pixel
        size = width_px // step_px, height_px // step_px
        return np.asarray(Image.fromarray(layer.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))

    # --- architecture on the coarse grid: where fibres run, and how deep a point lies in epithelium, lumen or space ---
    x, y = grid(COARSE)
    turn = rng.uniform(0, np.pi)
    bend = 22 * _noise(rng, x / 90, y / 90) + 5 * _noise(rng, x / 30, y / 30)
    along, across = _along_and_across(x, y, turn, bend)
    slope_y, slope_x = np.gradient(bend, COARSE * um_per_px)
    along_fibres = np.arctan2(np.sin(turn) - slope_x, np.cos(turn) + slope_y)
    level = _quantile(subtype.cover + case.cover + rng.normal(0, 0.08))
    if subtype.gap_um:  # benign: glands with a lumen, in lobules
        lobule = 60 * (_noise(rng, x / 200, y / 200) + level)
        depth = np.minimum(_depth_in_glands(rng, x, y, subtype), lobule)
        lumen, space = depth - 10 - 8 * atypia, np.full_like(depth, -99)
    else:  # malignant: nests, cords and papillae, in MC and PC within empty or mucinous space
        size = subtype.size_um
        depth = 0.6 * size * (_noise(rng, along / (size * subtype.stretch), across / size) + level)
        lumen = np.minimum(depth - 6, 14 * (_noise(rng, x / 18, y / 18) - 1.9))
        space = np.minimum(-depth - 1, 60 * (_noise(rng, x / 150, y / 150) + _quantile(subtype.space) + 0.4))
    cleft = np.minimum(6 * (_noise(rng, along / 70, across / 8) - 2.3), -depth)
    space = np.maximum(space, cleft)

    # --- nuclei: of the epithelium, of the stroma, and lymphocytes ---
    solid = np.maximum(lumen, space) < -2
    slope_y, slope_x = np.gradient(depth)
    upright = np.arctan2(slope_y, slope_x) + atypia * rng.normal(0, 1)  # on the wall of the gland
    radius_um = (3.1 + 1.5 * atypia) * case.size
    spacing_um = (2.6 - 0.25 * atypia) * radius_um / np.sqrt(case.density)
    stroma_um, lymphocytes_um = 1e3 / np.sqrt([subtype.stroma_per_mm2 * case.density, case.lymphocytes_per_mm2])
    kinds = [  # where, angle, spacing, radius, spread, aspect, waviness, darkness, nucleolus
        NucleusKind(solid & (depth > 2), upright, spacing_um, radius_um, 0.08 + 0.2 * atypia, 1.35,
                    0.03 + 0.07 * atypia, 0.75, atypia),
        NucleusKind(solid & (depth < -3), along_fibres, stroma_um, 2.9, 0.2, 2.8, 0.08, 0.7, 0.0),
        NucleusKind(solid & (depth < 0), along_fibres, lymphocytes_um, 2.7, 0.06, 1.1, 0.04, 1.0, 0.0),
    ]  # fmt: skip
    canvas, masks = np.zeros((height_px, width_px), np.float32), []
    for kind in kinds:
        draw_nuclei(canvas, rng, um_per_px, COARSE, kind)
        masks.append(np.asarray(Image.fromarray(canvas > 0).resize(FULL_PX, Image.Resampling.NEAREST)))

    # --- textures on the fine grid, of about unit variance: what runs along the fibres, and grain ---
    fine_x, fine_y = grid(FINE)
    along, across = _along_and_across(fine_x, fine_y, turn, enlarge(bend, FINE))
    thin = _noise(rng, along / (12 * case.fibre_um), across / case.fibre_um, order=1)
    thick = _noise(rng, along / (30 * case.fibre_um), across / (5 * case.fibre_um), order=1)
    patches = enlarge(_noise(rng, x / 60, y / 60), FINE)
    grain_um = max(0.7, FINE * um_per_px)
    grain = enlarge(_noise(rng, fine_x / grain_um, fine_y / grain_um, order=1))
    fibres = enlarge(0.5 * thin + 0.6 * thick + 0.5 * patches)

    # --- amounts of haematoxylin and eosin at each pixel ---
    edge_um = max(1.0, um_per_px)
    depth, lumen, space = map(enlarge, (depth, lumen, space))
    epithelium = np.clip(depth / (2 * edge_um) + 0.5, 0, 1)
    tissue = 1 - np.clip(np.maximum(lumen, space) / edge_um + 0.5, 0, 1)
    texture = tissue * (1 + case.contrast * (fibres + 0.12 * grain) * (1 - 0.6 * epithelium))
    mucin = subtype.mucin * np.clip(space / edge_um, 0, 1) * (1 + 0.4 * case.contrast * fibres)
    inside = np.clip(canvas, 0, 1)
    tints = zip(case.stroma, case.cytoplasm, strict=True)
    blue, pink = (texture * (stroma + (cytoplasm - stroma) * epithelium) for stroma, cytoplasm in tints)
    haematoxylin = ((blue + 0.25 * mucin) * (1 - inside) + canvas * (1 + 0.1 * grain)).clip(0)
    eosin = ((pink + 0.08 * mucin) * (1 - 0.5 * inside)).clip(0)

    # --- the photograph: Beer-Lambert, slightly out of focus and darker in the corners ---
    blur_px = 0.4 + case.blur_um * rng.uniform(0.7, 1.5) / um_per_px
    haematoxylin, eosin = (gaussian_filter(amount, blur_px, truncate=2.5) for amount in (haematoxylin, eosin))
    y, x = np.ogrid[-1 : 1 : height_px * 1j, -1 : 1 : width_px * 1j]
    shade = ((1 - 0.04 * (x**2 + y**2)) * rng.uniform(0.96, 1.04)).astype(np.float32)
    rgb = np.empty((*shade.shape, 3), np.uint8)
    for channel, light in enumerate(case.light):
        blue, pink = -np.log(10).astype(np.float32) * case.stains[:, channel].astype(np.float32)
        transmitted = np.exp(blue * haematoxylin + pink * eosin)
        rgb[..., channel] = np.clip(np.float32(light) * shade * transmitted, 0, 255)
    photograph = Image.fromarray(rgb).resize(FULL_PX, Image.Resampling.BICUBIC)
    return Drawing(np.asarray(photograph), nuclei=masks[-1], epithelium=masks[0])


def _depth_in_glands(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, subtype: Subtype) -> np.ndarray:
    """How far a point lies inside the outline of its three nearest glands, which are wavy ellipses, um."""
    centres = jittered_grid(rng, x.max(), y.max(), subtype.gap_um, 0.3)
    n = len(centres)
    radius = subtype.size_um * rng.lognormal(0, 0.22, n)
    stretch, turn = np.sqrt(rng.uniform(1, subtype.stretch, n)), rng.uniform(0, np.pi, n)
    wave = rng.normal(0, 0.09, (2, n)) * np.exp(2j * np.pi * rng.random((2, n)))
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    nearest = cKDTree(centres).query(points, k=3)[1]
    offset = points[:, None, :] - centres[nearest]
    z = (offset[..., 0] + 1j * offset[..., 1]) * np.exp(-1j * turn)[nearest]
    z = z.real / stretch[nearest] + 1j * z.imag * stretch[nearest]
    r = np.abs(z) + 1e-6
    z /= r
    outline = radius[nearest] * (1 + (z * z * (wave[0][nearest] + z * wave[1][nearest])).real)
    return (outline - r).max(axis=1).reshape(x.shape).astype(np.float32)


def _along_and_across(x: np.ndarray, y: np.ndarray, turn: float, bend: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn) + bend


def _noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, order: int = 3) -> np.ndarray:
    """Noise of about unit variance at points u, v, with features one unit long: a B-spline over white noise."""
    lattice = rng.standard_normal((LATTICE, LATTICE), dtype=np.float32)
    at = np.stack([v, u]) + rng.uniform(0, LATTICE, (2, 1, 1)).astype(np.float32)
    gain = {1: 1.5, 3: 2.09}[order]  # one over the standard deviation that a B-spline of this order leaves
    return gain * map_coordinates(lattice, at, order=order, mode="grid-wrap", prefilter=False)


def _quantile(share: float) -> float:
    """Level that a standard normal stays below with this probability (Tukey's lambda approximation)."""
    share = float(np.clip(share, 0.01, 0.99))
    return (share**0.135 - (1 - share) ** 0.135) / 0.1975
