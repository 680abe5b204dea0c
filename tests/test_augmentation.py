"""Augmentation: as in earlier versions; repeatable; of training pixels alone."""

import numpy as np
import pytest
import tensorflow as tf

from breakhis_cls.config import Augment
from breakhis_cls.pipeline import batches, stain_jitter

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 14, 21, 3), dtype=np.uint8)
ALL = Augment(stain=0.2)


def test_draws_are_a_function_of_seed_and_epoch():
    given = batches.TrainingRows(IMAGES, np.arange(6).repeat(9), np.eye(6).repeat(9, 0), augment=ALL)
    one, same, *others = (
        batches.plan_batches(given, 54, seed)(epoch)[3] for seed, epoch in ((3, 1), (3, 1), (3, 2), (4, 1))
    )
    np.testing.assert_array_equal(one, same)
    for other in others:
        assert (one != other).all()
    assert 0.15 < np.abs(one).max() < 0.2


def rows(**settings) -> batches.TrainingRows:
    """Of pixels, shown in all views."""
    return batches.TrainingRows(IMAGES, np.arange(6), np.eye(6), views=batches.ALL_VIEWS, augment=Augment(**settings))


def batch_bytes(rows: batches.TrainingRows, first_epoch: int = 0, seed: int = 5) -> list[bytes]:
    return [inputs.numpy().tobytes() for inputs, _, _ in batches.training_batches(rows, 4, seed, first_epoch, 3)]


def test_two_passes_and_a_later_start_give_equal_bytes():
    given = rows(**ALL.model_dump())
    whole = batch_bytes(given)
    assert batch_bytes(given) == whole and len(set(whole)) == 6
    assert batch_bytes(given, 1) == whole[2:] and batch_bytes(given, 2) == whole[4:]
    assert batch_bytes(given, seed=6) != whole


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_flips_turns_and_stain_are_those_of_earlier_versions(spread):
    """Written out as the first version computed them, so that its runs can be repeated."""
    expected = []
    for epoch in range(3):
        order = np.random.default_rng((5, epoch)).permutation(6)
        views = np.array(batches.ALL_VIEWS)[np.random.default_rng((5, epoch, 1)).integers(8, size=6)]
        draws = np.random.default_rng((5, epoch, 2)).uniform(-spread, spread, (6, 4)).astype(np.float32)
        for chosen in (order[:4], order[4:]):
            turned = tf.constant(batches.read_rows(IMAGES, chosen, views[chosen]))
            expected.append((_jittered(turned, draws[chosen]) if spread else turned).numpy().tobytes())
    assert batch_bytes(rows(stain=spread)) == expected


def _jittered(images, draws):
    gain = 1 + tf.pad(draws[:, :2], [[0, 0], [0, 1]])
    offset = 0.1 * tf.pad(draws[:, 2:], [[0, 0], [0, 1]])
    density = -tf.math.log((tf.cast(images, tf.float32) + 1) / 256)
    amounts = tf.linalg.matmul(density, tf.constant(np.linalg.inv(stain_jitter.HED).astype(np.float32)))
    amounts = amounts * gain[:, None, None, :] + offset[:, None, None, :]
    rgb = 256 * tf.exp(-tf.linalg.matmul(amounts, tf.constant(stain_jitter.HED))) - 1
    return tf.cast(tf.clip_by_value(tf.round(rgb), 0, 255), tf.uint8)


def test_features_are_left_alone():
    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    given = batches.TrainingRows(features, np.arange(6), np.eye(6), augment=ALL)
    seen = np.concatenate([inputs for inputs, _, _ in batches.training_batches(given, 4, 0, 0, 1)])
    np.testing.assert_array_equal(seen[seen[:, 0].argsort()], features)


def test_validation_is_left_alone():
    inputs = np.concatenate([inputs for inputs, *_ in batches.validation_batches(rows(**ALL.model_dump()), 4)])
    np.testing.assert_array_equal(inputs, IMAGES)
