"""Distances to the nearest cases, what is left out, and thresholds, on features whose answer is known."""

import numpy as np
import pytest

from breakhis_cls.errors import ModelError
from breakhis_cls.modeling import reference


def build(n_cases=12, n_images=4, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_cases, 8))
    cases = np.repeat([f"{case:02}" for case in range(n_cases)], n_images)[::-1]  # not sorted
    features = np.repeat(centres, n_images, axis=0)[::-1] + rng.normal(0, spread, (n_cases * n_images, 8))
    labels = np.where(cases < "06", "benign", "malignant")
    files = np.array([f"{case}-{at}.png" for at, case in enumerate(cases)])
    return reference.build_reference(features, files, cases, labels, np.full(len(cases), 200), {"temperature": 1.5})


def test_the_distance_is_to_the_nearest_image_in_standardised_features():
    built = build()
    queries = built.features[:3].astype(np.float32) + 0.01
    known = built.features.astype(np.float64)
    new, known = ((one - known.mean(axis=0)) / known.std(axis=0) for one in (queries, known))
    expected = np.sqrt(((new[:, None] - known) ** 2).mean(axis=2)).min(axis=1)
    np.testing.assert_allclose(built.distance(queries), expected, atol=1e-3)


def test_a_training_image_is_compared_with_other_cases_alone():
    built = build()
    alone = build(n_images=1, spread=0.0)
    # Copies of the same image within a case must not change how far the case is from the others.
    assert (built.left_out > built.distance(built.features)).all()
    assert (alone.left_out >= alone.distance(alone.features)).all()
    own = built.cases[:1]
    rest = built.cases != own[0]
    pruned = reference.Reference(
        built.features[rest], built.files[rest], built.cases[rest], built.labels[rest], built.magnifications[rest],
        built.left_out[rest], built.about,
    )  # fmt: skip
    vars(pruned)["_scale"] = built._scale  # of all images, as in the reference
    np.testing.assert_allclose(pruned.distance(built.features[:1]), built.left_out[:1], atol=1e-5)


def test_every_case_weighs_the_same_in_the_threshold():
    built = build()
    n = len(built.left_out)
    vars(built)["left_out"] = np.linspace(0, 1, n, dtype=np.float32)
    few = built.threshold(0.5)
    # Of the case of the largest distance many images more: as one case of twelve it counts no more than before.
    again = np.concatenate([np.arange(n), np.full(500, n - 1)])
    columns = (built.features, built.files, built.cases, built.labels, built.magnifications, built.left_out)
    more = reference.Reference(*(column[again] for column in columns), built.about)
    assert more.threshold(0.5) == pytest.approx(few, abs=0.06)
    assert built.percentile(np.array([-1.0, 2.0])).tolist() == [0, 100]
    assert built.percentile(np.array([built.threshold(0.9) + 1e-4]))[0] == pytest.approx(90, abs=2.5)


def test_nearest_images_are_of_the_class_and_of_different_cases():
    built = build()
    for label in ("benign", "malignant"):
        for rows in built.nearest(built.features[:2], label, 3):
            assert set(built.labels[rows]) == {label} and len(set(built.cases[rows])) == 3
    assert built.nearest(built.features[:1], str(built.labels[0]))[0] == [0]


def test_a_reference_is_read_as_it_was_written(tmp_path):
    built = build()
    reference.save_reference(tmp_path, built)
    read = reference.load_reference(tmp_path)
    assert read is not None and read.about == built.about
    for name in ("features", "files", "cases", "labels", "magnifications", "left_out"):
        np.testing.assert_array_equal(getattr(read, name), getattr(built, name))
    assert reference.load_reference(tmp_path / "elsewhere") is None


def test_one_case_has_no_distance_to_others():
    with pytest.raises(ModelError, match="of one case"):
        build(n_cases=1)
