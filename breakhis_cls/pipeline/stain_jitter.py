"""H&E stains in optical density (OD), and their jitter for training; with spread 0 it is off.

Staining varies between laboratories and days, and here between cases: a model that has seen few cases learns their
colour. The jitter helps most where training cases are few.
"""

import numpy as np
import tensorflow as tf

# Rows: OD of R, G, B of haematoxylin, eosin and a residual (DAB) that completes the basis (Ruifrok & Johnston 2001).
HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_FROM_OD = np.linalg.inv(HED).astype(np.float32)
OFFSET = 0.1  # OD by which a full spread moves a stain's background


def to_optical_density(rgb: tf.Tensor) -> tf.Tensor:
    """(..., 3) in [0, 255], any dtype -> (..., 3) OD >= 0, float32. Beer-Lambert with I0 = 256 and one level added."""
    return -tf.math.log((tf.cast(rgb, tf.float32) + 1) / 256)


def to_levels(rgb: tf.Tensor) -> tf.Tensor:
    """(..., 3) RGB of any range, float32 -> (..., 3) uint8 in [0, 255], rounded and clipped."""
    return tf.cast(tf.clip_by_value(tf.round(rgb), 0, 255), tf.uint8)


def to_stains(density: tf.Tensor) -> tf.Tensor:
    """(..., 3) OD, float32 -> (..., 3) float32 amounts of haematoxylin, eosin and residual; can be below 0."""
    return tf.linalg.matmul(density, tf.constant(_FROM_OD))


def jitter_stains(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """(n, h, w, 3) in [0, 255], any dtype; (n, 4) float32 in (-1, 1) -> (n, h, w, 3) float32 RGB below 256. Amounts of
    H and E times 1 + draw, plus OFFSET times draw; neither rounded nor clipped. Columns of draws: gain of H, gain of E,
    offset of H, offset of E. Zeros change nothing."""
    gain, offset = (tf.pad(part, [[0, 0], [0, 1]]) for part in (draws[:, :2], draws[:, 2:]))  # the residual stays
    n, height, width, _ = tf.unstack(tf.shape(images))
    # By whole lines: TensorFlow takes twice as long to spread three numbers over an image as w times three.
    lines = tf.reshape(to_stains(to_optical_density(images)), (n, height, -1))
    lines = lines * tf.tile(1 + gain, (1, width))[:, None] + tf.tile(OFFSET * offset, (1, width))[:, None]
    amounts = tf.ensure_shape(tf.reshape(lines, tf.shape(images)), images.shape)
    return 256 * tf.exp(-tf.linalg.matmul(amounts, tf.constant(HED))) - 1
