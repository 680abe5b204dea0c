"""Draws one field of H&E tissue in um and optical density: architecture by subtype, stain by case, nuclei by both.

Equal generators give equal pixels. subtypes.csv says how each subtype is built.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from ..names import FULL_PX

# The published 0.49 um a pixel at 40X would make nuclei twice as large as the images show them.
UM_PER_PX = {40: 1.2, 100: 0.48, 200: 0.24, 400: 0.12}
DRAWN_AT = {40: 1, 100: 1, 200: 2, 400: 2}  # times smaller, for speed: optics blur more than that
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)  # Ruifrok & Johnston 2001
COARSE, FINE = 4, 2  # pixels that a grid point of architecture and of texture stands for
LATTICE = 128  # points a side of the noise, which then repeats

_TABLE = pd.read_csv(Path(__file__).with_name("subtypes.csv"), comment="#", index_col="subtype")
SUBTYPES: dict[Any, Any] = {row.Index: row for row in _TABLE.itertuples()}


class Drawing(NamedTuple):
    """A drawn field and the truth about it."""

    rgb: np.ndarray  # (460, 700, 3) uint8
    nuclei: np.ndarray  # (460, 700) bool: where any nuclei are
    epithelium: np.ndarray  # (460, 700) bool: those nuclei whose size and shape follow the subtype, and so the label


def draw_case(rng: np.random.Generator) -> SimpleNamespace:
    """What all images of a case share: stain, texture, and how its nuclei differ from the subtype's."""
    fading = rng.uniform(0, 1, (2, 1)) * [[0.0, -0.1, 0.05], [0.22, -0.1, 0.30]]  # few slides are pure magenta
    stains = np.clip(np.array([HAEMATOXYLIN, EOSIN]) + fading + rng.normal(0, 0.05, (2, 3)), 0.02, None)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    return SimpleNamespace(
        stains=stains * rng.lognormal(0, 0.25, (2, 1)),  # optical density of haematoxylin and eosin in R, G and B
        light=rng.normal(238, 7, 3).clip(215, 252),  # empty glass
        stroma=(rng.uniform(0.01, 0.13), rng.uniform(0.14, 0.36)),  # amounts of haematoxylin and eosin
        cytoplasm=(rng.uniform(0.08, 0.24), rng.uniform(0.15, 0.34)),
        fibre_um=rng.uniform(2.0, 4.5),
        contrast=rng.uniform(0.25, 0.6),  # of fibres
        blur_um=rng.uniform(0.05, 0.2),
        size=rng.lognormal(0, 0.10),  # factor on the radius of nuclei
        density=rng.lognormal(0, 0.15),  # factor on their number
        atypia=rng.normal(0, 0.20),  # added to the subtype's, as is cover
        cover=rng.normal(0, 0.08),
        lymphocytes_per_mm2=rng.lognormal(5.0, 1.0),
    )


def draw_field(rng: np.random.Generator, code: str, case: SimpleNamespace, magnification: int) -> Drawing:
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
        # How far a point lies inside the outline of its three nearest glands, which are wavy ellipses.
        centres = _jittered_grid(rng, x.max(), y.max(), subtype.gap_um, 0.3)
        n = len(centres)
        radius = subtype.size_um * rng.lognormal(0, 0.22, n)
        stretch, angle = np.sqrt(rng.uniform(1, subtype.stretch, n)), rng.uniform(0, np.pi, n)
        wave = rng.normal(0, 0.09, (2, n)) * np.exp(2j * np.pi * rng.random((2, n)))
        points = np.stack([x.ravel(), y.ravel()], axis=1)
        nearest = cKDTree(centres).query(points, k=3)[1]
        offset = points[:, None, :] - centres[nearest]
        z = (offset[..., 0] + 1j * offset[..., 1]) * np.exp(-1j * angle)[nearest]
        z = z.real / stretch[nearest] + 1j * z.imag * stretch[nearest]
        r = np.abs(z) + 1e-6
        z /= r
        outline = radius[nearest] * (1 + (z * z * (wave[0][nearest] + z * wave[1][nearest])).real)
        inside = (outline - r).max(axis=1).reshape(x.shape).astype(np.float32)
        depth = np.minimum(inside, lobule)
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
    canvas, masks = np.zeros((height_px, width_px), np.float32), []
    spread, waviness = 0.08 + 0.2 * atypia, 0.03 + 0.07 * atypia
    for kind in (  # where, angle, spacing, radius, spread, aspect, waviness, darkness, nucleolus
        (solid & (depth > 2), upright, spacing_um, radius_um, spread, 1.35, waviness, 0.75, atypia),
        (solid & (depth < -3), along_fibres, stroma_um, 2.9, 0.2, 2.8, 0.08, 0.7, 0.0),
        (solid & (depth < 0), along_fibres, lymphocytes_um, 2.7, 0.06, 1.1, 0.04, 1.0, 0.0),
    ):
        _draw_nuclei(canvas, rng, um_per_px, *kind)
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


