"""Grad-CAM (Selvaraju et al. 2017) on the nested backbone, and whether it can be believed.

The one file of this room that needs a model. Gradients are of a class's log-odds against all others, taken from the
last layer's weights: behind a softmax that is sure of itself they would vanish.
"""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from keras import layers
from rich.console import Console
from rich.progress import track
from scipy import stats

from .. import config

BATCH_SIZE = 16
TOPS = (0.0, 0.1, 0.5, 1.0)  # shares of the trunk's layers that are randomised with the head, from the top
N_DRAWS = 3  # of random weights: one draw may point along the trained direction, or against it, by luck


def class_evidence(model: keras.Model, images: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Grad-CAM before its negative parts are cut: (n, rows, columns) float32 on the grid of the finest block.

    model: as `network.join` makes it; images: (n, height_px, width_px, 3) uint8; class_index: (n,) of the class that
    the evidence is for. Of several blocks that feed the head the maps are added. Unit: log-odds. With a linear head
    the mean over an image's cells is what the image adds to its class's log-odds; below 0 speaks against the class.
    """
    parts = _parted(model)
    batches = [slice(start, start + BATCH_SIZE) for start in range(0, len(images), BATCH_SIZE)]
    shown = track(batches, "heat", console=Console(stderr=True))
    return np.concatenate([_evidence(*parts, images[at], class_index[at]) for at in shown])


def upsample_heat(evidence: np.ndarray, size_px: tuple[int, int], image: config.Image | None = None) -> np.ndarray:
    """One image's evidence (rows, columns) -> (height, width) float32 in [0, 1]; size_px is its field's height, width.

    What speaks against the class is cut, the rest enlarged bilinearly and divided by its own maximum: heat compares
    places of one image, never two images. All 0 where nothing speaks for the class. `image` says how the field was
    fitted to the network: margins of `pad` are cut off, what `crop` never showed is 0.
    """
    height_px, width_px = _seen(size_px, image or config.Image())
    rows = _hats(evidence.shape[0], size_px[0], height_px)
    columns = _hats(evidence.shape[1], size_px[1], width_px)
    enlarged = (rows @ np.maximum(evidence, 0) @ columns.T).astype(np.float32)
    peak = enlarged.max()
    return enlarged / peak if peak > 0 else enlarged


def _seen(size_px: tuple[int, int], image: config.Image) -> tuple[float, float]:
    """Height and width, in the field's pixels, of what the network saw about its middle: less than the field after
    `crop`, more after `pad`."""
    scales = size_px[0] / image.height_px, size_px[1] / image.width_px
    scale = {"stretch": scales, "crop": [min(scales)] * 2, "pad": [max(scales)] * 2}[image.fit]
    return scale[0] * image.height_px, scale[1] * image.width_px


def _hats(n_cells: int, field_px: int, seen_px: float) -> np.ndarray:
    """(field_px, n_cells) weights of each cell at each pixel, by bilinear interpolation; 0 where nothing was seen."""
    at = (np.arange(field_px) + 0.5 - field_px / 2) / seen_px + 0.5  # 0 to 1 across what was seen
    offset = np.clip(at * n_cells - 0.5, 0, n_cells - 1)[:, None] - np.arange(n_cells)
    return np.clip(1 - np.abs(offset), 0, 1) * ((at >= 0) & (at <= 1))[:, None]


def _parted(model: keras.Model) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The model cut where its blocks are pooled: images -> blocks, blocks -> pooled features, and the head."""
    backbone = model.get_layer("backbone")
    blocks = [layer.input for layer in backbone.layers if isinstance(layer, layers.GlobalAveragePooling2D)]
    return keras.Model(backbone.input, blocks), keras.Model(blocks, backbone.output), model.get_layer("head")


def _evidence(seen, pooled, head: keras.Model, images: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    blocks = tf.nest.flatten(seen(images, training=False))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(blocks)
        score = log_odds(head, pooled(blocks, training=False), class_index)
    gradients = tape.gradient(score, blocks)
    finest = max(tuple(block.shape[1:3]) for block in blocks)
    maps = [_weighted(block, slope, finest) for block, slope in zip(blocks, gradients, strict=True)]
    return np.sum(maps, axis=0)


def _weighted(block: tf.Tensor, slope: tf.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Channels weighted by the sum of their gradients over the field, and added (equations 1 and 2, times the number
    of cells, so that the mean over cells is in log-odds)."""
    block, slope = tf.cast(block, tf.float32), tf.cast(slope, tf.float32)
    weights = tf.reduce_sum(slope, axis=(1, 2), keepdims=True)
    return tf.image.resize(tf.reduce_sum(weights * block, axis=-1, keepdims=True), size).numpy()[..., 0]


def log_odds(head: keras.Model, features: tf.Tensor, class_index: np.ndarray) -> tf.Tensor:
    """(n, d) pooled features -> (n,) log(p / (1 - p)) of each row's class, float32, without computing p."""
    for layer in head.layers[:-1]:
        features = layer(features, training=False)
    last = head.layers[-1]
    logits = tf.cast(features, tf.float32) @ last.kernel + last.bias
    is_class = tf.one_hot(class_index, logits.shape[-1], on_value=True, off_value=False)
    others = tf.reduce_logsumexp(tf.where(is_class, -np.inf, logits), axis=1)
    return tf.reduce_sum(tf.where(is_class, logits, 0.0), axis=1) - others


def randomize_weights(model: keras.Model, share: float, seed: int) -> keras.Model:
    """A copy whose head, and the last `share` in [0, 1] of the trunk's layers, never learned anything.

    Kernels are He's normal draws of `seed`; BatchNorm is the identity.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.get_layer("head").get_layer("standardise").finalize_state()  # else it keeps using what it was made with
    rng = np.random.default_rng((seed, round(1000 * share)))
    trunk = [layer for layer in copy.get_layer("backbone").get_layer("trunk").layers if layer.weights]
    for layer in [copy.get_layer("head").layers[-1], *trunk[len(trunk) - round(share * len(trunk)) :]]:
        for weight in layer.weights:
            weight.assign(_unlearned(weight, rng))
    return copy


def _unlearned(weight, rng: np.random.Generator) -> np.ndarray:
    if len(weight.shape) > 1:
        return rng.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape)
    return np.full(weight.shape, float(weight.name in ("gamma", "moving_variance")))


def randomization_check(model: keras.Model, images: np.ndarray, class_index: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Columns share, draw, image, rho: Spearman's correlation of the evidence with that of `randomised` copies.

    Maps that depend on what was learned lose their likeness, whatever the layer that forgot (Adebayo et al. 2018).
    """
    trained, rows = class_evidence(model, images, class_index), []
    checks = [(share, draw) for share in TOPS for draw in range(N_DRAWS)]
    for share, draw in track(checks, "randomising", console=Console(stderr=True)):
        parts = _parted(randomize_weights(model, share, seed + draw))
        forgotten = _evidence(*parts, images, class_index)
        rows += [
            (share, draw, at, rank_correlation(*pair)) for at, pair in enumerate(zip(trained, forgotten, strict=True))
        ]
    return pd.DataFrame(rows, columns=["share", "draw", "image", "rho"])


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation over the cells of two maps, in [-1, 1]; 0 where one is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.spearmanr(one, other, axis=None).statistic)


def localization_auc(heat: np.ndarray, mask: np.ndarray) -> float:
    """How often a pixel inside the mask is hotter than one outside, ties counting half: ROC AUC; chance is 0.5.

    heat: (height, width); mask: bool of the same shape, neither empty nor full (else NaN).
    """
    n_inside, n_outside = int(mask.sum()), int((~mask).sum())
    if not n_inside or not n_outside:
        return float("nan")
    ranks = stats.rankdata(heat, axis=None).ravel()[mask.ravel()]
    return float((ranks.sum() - n_inside * (n_inside + 1) / 2) / (n_inside * n_outside))
