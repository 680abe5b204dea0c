"""Stains: scikit-image's rgb2hed is the oracle; a jitter of nothing changes nothing."""

import numpy as np
import pytest
import tensorflow as tf
from skimage.color import rgb2hed

from breakhis_cls.data import pipeline, stain

RGB = np.random.default_rng(0).integers(30, 256, (4, 6, 5, 3), dtype=np.uint8)
DRAWS = np.random.default_rng(1).uniform(-0.4, 0.4, (4, 4)).astype(np.float32)


def test_stains_agree_with_scikit_image():
    """Its logarithm has another unit and it cuts negative amounts off; elsewhere the two are proportional."""
    ours, theirs = stain.to_stains(stain.to_optical_density(RGB)).numpy(), rgb2hed(RGB)
    both = (ours > 0.02) & (theirs > 0)
    ratio = ours[both] / theirs[both]
    assert both.mean() > 0.3
    np.testing.assert_allclose(ratio, -np.log(1e-6), rtol=0.1)


def test_density_and_back_is_exact_for_every_level():
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    np.testing.assert_array_equal(stain.to_rgb(stain.to_optical_density(levels)), levels)


def test_no_jitter_changes_nothing():
    np.testing.assert_allclose(stain.jittered(RGB, np.zeros((4, 4), np.float32)).numpy().astype(int), RGB, atol=1)


def test_alike_eagerly_and_in_a_dataset():
    eager = stain.jittered(RGB, DRAWS).numpy()
    inside = tf.data.Dataset.from_tensors((RGB, DRAWS)).map(stain.jittered).get_single_element().numpy()
    np.testing.assert_array_equal(eager, inside)
    assert eager.dtype == np.uint8 and not np.array_equal(eager, RGB)


def test_more_haematoxylin_is_more_haematoxylin():
    grey = np.full((1, 2, 2, 3), 120, np.uint8)
    more = stain.jittered(grey, np.array([[0.5, 0, 0, 0]], np.float32))
    before, after = (stain.to_stains(stain.to_optical_density(image))[0, 0, 0].numpy() for image in (grey, more))
    assert after[0] == pytest.approx(1.5 * before[0], abs=0.05)
    assert after[1] == pytest.approx(before[1], abs=0.05)


def test_draws_are_a_function_of_seed_and_epoch_and_white_stays_bright():
    one, same, other = (pipeline.epoch_stains(5, 3, epoch, 0.3) for epoch in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other) and np.abs(one).max() < 0.3
    white = np.full((4, 2, 2, 3), 255, np.uint8)
    assert stain.jittered(white, DRAWS).numpy().min() > 220


def test_training_batches_are_jittered_and_resumable():
    rows = pipeline.Rows(RGB, np.arange(4), np.eye(4), stain=0.4)
    whole = [inputs.numpy() for inputs, _, _ in pipeline.training(rows, 2, 0, 0, 3)]
    late = [inputs.numpy() for inputs, _, _ in pipeline.training(rows, 2, 0, 1, 3)]
    np.testing.assert_array_equal(np.concatenate(whole[2:]), np.concatenate(late))
    assert not {image.tobytes() for image in np.concatenate(whole)} & {image.tobytes() for image in RGB}
