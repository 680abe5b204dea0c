"""Rows -> batches: the only file that builds a Dataset. Order, views and sampling: functions of (seed, epoch, row)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import tensorflow as tf

from .. import config
from . import augmentation

FLIPS, TURNS, ALL_VIEWS = (0, 1, 2, 3), (0, 3, 5, 6), tuple(range(8))


class TrainingRows:
    """What a phase trains on: rows of a source array with their targets.

    source: (m, ...) array or memory map; index: (n,) rows of it; targets: (n, n_classes) one-hot; weights: (n,) of
    the loss; chances: (n,) of being drawn, or None to see every row once an epoch; views: those a row may be shown in;
    augment: spreads of what changes pixels (its flips and turns are `views`), or None to change nothing.
    """

    def __init__(self, source, index, targets, weights=None, chances=None, views=(0,), augment=None):
        self.source, self.index = source, np.asarray(index, dtype=np.int64)
        self.targets = np.asarray(targets, dtype=np.float32)
        self.weights = np.ones(len(index), np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
        self.chances, self.views, self.augment = chances, np.asarray(views), augment or config.Augment()

    def __len__(self) -> int:
        return len(self.index)


def allowed_views(augment: config.Augment) -> tuple[int, ...]:
    """Views that the settings allow; bit 0 mirrors left-right, bit 1 up-down, bit 2 swaps rows and columns."""
    if augment.flips and augment.turns:
        return ALL_VIEWS
    return FLIPS if augment.flips else TURNS if augment.turns else (0,)


def epoch_order(n: int, seed: int, epoch: int, chances: np.ndarray | None = None) -> np.ndarray:
    """(n,) row order of one epoch; resuming at epoch 7 replays nothing. With chances, rows repeat."""
    generator = np.random.default_rng((seed, epoch))
    return generator.permutation(n) if chances is None else generator.choice(n, size=n, p=chances)


def epoch_views(n: int, seed: int, epoch: int, views: np.ndarray) -> np.ndarray:
    """(n,) view of each row in one epoch."""
    return views[np.random.default_rng((seed, epoch, 1)).integers(len(views), size=n)]


def steps_per_epoch(rows: TrainingRows, batch_size: int) -> int:
    """Batches an epoch; the last may be smaller."""
    return -(-len(rows) // batch_size)


def sampling_probabilities(labels: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """(n,) chances under which every class, and within it every case, is drawn equally often. Sums to 1."""
    chances = np.zeros(len(labels))
    for label in np.unique(labels):
        of_label = labels == label
        for case in np.unique(cases[of_label]):
            chosen = of_label & (cases == case)
            chances[chosen] = 1 / (len(np.unique(cases[of_label])) * chosen.sum())
    return chances / chances.sum()


def class_weights(labels: np.ndarray) -> np.ndarray:
    """(n,) loss weights of mean 1 under which every class counts equally."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return len(labels) / (len(counts) * counts[inverse])