def _draw_nuclei(
    canvas: np.ndarray, rng: np.random.Generator, um_per_px: float, where: np.ndarray, angle: np.ndarray,
    spacing_um: float, radius_um: float, spread: float, aspect: float, waviness: float, darkness: float,
    nucleolus: float,
) -> None:  # fmt: skip
    """Add one kind of nuclei to canvas (height, width), optical density: ellipses with a wavy outline, a dark rim and a
    nucleolus, the darker one in front. where: bool, and angle of the long axis: radian, on the coarse grid. spread: of
    log radius. aspect: long over short axis. darkness: mean density. nucleolus: its extra density, as a share of it."""
    height, width = canvas.shape

    # --- place, size, angle and darkness of each ---
    centre = _jittered_grid(rng, width, height, spacing_um / um_per_px, 0.28)
    row, column = (centre[:, ::-1] // COARSE).clip(0, np.array(where.shape) - 1).astype(int).T
    is_there = where[row, column]
    centre, turn = centre[is_there], angle[row, column][is_there]
    n = len(centre)
    radius_px = radius_um / um_per_px * rng.lognormal(0, spread, n).clip(0.6, 1.7)
    aspects = aspect * rng.lognormal(0, 0.12, n)
    turn = turn + rng.normal(0, 0.3, n)
    densities = (darkness * rng.lognormal(0, 0.25, n)).astype(np.float32)

    # --- drawn together in four groups of like size: small ones need small squares of pixels ---
    for some in np.array_split(np.argsort(radius_px), 4):
        if not len(some):
            continue
        axes = (radius_px[some] * aspects[some] ** power for power in (0.5, -0.5))
        long, short = (axis.astype(np.float32)[:, None, None] for axis in axes)
        half = int(np.ceil(1.15 * long.max())) + 1
        offset = np.arange(-half, half + 1)
        corner = np.floor(centre[some]).astype(int)
        dx, dy = ((offset - (centre[some] - corner)[:, axis, None]).astype(np.float32) for axis in (0, 1))
        z = (dx[:, None, :] + 1j * dy[:, :, None]) * np.exp(-1j * turn[some])[:, None, None].astype(np.complex64)
        z = z.real / long + 1j * (z.imag / short)  # the ellipse as the unit circle
        directions = np.exp(2j * np.pi * rng.random((3, len(some), 1, 1)))
        waves, spot = (waviness * directions[:2]).astype(np.complex64), (0.35 * directions[2]).astype(np.complex64)
        spots = nucleolus * np.clip(1 - 14 * np.abs(z - spot), 0, 1) if half > 8 else 0
        rho = np.abs(z) + np.float32(1e-6)
        z /= rho
        rho /= 1 + (z * z * (waves[0] + z * waves[1])).real  # 1 on the wavy outline
        rim = 0.75 + 0.3 * rho * rho
        density = np.clip((1 - rho) * short + 0.5, 0, 1) * densities[some, None, None] * (rim + spots)
        rows, columns = corner[:, 1, None] + offset, corner[:, 0, None] + offset
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        inside &= density > 0
        flat = (rows[:, :, None] * width + columns[:, None, :])[inside]
        np.maximum.at(canvas.reshape(-1), flat, density[inside])


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


def _jittered_grid(rng: np.random.Generator, width: float, height: float, spacing: float, jitter: float) -> np.ndarray:
    """(n, 2) x and y of a shaken hexagonal grid that reaches one spacing beyond the field."""
    rows, columns = np.mgrid[-1 : height / spacing / 0.87 + 1, -1 : width / spacing + 1]
    points = np.stack([columns + 0.5 * (rows % 2), 0.87 * rows], axis=-1).reshape(-1, 2)
    return spacing * (points + rng.random(2) + rng.normal(0, jitter, points.shape))
