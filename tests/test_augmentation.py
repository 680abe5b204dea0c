"""Augmentation: each op against a value worked out by hand or by another library; zeros change nothing; repeatable."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from breakhis_cls.config import Augment
from breakhis_cls.pipeline import augmentation, batches, stain_jitter

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 14, 21, 3), dtype=np.uint8)
ALL = Augment(stain=0.2, scale=0.3, contrast=0.2, brightness=0.1)
ONE_EACH = [Augment(stain=0.2), Augment(scale=0.3), Augment(contrast=0.2), Augment(brightness=0.1)]
NAMES = ["stain", "scale", "contrast", "brightness"]


@pytest.mark.parametrize("augment", [*ONE_EACH, ALL], ids=[*NAMES, "all"])
def test_alike_eagerly_and_in_a_dataset(augment):
    draws = augmentation.draw_augmentations(6, 0, 0, augment)
    eager = augmentation.augment_images(tf.constant(IMAGES), tf.constant(draws), augment).numpy()
    inside = tf.data.Dataset.from_tensors((IMAGES, draws)).map(lambda x, d: augmentation.augment_images(x, d, augment))
    np.testing.assert_array_equal(eager, inside.get_single_element())
    assert eager.dtype == np.uint8 and inside.element_spec.shape == IMAGES.shape
    assert all((one != other).any() for one, other in zip(eager, IMAGES, strict=True))


@pytest.mark.parametrize("augment", [*ONE_EACH, ALL, Augment()], ids=[*NAMES, "all", "none"])
def test_zero_draws_change_nothing(augment):
    zeros = tf.zeros((6, augmentation.N_DRAWS))
    np.testing.assert_array_equal(augmentation.augment_images(tf.constant(IMAGES), zeros, augment), IMAGES)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (23, 35)])
@pytest.mark.parametrize("spread", [0.01, 0.5, 0.99])
def test_zoom_fits_every_size_and_spread(size, spread):
    flat = np.full((2, *size, 3), 99, np.uint8)
    zoomed = augmentation.zoom(tf.constant(flat), tf.constant([-spread, spread], tf.float32), spread)
    np.testing.assert_allclose(zoomed, flat, atol=1e-3)


@pytest.mark.parametrize("draw", [-0.45, -0.1, 0.07, 0.45])
def test_zoom_is_scipys_with_a_mirrored_border(draw):
    zoomed = augmentation.zoom(tf.constant(IMAGES[:1]), tf.constant([draw], tf.float32), 0.5).numpy()[0]
    middle = (np.array(IMAGES.shape[1:3]) - 1) / 2
    for channel in range(3):
        expected = ndimage.affine_transform(
            IMAGES[0, ..., channel].astype(float),
            np.eye(2) * (1 + draw),
            offset=-middle * draw,
            order=1,
            mode="reflect",
        )
        np.testing.assert_allclose(zoomed[..., channel], expected, atol=0.01)


def test_contrast_is_tensorflows_about_the_mean():
    changed = augmentation.adjust_contrast_brightness(tf.constant(IMAGES), tf.fill((6, 1), 0.3), tf.zeros((6, 1)))
    expected = tf.image.adjust_contrast(tf.cast(IMAGES, tf.float32), 1.3)
    np.testing.assert_allclose(changed, expected, atol=1e-3)


@given(level=st.integers(0, 255), per_cent=st.integers(-99, 99))
def test_brightness_adds_its_share_of_255_and_clips(level, per_cent):
    grey = tf.constant(np.full((1, 2, 3, 3), level, np.uint8))
    draws = tf.constant([[0, 0, 0, 0, 0, 0, per_cent / 100]], tf.float32)
    brighter = augmentation.augment_images(grey, draws, Augment(brightness=0.99)).numpy()
    np.testing.assert_allclose(brighter, np.clip(level + 2.55 * per_cent, 0, 255), atol=0.501)


def test_rounded_and_clipped_once():
    """What contrast drives beyond white, brightness brings back: between them nothing is clipped."""
    step = np.zeros((1, 2, 2, 3), np.uint8)
    step[:, 0] = 200
    draws = np.array([[0, 0, 0, 0, 0, 0.8, -0.5]], np.float32)
    changed = augmentation.augment_images(
        tf.constant(step), tf.constant(draws), Augment(contrast=0.9, brightness=0.9)
    ).numpy()
    assert changed[0, 0, 0, 0] == round(100 + 1.8 * 100 - 127.5) and changed[0, 1, 0, 0] == 0


def test_draws_are_a_function_of_seed_epoch_and_setting():
    one, same = (augmentation.draw_augmentations(50, 3, 1, ALL) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    for other in (augmentation.draw_augmentations(50, 3, 2, ALL), augmentation.draw_augmentations(50, 4, 1, ALL)):
        assert (one != other).all()
    np.testing.assert_array_less(np.abs(one).max(axis=0), [0.2, 0.2, 0.2, 0.2, 0.3, 0.2, 0.1])
    stain_alone = augmentation.draw_augmentations(50, 3, 1, Augment(stain=0.2))
    np.testing.assert_array_equal(stain_alone[:, :4], one[:, :4])  # one setting does not move another's draws
    assert not stain_alone[:, 4:].any()


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
            turned = batches.apply_views(tf.constant(IMAGES[chosen]), tf.constant(views[chosen]))
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
    inputs = np.concatenate([inputs for inputs, _ in batches.validation_batches(rows(**ALL.model_dump()), 4)])
    np.testing.assert_array_equal(inputs, IMAGES)
