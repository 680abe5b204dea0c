"""Augmentation of the pixels of training images: their H&E stains. Flips and turns are `batches.read_rows`."""

import numpy as np
import tensorflow as tf

from .. import config
from . import stain_jitter

N_DRAWS = 4  # numbers a row, see jitter_stains


def draw_augmentations(n: int, seed: int, epoch: int, augment: config.Augment) -> np.ndarray:
    """(n, N_DRAWS) float32 of each row in one epoch, within the spread `augment.stain`."""
    rng = np.random.default_rng((seed, epoch, 2))  # the stream 1 is that of the views
    return rng.uniform(-augment.stain, augment.stain, (n, N_DRAWS)).astype(np.float32)


def augment_images(images: tf.Tensor, draws: tf.Tensor, augment: config.Augment) -> tf.Tensor:
    """(n, h, w, 3) uint8, (n, N_DRAWS) float32 -> (n, h, w, 3) uint8; with spread 0 the images themselves."""
    return stain_jitter.to_levels(stain_jitter.jitter_stains(images, draws)) if augment.stain else images
