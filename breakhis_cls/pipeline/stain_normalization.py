"""Stain normalisation: every field brought to one haematoxylin, one eosin and one strength (Macenko et al. 2009).

M. Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009. I0, BETA, ALPHA
and the reference are those of Mitko Veta's staining-normalization, which torchstain took over. Limits of the method:
glass that the lamp tints is taken for a pale stain, and in a field of one stain the noise for the other.

Three choices are ours, each by its effect on 151 real fields: tissue is what has OD of BETA over all channels, since
pale eosin hardly takes red; the plane goes through the origin, as in the paper (the published code centres it);
strengths are percentiles of the tissue, so that a field with little of it is not stained too dark.
"""

import numpy as np

I0 = 240  # grey level of empty glass
BETA = 0.15  # length of the OD vector below which a pixel is glass
ALPHA = 1  # per cent of the tissue's pixels beyond each robust extreme
STAINS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])  # rows: OD of R G B of haematoxylin, eosin
STRENGTHS = np.array([1.9705, 1.0308])  # their amounts at the percentile 100 - ALPHA
MIN_TISSUE = 0.01  # share of a field's pixels
MIN_ANGLE = 0.1  # radians between the stains: at least 0.2 in 151 real fields, 0.39 in the reference
N_SAMPLED = 20_000  # pixels of a field, on a regular grid: the estimate then costs a tenth of the whole

_OD = -np.log((np.arange(256) + 1) / I0).astype(np.float32)  # of each grey level; below 0 where brighter than I0


def normalize_stains(rgb: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) RGB -> the same shape and type, in the reference's stains and strengths. A field whose stains
    cannot be estimated is returned unchanged. Light above I0 is glass and stays, so white stays white. What neither
    stain explains is left out, as in the paper. Equal bytes from equal bytes on one machine."""
    step = max(1, round((rgb.shape[0] * rgb.shape[1] / N_SAMPLED) ** 0.5))
    estimate = estimate_stains(rgb[::step, ::step])
    if estimate is None:
        return rgb
    stains, strengths = estimate
    restained = np.linalg.pinv(stains) * (STRENGTHS / strengths) @ STAINS
    density = _OD[rgb]
    density = np.maximum(density, 0) @ restained.astype(np.float32) + np.minimum(density, 0)
    light = I0 * np.exp(-np.maximum(density, _OD[255])) - 1  # at most 255: nothing overflows
    return np.rint(np.maximum(light, 0)).astype(np.uint8)


def estimate_stains(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """uint8 (h, w, 3) -> unit OD (2, 3) of haematoxylin and eosin, and the tissue's 99th percentiles (2,) of them. The
    stains are the extreme directions of the tissue's pixels within the plane that holds most of their OD. None where
    fewer than MIN_TISSUE of the pixels are tissue, where the extremes lie within MIN_ANGLE, or where a stain is fainter
    than BETA."""
    density = np.maximum(_OD[rgb.reshape(-1, 3)], 0).astype(np.float64)
    tissue = density[np.linalg.norm(density, axis=1) >= BETA]
    if len(tissue) < max(2, MIN_TISSUE * len(density)):
        return None
    plane = np.linalg.eigh(tissue.T @ tissue)[1][:, :0:-1]  # the paper's SVD of the OD, by its 3x3 moments
    plane = plane * [np.sign(plane[:, 0].sum()), 1]  # OD is positive: along the first axis no angle then wraps
    along, across = (tissue @ plane).T
    angles = np.percentile(np.arctan2(across, along), [ALPHA, 100 - ALPHA])
    if angles[1] - angles[0] < MIN_ANGLE:
        return None
    stains = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T
    stains = stains[np.argsort(-stains[:, 0])]  # haematoxylin takes more of the red
    strengths = np.percentile(tissue @ np.linalg.pinv(stains), 100 - ALPHA, axis=0)
    return (stains, strengths) if strengths.min() >= BETA else None