def training_batches(rows: TrainingRows, batch_size: int, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
    """Batches (inputs, targets, weights) of epochs first_epoch ... epochs - 1 in one stream.

    Inputs keep the source's dtype. Pixels (4-D sources) are turned, then augmented here; of features (m, views, d)
    the view is picked and nothing else is done.
    """
    n_steps = steps_per_epoch(rows, batch_size)

    @lru_cache(maxsize=2)  # prefetch looks over the edge of an epoch
    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = epoch_order(len(rows), seed, epoch, rows.chances)
        views = epoch_views(len(rows), seed, epoch, rows.views)
        return order, views, augmentation.draw_augmentations(len(rows), seed, epoch, rows.augment)

    def batch(step: np.int64):
        epoch, at = divmod(int(step), n_steps)
        order, views, draws = plan(epoch)
        chosen = order[at * batch_size : (at + 1) * batch_size]
        inputs = _fetched(rows.source, rows.index[chosen], views[chosen])
        return (*inputs, rows.targets[chosen], rows.weights[chosen], draws[chosen])

    steps = tf.data.Dataset.range(first_epoch * n_steps, epochs * n_steps)
    shapes = [(None, rows.targets.shape[1]), (None,), (None, augmentation.N_DRAWS)]
    return _batches(steps, batch, rows.source, shapes, rows.augment)


def ordered_batches(source: np.ndarray, index: np.ndarray, batch_size: int, view: int = 0) -> tf.data.Dataset:
    """Batches of inputs alone, in the order of `index`, all in one view; for extraction and prediction."""

    def batch(step: np.int64):
        chosen = index[int(step) * batch_size : (int(step) + 1) * batch_size]
        return _fetched(source, chosen, np.full(len(chosen), view))

    steps = tf.data.Dataset.range(-(-len(index) // batch_size))
    return _batches(steps, batch, source, [])


def validation_batches(rows: TrainingRows, batch_size: int) -> tf.data.Dataset:
    """Batches (inputs, targets) of all rows in order, unturned."""
    targets = tf.data.Dataset.from_tensor_slices(rows.targets).batch(batch_size)
    return tf.data.Dataset.zip((ordered_batches(rows.source, rows.index, batch_size), targets))


def apply_views(images: tf.Tensor, views: tf.Tensor) -> tf.Tensor:
    """(n, h, w, 3), (n,) of 0...7 -> the same shape and dtype, each image in its own view; exact.

    On a field that is not square a quarter turn keeps the scale: its middle is kept and the sides are mirrored.
    """
    height, width = augmentation.image_size(images)
    changes = {
        4: lambda images: _same_size(tf.transpose(images, (0, 2, 1, 3)), height, width),
        1: lambda images: tf.reverse(images, [2]),
        2: lambda images: tf.reverse(images, [1]),
    }
    for bit, change in changes.items():
        images = _changed(images, tf.bitwise.bitwise_and(views, bit) > 0, change)
    return images


def _changed(images: tf.Tensor, flags: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """The images with those changed whose flag is set; free where none is."""

    def some() -> tf.Tensor:
        # Select takes whole images; tf.where spreads the flags over their pixels, at three times the cost of a flip.
        return tf.raw_ops.Select(condition=flags, x=change(images), y=images)

    return tf.cond(tf.reduce_any(flags), some, lambda: images)


def _same_size(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Crop what is too long and mirror what is too short, both about the middle."""
    h, w = augmentation.image_size(images)
    top, left = max(h - height, 0) // 2, max(w - width, 0) // 2
    images = images[:, top : top + height, left : left + width]
    rows, columns = (
        augmentation.mirrored_index(min(h, height), height),
        augmentation.mirrored_index(min(w, width), width),
    )
    return tf.gather(tf.gather(images, rows, axis=1), columns, axis=2)


def _fetched(source: np.ndarray, chosen: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Batch of the source's rows and the views still to be made; stored views (m, views, d) are picked at once."""
    if source.ndim == 3:
        return source[chosen, views], np.zeros_like(views)
    return source[chosen], views


def _batches(
    steps: tf.data.Dataset, batch, source: np.ndarray, more_shapes: list, augment: config.Augment | None = None
) -> tf.data.Dataset:
    """What `batch` gives for each step: inputs, their views, then float32 of `more_shapes`; draws last for augment."""
    shape = (None, *(source.shape[1:] if source.ndim != 3 else source.shape[2:]))
    dtypes = [tf.as_dtype(source.dtype), tf.int64] + [tf.float32] * len(more_shapes)

    def fetch(step):
        tensors = tf.numpy_function(batch, [step], dtypes, stateful=False)
        for tensor, known in zip(tensors, [shape, (None,), *more_shapes], strict=True):
            tensor.set_shape(known)
        inputs, views, *rest = tensors
        inputs = apply_views(inputs, views) if len(shape) == 4 else inputs
        if augment:
            *rest, draws = rest
            inputs = augmentation.augment_images(inputs, draws, augment) if len(shape) == 4 else inputs
        return (inputs, *rest) if rest else inputs

    return steps.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
