"""Draws nuclei: where they lie, how they are turned, their outline, rim and nucleolus."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class NucleusKind(NamedTuple):
    """Where nuclei of one kind lie and what they look like."""

    where: np.ndarray  # bool on the coarse grid
    angle: np.ndarray  # of the long axis, radian, on the coarse grid
    spacing_um: float
    radius_um: float
    spread: float  # of log radius
    aspect: float  # long over short axis
    waviness: float  # of the outline
    darkness: float  # mean optical density
    nucleolus: float  # its extra density, as a share of darkness


def draw_nuclei(
    canvas: np.ndarray, rng: np.random.Generator, um_per_px: float, coarse_px: int, kind: NucleusKind
) -> None:
    """Add one kind of nuclei to canvas (height, width), float32 optical density, 0 outside nuclei.

    Each is an ellipse with a wavy outline, a dark rim and a nucleolus; where two overlap the darker wins.
    """
    height, width = canvas.shape

    # --- place, size, angle and darkness of each ---
    centre = jittered_grid(rng, width, height, kind.spacing_um / um_per_px, 0.28)
    row, column = (centre[:, ::-1] // coarse_px).clip(0, np.array(kind.where.shape) - 1).astype(int).T
    is_there = kind.where[row, column]
    centre, angle = centre[is_there], kind.angle[row, column][is_there]
    n = len(centre)
    radius_px = kind.radius_um / um_per_px * rng.lognormal(0, kind.spread, n).clip(0.6, 1.7)
    aspect = kind.aspect * rng.lognormal(0, 0.12, n)
    angle = angle + rng.normal(0, 0.3, n)
    darkness = kind.darkness * rng.lognormal(0, 0.25, n)

    # --- drawn together in four groups of like size: small ones need small squares of pixels ---
    for some in np.array_split(np.argsort(radius_px), 4):
        if not len(some):
            continue
        long, short = (_per_square(radius_px[some] * aspect[some] ** power) for power in (0.5, -0.5))
        half = int(np.ceil(1.15 * long.max())) + 1
        offset = np.arange(-half, half + 1)
        corner = np.floor(centre[some]).astype(int)
        dx, dy = ((offset - (centre[some] - corner)[:, axis, None]).astype(np.float32) for axis in (0, 1))
        z = (dx[:, None, :] + 1j * dy[:, :, None]) * np.exp(-1j * angle[some])[:, None, None].astype(np.complex64)
        z = z.real / long + 1j * (z.imag / short)  # the ellipse as the unit circle
        waves = (kind.waviness * _random_directions(rng, 2, len(some))).astype(np.complex64)
        spot = (0.35 * _random_directions(rng, 1, len(some))[0]).astype(np.complex64)
        nucleolus = kind.nucleolus * np.clip(1 - 14 * np.abs(z - spot), 0, 1) if half > 8 else 0
        rho = np.abs(z) + np.float32(1e-6)
        z /= rho
        rho /= 1 + (z * z * (waves[0] + z * waves[1])).real  # 1 on the wavy outline
        rim = 0.75 + 0.3 * rho * rho
        density = np.clip((1 - rho) * short + 0.5, 0, 1) * _per_square(darkness[some]) * (rim + nucleolus)
        rows, columns = corner[:, 1, None] + offset, corner[:, 0, None] + offset
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        inside &= density > 0
        flat = (rows[:, :, None] * width + columns[:, None, :])[inside]
        np.maximum.at(canvas.reshape(-1), flat, density[inside])


def jittered_grid(rng: np.random.Generator, width: float, height: float, spacing: float, jitter: float) -> np.ndarray:
    """(n, 2) x and y of a shaken hexagonal grid that reaches one spacing beyond the field."""
    rows, columns = np.mgrid[-1 : height / spacing / 0.87 + 1, -1 : width / spacing + 1]
    points = np.stack([columns + 0.5 * (rows % 2), 0.87 * rows], axis=-1).reshape(-1, 2)
    return spacing * (points + rng.random(2) + rng.normal(0, jitter, points.shape))


def _random_directions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """(*shape, 1, 1) complex numbers of length one."""
    return np.exp(2j * np.pi * rng.random((*shape, 1, 1)))


def _per_square(values: np.ndarray) -> np.ndarray:
    """(n,) -> (n, 1, 1) float32: one value for each square of pixels."""
    return values.astype(np.float32)[:, None, None]
