"""Rows -> batches: the only file that builds a Dataset. Order, views and sampling: functions of (seed, epoch, row)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import tensorflow as tf

from .. import config
from . import augmentation

# A view is a number of 0...7: bit 0 mirrors left-right, bit 1 up-down, bit 2 swaps rows and columns.
FLIPS, TURNS, ALL_VIEWS = (0, 1, 2, 3), (0, 3, 5, 6), tuple(range(8))


class TrainingRows:
    """What a phase trains on: rows of a source array with their targets.

    source: (m, ...) array or memory map; index: (n,) rows of it; targets: (n, n_classes) one-hot; weights: (n,) of
    the loss; probabilities: (n,) of being drawn, or None to see every row once an epoch; views: those a row may be
    shown in; augment: spreads of what changes pixels (its flips and turns are `views`), or None to change nothing.
    """

    def __init__(self, source, index, targets, weights=None, probabilities=None, views=(0,), augment=None):
        self.source, self.index = source, np.asarray(index, dtype=np.int64)
        self.targets = np.asarray(targets, dtype=np.float32)
        self.weights = np.ones(len(index), np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
        self.probabilities, self.views, self.augment = probabilities, np.asarray(views), augment or config.Augment()

    def __len__(self) -> int:
        return len(self.index)


def allowed_views(augment: config.Augment) -> tuple[int, ...]:
    """Views that the settings allow."""
    if augment.flips and augment.turns:
        return ALL_VIEWS
    return FLIPS if augment.flips else TURNS if augment.turns else (0,)


def epoch_order(n: int, seed: int, epoch: int, probabilities: np.ndarray | None = None) -> np.ndarray:
    """(n,) row order of one epoch; with probabilities, rows repeat. Resuming at epoch 7 needs no earlier epoch."""
    generator = np.random.default_rng((seed, epoch))
    return generator.permutation(n) if probabilities is None else generator.choice(n, size=n, p=probabilities)


def epoch_views(n: int, seed: int, epoch: int, views: np.ndarray) -> np.ndarray:
    """(n,) view of each row in one epoch."""
    return views[np.random.default_rng((seed, epoch, 1)).integers(len(views), size=n)]


def count_batches(n_rows: int, batch_size: int, accumulate: int = 1) -> int:
    """Batches of an epoch: for gradients that are accumulated whole groups, so that the last one makes a step too."""
    n_groups = math.ceil(n_rows / batch_size / accumulate)
    return accumulate * max(1, min(n_groups, n_rows // accumulate))  # a batch has one row at least


def training_batches(
    rows: TrainingRows, batch_size: int, seed: int, first_epoch: int, epochs: int, accumulate: int = 1
) -> tf.data.Dataset:
    """Batches (inputs, targets, weights) of epochs first_epoch ... epochs - 1 in one stream.

    inputs: pixels (b, h, w, 3) uint8 in [0, 255], turned and augmented; or features (b, d) float32.
    targets: (b, n_classes) float32 one-hot. weights: (b,) float32 above 0.
    """
    n_steps = count_batches(len(rows), batch_size, accumulate)
    # The last batch may be smaller; batches of a group are of one size, give or take one image, to weigh the same.
    ends = [round(at * len(rows) / n_steps) if accumulate > 1 else at * batch_size for at in range(n_steps + 1)]

    @lru_cache(maxsize=2)  # prefetch asks for the next epoch before the last batches of this one
    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = epoch_order(len(rows), seed, epoch, rows.probabilities)
        views = epoch_views(len(rows), seed, epoch, rows.views)
        return order, views, augmentation.draw_augmentations(len(rows), seed, epoch, rows.augment)

    def batch(step: np.int64):
        epoch, at = divmod(int(step), n_steps)
        order, views, draws = plan(epoch)
        chosen = order[ends[at] : ends[at + 1]]
        return rows.index[chosen], views[chosen], rows.targets[chosen], rows.weights[chosen], draws[chosen]

    steps = tf.data.Dataset.range(first_epoch * n_steps, epochs * n_steps)
    shapes = [(None, rows.targets.shape[1]), (None,), (None, augmentation.N_DRAWS)]
    return _build_dataset(steps, batch, rows.source, shapes, rows.augment)


def ordered_batches(source: np.ndarray, index: np.ndarray, batch_size: int, view: int = 0) -> tf.data.Dataset:
    """Batches of inputs alone, (b, h, w, 3) or (b, d), in the order of `index`, all in one view; for prediction."""

    def batch(step: np.int64):
        chosen = index[int(step) * batch_size : (int(step) + 1) * batch_size]
        return chosen, np.full(len(chosen), view)

    return _build_dataset(tf.data.Dataset.range(math.ceil(len(index) / batch_size)), batch, source)


def validation_batches(rows: TrainingRows, batch_size: int) -> tf.data.Dataset:
    """Batches (inputs, targets) of all rows in order, in view 0, not augmented."""
    targets = tf.data.Dataset.from_tensor_slices(rows.targets).batch(batch_size)
    return tf.data.Dataset.zip((ordered_batches(rows.source, rows.index, batch_size), targets))


def apply_views(images: tf.Tensor, views: tf.Tensor) -> tf.Tensor:
    """(n, h, w, 3) of any range and dtype, (n,) int64 in 0...7 -> the same shape, range and dtype.

    Each image in its own view; pixels are moved and never changed. On a field that is not square a quarter turn keeps
    the scale: its middle is kept and the sides are mirrored.
    """
    height, width = np.array(images.shape[1:3], int).tolist()  # static: the same for every batch

    def swap_rows_and_columns(images: tf.Tensor) -> tf.Tensor:
        # (n, w, h, 3) -> (n, h, w, 3): crop what is too long and mirror what is too short, both about the middle.
        images = tf.transpose(images, (0, 2, 1, 3))
        top, left = max(width - height, 0) // 2, max(height - width, 0) // 2
        images = images[:, top : top + height, left : left + width]
        images = tf.gather(images, augmentation.mirrored_index(min(height, width), height), axis=1)
        return tf.gather(images, augmentation.mirrored_index(min(height, width), width), axis=2)

    images = _change_where(tf.bitwise.bitwise_and(views, 4) > 0, images, swap_rows_and_columns)
    images = _change_where(tf.bitwise.bitwise_and(views, 1) > 0, images, lambda images: tf.reverse(images, [2]))
    return _change_where(tf.bitwise.bitwise_and(views, 2) > 0, images, lambda images: tf.reverse(images, [1]))


def _change_where(flags: tf.Tensor, images: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """(n,) bool, (n, h, w, 3) of any range and dtype -> the same, with those images changed whose flag is set."""

    def change_some() -> tf.Tensor:
        # Select takes whole images; tf.where spreads the flags over their pixels, at three times the cost of a flip.
        return tf.raw_ops.Select(condition=flags, x=change(images), y=images)

    return tf.cond(tf.reduce_any(flags), change_some, lambda: images)  # costs nothing where no flag is set


def _build_dataset(
    steps: tf.data.Dataset, batch: Callable, source: np.ndarray, more_shapes=(), augment: config.Augment | None = None
) -> tf.data.Dataset:
    """Inputs of the rows and views that `batch` returns for each step, and its float32 tensors of `more_shapes`.

    With augment, the last of them are the draws. Pixels are turned.
    """
    is_pixels = source.ndim == 4

    def read(step: np.int64):
        index, *rest = batch(step)
        return source[index], *rest

    def fetch(step: tf.Tensor):
        dtypes = [source.dtype, tf.int64] + [tf.float32] * len(more_shapes)
        inputs, views, *rest = tf.numpy_function(read, [step], dtypes, stateful=False)
        inputs.set_shape((None, *source.shape[1:]))
        for tensor, shape in zip([views, *rest], [(None,), *more_shapes], strict=True):
            tensor.set_shape(shape)
        inputs = apply_views(inputs, views) if is_pixels else inputs
        if augment:
            *rest, draws = rest
            inputs = augmentation.augment_images(inputs, draws, augment) if is_pixels else inputs
        return (inputs, *rest) if rest else inputs

    return steps.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
