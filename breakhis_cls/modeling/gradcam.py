"""Grad-CAM heat maps (Selvaraju et al. 2017) and the randomisation check of whether to believe them.

Gradients are of a class's log-odds against all others, computed from the last layer's weights: behind a softmax that
is close to 0 or 1 they would vanish. After global average pooling the gradient is the same in every cell, and the head
is linear, so it is written down here and needs no tape.
"""

import keras
import numpy as np
import pandas as pd
from keras import layers, tree
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from .. import config
from ..parallel import show_progress
from .network import get_head_weights

BATCH_SIZE = 16
SHARES = (0.0, 0.1, 0.5, 1.0)  # of the trunk's layers that are randomised with the head, from the top
N_DRAWS = 3  # of random weights: by chance, one draw may point along the trained direction or against it


def class_evidence(model: keras.Model, images: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Grad-CAM before its negative parts are cut: (n, rows, columns) float32 on the grid of the finest block.

    images: (n, height_px, width_px, 3) uint8; class_index: (n,) of the class that the evidence is for. Where several
    blocks feed the head their maps are added. Unit: log-odds. With a linear head the mean over an image's cells is what
    the image adds to its class's log-odds; below 0 is evidence against it.
    """
    # --- the blocks, and the features that the head gets: their means over cells ---
    backbone, head = model.get_layer("backbone"), get_head_weights(model.get_layer("head"))
    pixels = keras.Input((None, None, 3))
    cut = keras.Model(pixels, backbone.get_layer("trunk")(backbone.get_layer("preprocessing")(pixels)))
    # Called and not `predict`, which would trace each of the networks that a check or a page asks about.
    batches = [cut(images[at : at + BATCH_SIZE], training=False) for at in range(0, len(images), BATCH_SIZE)]
    by_block = zip(*map(tree.flatten, batches), strict=True)
    blocks = [np.concatenate([keras.ops.convert_to_numpy(one) for one in block]) for block in by_block]
    pooled = [block.astype(np.float64).mean(axis=(1, 2)) for block in blocks]
    norms = {}  # ConvNeXt normalises its last pooled block: its place -> gamma, x, the deviation that x was divided by
    for norm in (layer for layer in backbone.layers if isinstance(layer, layers.LayerNormalization)):
        gamma, beta = norm.get_weights()
        at = [block.shape[-1] for block in blocks].index(len(gamma))
        deviation = np.sqrt(pooled[at].var(axis=1, keepdims=True) + norm.epsilon)
        x = (pooled[at] - pooled[at].mean(axis=1, keepdims=True)) / deviation
        norms[at], pooled[at] = (gamma, x, deviation), gamma * x + beta

    # --- the derivative of the log-odds by each feature, back through the head and the normalisation ---
    scale = np.maximum(np.sqrt(head.variance), 1e-7)  # as Keras standardises
    logits = (np.concatenate(pooled, axis=1) - head.mean) / scale @ head.kernel + head.bias
    # log(p / (1 - p)) is the logit of the class minus the log-sum-exp of the others.
    is_class = np.arange(logits.shape[1]) == class_index[:, None]
    by_logit = np.where(is_class, 1.0, -softmax(np.where(is_class, -np.inf, logits), axis=1))
    gradients = np.split(by_logit @ head.kernel.T / scale, np.cumsum([one.shape[1] for one in pooled])[:-1], axis=1)
    for at, (gamma, x, deviation) in norms.items():
        passed = gradients[at] * gamma
        along = np.mean(passed * x, axis=1, keepdims=True)
        gradients[at] = (passed - passed.mean(axis=1, keepdims=True) - along * x) / deviation

    # --- equations 1 and 2 of the paper, times the number of cells, so that the mean over cells is in log-odds ---
    finest = max(block.shape[1:3] for block in blocks)
    evidence = np.zeros((len(images), *finest))
    for block, gradient in zip(blocks, gradients, strict=True):
        down, across = (_interpolation_weights(n, fine, fine) for n, fine in zip(block.shape[1:3], finest, strict=True))
        evidence += down @ np.einsum("nhwc,nc->nhw", block, gradient) @ across.T
    return evidence.astype(np.float32)


def upsample_heat(evidence: np.ndarray, size_px: tuple[int, int], image: config.Image | None = None) -> np.ndarray:
    """Heat map: one image's evidence (rows, columns) -> (height, width) float32 in [0, 1].

    Evidence against the class is cut, the rest enlarged bilinearly and divided by its own maximum: heat compares
    places of one image, never two images. All 0 where there is no evidence for the class. size_px: height, width of
    the field. image: how it was fitted to the network; margins of `pad` are cut off, what `crop` left out is 0.
    """
    image = image or config.Image()
    # Pixels of the field for one pixel of the network's image, down and across.
    scales = size_px[0] / image.height_px, size_px[1] / image.width_px
    # The network saw less than the field after crop, more after pad, both about its middle.
    scale_y, scale_x = {"stretch": scales, "crop": [min(scales)] * 2, "pad": [max(scales)] * 2}[image.fit]
    rows = _interpolation_weights(evidence.shape[0], size_px[0], scale_y * image.height_px)
    columns = _interpolation_weights(evidence.shape[1], size_px[1], scale_x * image.width_px)
    enlarged = (rows @ np.maximum(evidence, 0) @ columns.T).astype(np.float32)
    return enlarged / (enlarged.max() or 1)


def _interpolation_weights(n_cells: int, field_px: int, seen_px: float) -> np.ndarray:
    """(field_px, n_cells) weights of each cell at each pixel, by linear interpolation; 0 where nothing was seen."""
    at = (np.arange(field_px) + 0.5 - field_px / 2) / seen_px + 0.5  # 0 to 1 across what was seen
    offset = np.clip(at * n_cells - 0.5, 0, n_cells - 1)[:, None] - np.arange(n_cells)
    return np.clip(1 - np.abs(offset), 0, 1) * ((at >= 0) & (at <= 1))[:, None]


def randomization_check(model: keras.Model, images: np.ndarray, class_index: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Columns share, draw, image, rho: rank correlation of the evidence with that of `randomize_weights` copies.

    Maps that depend on what was learned lose their correlation: the sanity check of Adebayo et al. 2018.
    """
    trained, rows = class_evidence(model, images, class_index), []
    checks = [(share, draw) for share in SHARES for draw in range(N_DRAWS)]
    for share, draw in show_progress(checks, "randomisation check", len(checks)):
        randomized = class_evidence(randomize_weights(model, share, seed + draw), images, class_index)
        pairs = enumerate(zip(trained, randomized, strict=True))
        rows += [(share, draw, at, rank_correlation(*pair)) for at, pair in pairs]
    return pd.DataFrame(rows, columns=["share", "draw", "image", "rho"])


def randomize_weights(model: keras.Model, share: float, seed: int) -> keras.Model:
    """A copy whose head, and the last `share` in [0, 1] of the trunk's layers, have random weights.

    Kernels are He's normal draws of `seed`; BatchNorm is the identity.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())  # clone_model draws new ones
    head = copy.get_layer("head")
    head.get_layer("standardise").finalize_state()  # else it keeps the mean and variance it was built with
    rng = np.random.default_rng((seed, round(1000 * share)))
    trunk = [layer for layer in copy.get_layer("backbone").get_layer("trunk").layers if layer.weights]
    for layer in [head.layers[-1], *trunk[len(trunk) - round(share * len(trunk)) :]]:
        for weight in layer.weights:
            if len(weight.shape) > 1:
                weight.assign(rng.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape))
            else:
                weight.assign(np.full(weight.shape, float(weight.name in ("gamma", "moving_variance"))))
    return copy


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation over the cells of two maps, in [-1, 1]; 0 where one is constant."""
    # SciPy warns and answers NaN for a constant map, such as one of a head whose units are all dead.
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.spearmanr(one, other, axis=None).statistic)


def localization_auc(heat: np.ndarray, mask: np.ndarray) -> float:
    """ROC AUC of the heat (height, width) inside the bool mask: 0.5 is chance; NaN where the mask is empty or full."""
    return float(roc_auc_score(mask.ravel(), heat.ravel())) if mask.any() and not mask.all() else float("nan")
