"""Rows -> batches. Order, views and stains are functions of (seed, epoch, row)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .. import config

if TYPE_CHECKING:
    import tensorflow as tf

# A view is a number of 0...7: bit 0 mirrors left-right, bit 1 up-down, bit 2 swaps rows and columns.
FLIPS, TURNS, ALL_VIEWS = (0, 1, 2, 3), (0, 3, 5, 6), tuple(range(8))


class TrainingRows:
    """What a phase trains on: rows of a source array with their targets.

    source: (m, ...) array or memory map; index: (n,) rows of it; targets: (n, n_classes) one-hot; weights: (n,) of
    the loss; views: those a row may be shown in; augment: spreads of what changes pixels (its flips and turns are
    `views`), or None to change nothing.
    """

    def __init__(self, source, index, targets, weights=None, views=(0,), augment=None):
        self.source, self.index = source, np.asarray(index, dtype=np.int64)
        self.targets = np.asarray(targets, dtype=np.float32)
        self.weights = np.ones(len(index), np.float32) if weights is None else np.asarray(weights, dtype=np.float32)
        self.views, self.augment = np.asarray(views), augment or config.Augment()

    def __len__(self) -> int:
        return len(self.index)

    def fill_up(self, multiple: int) -> TrainingRows:
        """As many rows as divide by `multiple`: the first ones again with weight 0, and the others weigh the more."""
        n, n_all = len(self), len(self) + -len(self) % multiple
        at = np.arange(n_all) % n
        weights = self.weights[at] * (np.arange(n_all) < n) * np.float32(n_all / n)
        return TrainingRows(self.source, self.index[at], self.targets[at], weights, self.views, self.augment)


def allowed_views(augment: config.Augment) -> tuple[int, ...]:
    """Views that the settings allow."""
    if augment.flips and augment.turns:
        return ALL_VIEWS
    return FLIPS if augment.flips else TURNS if augment.turns else (0,)


def count_batches(n_rows: int, batch_size: int) -> int:
    """Batches of an epoch; the last one may be smaller."""
    return math.ceil(n_rows / batch_size)


def plan_batches(rows: TrainingRows, batch_size: int, seed: int) -> Callable[[int], tuple[np.ndarray, ...]]:
    """A function of the step, counted from epoch 0 -> its inputs in their views, targets, weights and stain draws."""
    n, n_steps, spread = len(rows), count_batches(len(rows), batch_size), rows.augment.stain

    @lru_cache(maxsize=2)  # prefetch asks for the next epoch before the last batches of this one
    def plan(epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.random.default_rng((seed, epoch)).permutation(n)  # resuming at epoch 7 needs no earlier epoch
        views = rows.views[np.random.default_rng((seed, epoch, 1)).integers(len(rows.views), size=n)]
        draws = np.random.default_rng((seed, epoch, 2)).uniform(-spread, spread, (n, 4 if spread else 0))
        return order, views, draws.astype(np.float32)  # as `stain_jitter.jitter_stains` takes them

    def batch(step: int) -> tuple[np.ndarray, ...]:
        epoch, at = divmod(int(step), n_steps)
        order, views, draws = plan(epoch)
        chosen = order[at * batch_size : (at + 1) * batch_size]
        inputs = read_rows(rows.source, rows.index[chosen], views[chosen])
        return inputs, rows.targets[chosen], rows.weights[chosen], draws[chosen]

    return batch


def training_batches(rows: TrainingRows, batch_size: int, seed: int, first_epoch: int, epochs: int) -> tf.data.Dataset:
    """Batches (inputs, targets, weights) of epochs first_epoch ... epochs - 1 in one stream.

    inputs: pixels (b, h, w, 3) uint8 in [0, 255], turned and augmented; or features (b, d) float32.
    targets: (b, n_classes) float32 one-hot. weights: (b,) float32 above 0.
    """
    from . import stain_jitter

    def augment(inputs: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, draws: tf.Tensor):
        is_augmented = rows.source.ndim == 4 and draws.shape[1]
        inputs = stain_jitter.to_levels(stain_jitter.jitter_stains(inputs, draws)) if is_augmented else inputs
        return inputs, targets, weights

    n_steps = count_batches(len(rows), batch_size)
    batch = plan_batches(rows, batch_size, seed)
    return _build_dataset(batch, range(first_epoch * n_steps, epochs * n_steps), augment)


def validation_batches(rows: TrainingRows, batch_size: int) -> tf.data.Dataset:
    """Batches (inputs, targets, weights) of all rows in order, in view 0 and not augmented."""

    def batch(step: int) -> tuple[np.ndarray, ...]:
        chosen = slice(int(step) * batch_size, (int(step) + 1) * batch_size)
        return rows.source[rows.index[chosen]], rows.targets[chosen], rows.weights[chosen]

    return _build_dataset(batch, range(count_batches(len(rows), batch_size)))


def read_rows(source: np.ndarray, index: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Rows of features as they are; (m, h, w, 3) pixels, of any range and dtype, each in its own view (n,) of 0...7.

    Pixels are moved and never changed. On a field that is not square a quarter turn keeps the scale: its middle is kept
    and the sides are mirrored.
    """
    if source.ndim != 4 or not views.any():
        return source[index]
    height, width = source.shape[1:3]
    short, turned = min(height, width), np.empty((len(index), *source.shape[1:]), source.dtype)

    def mirrored(wanted: int) -> np.ndarray:
        """(wanted,) positions in 0...short - 1, the middle in order and mirrored outwards as often as it takes."""
        at = (np.arange(wanted) - (wanted - short) // 2) % (2 * short)
        return np.where(at < short, at, 2 * short - 1 - at)

    # (w, h, 3) -> (h, w, 3): crop what is too long and mirror what is too short, both about the middle.
    down = max(width - height, 0) // 2 + mirrored(height)[:, None]
    across = max(height - width, 0) // 2 + mirrored(width)
    for row, view, out in zip(index, views, turned, strict=True):
        image = source[row]
        image = image.transpose(1, 0, 2)[down, across] if view & 4 else image
        out[...] = image[:: -1 if view & 2 else 1, :: -1 if view & 1 else 1]
    return turned


def _build_dataset(batch: Callable, steps: range, change: Callable | None = None) -> tf.data.Dataset:
    """What `batch` returns for each step, read ahead of the network; `change` is an op on its tensors."""
    import tensorflow as tf

    sample = batch(steps[0])

    def fetch(step: tf.Tensor):
        tensors = tf.numpy_function(batch, [step], [one.dtype for one in sample], stateful=False)
        for tensor, one in zip(tensors, sample, strict=True):
            tensor.set_shape((None, *one.shape[1:]))
        return change(*tensors) if change else tuple(tensors)

    numbers = tf.data.Dataset.range(steps.start, steps.stop)
    return numbers.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
