"""Stains: scikit-image's rgb2hed is the oracle; a jitter of nothing changes nothing."""

import numpy as np
import tensorflow as tf
from skimage.color import rgb2hed

from breakhis_cls.pipeline import stain_jitter

RGB = np.random.default_rng(0).integers(30, 256, (4, 6, 5, 3), dtype=np.uint8)
DRAWS = np.random.default_rng(1).uniform(-0.4, 0.4, (4, 4)).astype(np.float32)


def test_stains_agree_with_scikit_image():
    """Its logarithm has another unit and it cuts negative amounts off; elsewhere the two are proportional."""
    ours, theirs = stain_jitter.to_stains(stain_jitter.to_optical_density(RGB)).numpy(), rgb2hed(RGB)
    both = (ours > 0.02) & (theirs > 0)
    ratio = ours[both] / theirs[both]
    assert both.mean() > 0.3
    np.testing.assert_allclose(ratio, -np.log(1e-6), rtol=0.1)


def test_no_jitter_changes_no_level():
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None, None], (1, 256, 1, 3))
    np.testing.assert_array_equal(
        stain_jitter.to_levels(stain_jitter.jitter_stains(levels, np.zeros((1, 4), np.float32))), levels
    )


def test_alike_eagerly_and_in_a_dataset():
    eager = stain_jitter.jitter_stains(RGB, DRAWS).numpy()
    inside = tf.data.Dataset.from_tensors((RGB, DRAWS)).map(stain_jitter.jitter_stains)
    np.testing.assert_array_equal(eager, inside.get_single_element())
    assert inside.element_spec.shape == RGB.shape and np.abs(eager - RGB).max() > 10


def test_more_haematoxylin_is_more_haematoxylin():
    grey = np.full((1, 2, 2, 3), 120, np.uint8)
    more = stain_jitter.jitter_stains(grey, np.array([[0.5, 0, 0, 0]], np.float32))
    before, after = (
        stain_jitter.to_stains(stain_jitter.to_optical_density(image))[0, 0, 0].numpy() for image in (grey, more)
    )
    np.testing.assert_allclose(after, before * [1.5, 1, 1], atol=1e-3)


def test_each_image_has_its_own_draws_and_white_stays_bright():
    alone = [stain_jitter.jitter_stains(RGB[at : at + 1], DRAWS[at : at + 1])[0] for at in range(4)]
    np.testing.assert_allclose(stain_jitter.jitter_stains(RGB, DRAWS), alone, atol=1e-3)
    assert stain_jitter.jitter_stains(np.full((4, 2, 2, 3), 255, np.uint8), DRAWS).numpy().min() > 220
