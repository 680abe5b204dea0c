"""Order, views and stains are functions of (seed, epoch, row); pixels are moved, never changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breakhis_cls import config
from breakhis_cls.pipeline import batches

SIZES = [(4, 4), (4, 7), (7, 4), (3, 11)]


def _images(height, width, n=8):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def _turn(images, views):
    """Each image in the view of the same place."""
    return batches.read_rows(images, np.arange(len(images)), np.asarray(views))


@pytest.mark.parametrize("size", SIZES)
def test_views_keep_shape_and_type(size):
    images = _images(*size)
    turned = _turn(images, range(8))
    assert turned.shape == images.shape and turned.dtype == np.uint8
    np.testing.assert_array_equal(turned[3], images[3, ::-1, ::-1])


def test_views_of_a_square_are_the_eight_of_the_square():
    image = _images(5, 5, 1)
    ours = {view.tobytes() for view in _turn(np.repeat(image, 8, axis=0), range(8))}
    quarter_turns = [np.rot90(image[0], k) for k in range(4)]
    expected = {view.tobytes() for turn in quarter_turns for view in (turn, turn[:, ::-1])}
    assert ours == expected


def test_turns_alone_mirror_nothing():
    image = np.repeat(_images(5, 5, 1), 4, axis=0)
    ours = _turn(image, batches.TURNS)
    assert {view.tobytes() for view in ours} == {np.rot90(image[0], k).tobytes() for k in range(4)}


def test_a_quarter_turn_of_an_oblong_keeps_the_middle_at_its_scale():
    image = _images(4, 8, 1)
    turned = _turn(image, [4])[0]
    swapped = image[0].transpose(1, 0, 2)  # 8 x 4: rows 2...5 are kept, two columns are mirrored on each side
    np.testing.assert_array_equal(turned[:, 2:6], swapped[2:6])
    np.testing.assert_array_equal(turned[:, 1], turned[:, 2])
    wide = _images(8, 4, 1)
    np.testing.assert_array_equal(_turn(wide, [4])[0, 2:6], wide[0].transpose(1, 0, 2)[:, 2:6])


@given(n=st.integers(1, 30), seed=st.integers(0, 99), epoch=st.integers(0, 9), batch=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_an_epoch_shows_every_row_once(n, seed, epoch, batch):
    rows = batches.TrainingRows(np.arange(n, dtype=np.float32)[:, None, None], np.arange(n), np.eye(n))
    seen = [
        x
        for inputs, _, _ in batches.training_batches(rows, batch, seed, epoch, epoch + 1)
        for x in inputs.numpy()[:, 0]
    ]
    assert sorted(seen) == list(range(n))


def test_a_later_start_gives_the_later_epochs():
    rows = batches.TrainingRows(_images(4, 6, 7), np.arange(7), np.eye(7), views=batches.ALL_VIEWS)
    whole = [x.numpy().tobytes() for x, _, _ in batches.training_batches(rows, 3, 5, 0, 4)]
    late = [x.numpy().tobytes() for x, _, _ in batches.training_batches(rows, 3, 5, 2, 4)]
    assert whole[6:] == late
    assert len(set(whole)) > 6  # epochs differ


def test_pixels_are_turned_in_the_views_drawn():
    images = _images(4, 6, 6)
    rows = batches.TrainingRows(images, np.arange(6), np.eye(6), views=batches.ALL_VIEWS)
    order = np.random.default_rng((1, 0)).permutation(6)
    views = np.random.default_rng((1, 0, 1)).integers(8, size=6)
    ((inputs, targets, weights),) = batches.training_batches(rows, 6, 1, 0, 1)
    np.testing.assert_array_equal(inputs, batches.read_rows(images, order, views[order]))
    np.testing.assert_array_equal(targets, np.eye(6)[order])
    assert (weights.numpy() == 1).all()


LABELS = np.array([0, 0, 0, 1])


def drawn_batches(**settings) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weights of all that 200 epochs over four rows yield."""
    rows = batches.TrainingRows(np.zeros((4, 1), np.float32), np.arange(4), np.eye(2)[LABELS], **settings)
    yielded = [(y.numpy(), w.numpy()) for _, y, w in batches.training_batches(rows, 4, 0, 0, 200)]
    targets, weights = (np.concatenate(part) for part in zip(*yielded, strict=True))
    return targets.argmax(axis=1), weights


def test_class_weights_reach_the_batches():
    labels, weights = drawn_batches(weights=[2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(weights, np.array([2 / 3, 2], np.float32)[labels])
    assert (drawn_batches()[1] == 1).all()


@pytest.mark.parametrize(
    ("flips", "turns", "views"),
    [(1, 1, batches.ALL_VIEWS), (1, 0, batches.FLIPS), (0, 1, batches.TURNS), (0, 0, (0,))],
)
def test_settings_name_the_views(flips, turns, views):
    assert batches.allowed_views(config.Augment(flips=bool(flips), turns=bool(turns))) == views


def test_devices_get_equal_shares_and_every_row_counts_once():
    rows = batches.TrainingRows(np.arange(7, dtype=np.float32)[:, None], np.arange(7), np.eye(7))
    assert (rows.fill_up(1).weights == 1).all() and rows.fill_up(1).index.tolist() == list(range(7))
    for stream in (
        batches.validation_batches(rows.fill_up(2), 4),
        batches.training_batches(rows.fill_up(2), 4, 0, 0, 1),
    ):
        batch = list(stream)
        assert [len(targets) for _, targets, _ in batch] == [4, 4]
        inputs, weights = (np.concatenate([one[at] for one in batch]).ravel() for at in (0, 2))
        assert (inputs * weights).sum() / len(weights) == pytest.approx(3.0)  # their mean, whoever adds up
