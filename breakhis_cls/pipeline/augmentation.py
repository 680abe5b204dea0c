"""Augmentation of training images: zoom, H&E stains, contrast and brightness, as microscopes and laboratories differ.

The order is that of a microscope: first the field, then its stains, then the camera. Images are float32 from the first
op that is on to the last, and are rounded and clipped once. Flips and turns are `batches.apply_views`.
"""

import math

import numpy as np
import tensorflow as tf

from .. import config
from . import stain_jitter

N_DRAWS = 7  # numbers a row: four of the stains, then one each of zoom, contrast and brightness


def draw_augmentations(n: int, seed: int, epoch: int, augment: config.Augment) -> np.ndarray:
    """(n, N_DRAWS) float32 of each row in one epoch, each within its setting's spread; zeros where that is 0."""
    spreads = (augment.stain, augment.scale, augment.contrast, augment.brightness)
    # A stream for each setting: switching one on does not move the others' draws. Key 1 is that of the views.
    columns = [
        np.random.default_rng((seed, epoch, key)).uniform(-spread, spread, (n, width))
        for key, spread, width in zip((2, 3, 4, 5), spreads, (4, 1, 1, 1), strict=True)
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def augment_images(images: tf.Tensor, draws: tf.Tensor, augment: config.Augment) -> tf.Tensor:
    """(n, h, w, 3) uint8, (n, N_DRAWS) float32 -> (n, h, w, 3) uint8. With all spreads 0 the images themselves."""
    stains, scale, contrast, brightness = tf.split(draws, (4, 1, 1, 1), axis=1)
    changed = zoom(images, scale[:, 0], augment.scale) if augment.scale else images
    if augment.stain:
        changed = stain_jitter.jitter_stains(changed, stains)
    if augment.contrast or augment.brightness:
        changed = adjust_contrast_brightness(changed, contrast, brightness)
    return images if changed is images else stain_jitter.to_levels(changed)


def zoom(images: tf.Tensor, draws: tf.Tensor, spread: float) -> tf.Tensor:
    """(n, h, w, 3) in [0, 255], any dtype; (n,) float32 in (-spread, spread), spread < 1 -> the same shape, float32.
    Shows a field 1 + draw times as wide and as high, about the middle: a draw above 0 makes things smaller. Bilinear;
    beyond its edge the field is mirrored, the edge pixel too. Zeros change nothing after rounding."""
    height, width = np.array(images.shape[1:3], int).tolist()  # static: the same for every batch
    rows, columns = (side + 2 * (math.ceil(spread * (side - 1) / 2) + 1) for side in (height, width))
    images = tf.gather(images, mirrored_index(height, rows), axis=1)
    images = tf.gather(images, mirrored_index(width, columns), axis=2)
    # crop_and_resize counts from 0, the middle of the first pixel, to 1, the middle of the last.
    half = (1 + draws)[:, None] * [(height - 1) / 2 / (rows - 1), (width - 1) / 2 / (columns - 1)]
    boxes = tf.concat([0.5 - half, 0.5 + half], axis=1)
    return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), (height, width))


def adjust_contrast_brightness(images: tf.Tensor, contrast: tf.Tensor, brightness: tf.Tensor) -> tf.Tensor:
    """(n, h, w, 3) RGB in [0, 255], any dtype; (n, 1), (n, 1) float32 in (-1, 1) -> the same shape, float32. Stretches
    each channel about its mean over the image by 1 + contrast, then adds 255 * brightness; neither rounded nor clipped.
    Zeros change nothing."""
    images = tf.cast(images, tf.float32)
    mean = tf.reduce_mean(images, axis=(1, 2))
    return stain_jitter.scale_channels(images, tf.tile(1 + contrast, (1, 3)), 255 * brightness - contrast * mean)


def mirrored_index(length: int, wanted: int) -> np.ndarray:
    """(wanted,) positions in 0...length - 1, the middle in order and mirrored outwards as often as it takes."""
    at = (np.arange(wanted) - (wanted - length) // 2) % (2 * length)
    return np.where(at < length, at, 2 * length - 1 - at)
