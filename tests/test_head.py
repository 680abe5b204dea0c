"""The head on frozen features: the exact solution, cases that weigh the same, predictions out of fold, head.npz."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from breakhis_cls import config
from breakhis_cls.errors import ConfigError, ModelError
from breakhis_cls.modeling import head


def _sample(n_classes=2, n_cases=12, seed=0):
    """Features (n, 4), labels and cases; a case has one label and 1 to 6 images that are alike."""
    rng = np.random.default_rng(seed)
    cases = np.repeat(np.arange(n_cases), rng.integers(1, 7, n_cases))
    labels = cases % n_classes
    centres = rng.normal(0, 1, (n_cases, 4)) + np.arange(n_cases)[:, None] % n_classes
    return centres[cases] + rng.normal(0, 0.5, (len(cases), 4)), labels, cases.astype(str)


def test_weights_of_a_cases_images_add_up_to_one():
    labels, cases = np.array([0, 0, 0, 1]), np.array(["a", "a", "b", "c"])
    np.testing.assert_allclose(head.case_weights(labels, cases), [1 / 2, 1 / 2, 1, 1])
    np.testing.assert_allclose(head.case_weights(labels, cases, "images"), [3 / 4] * 4)
    # Balanced: 3 cases in all, half of the weight for each class, and within benign half for each case.
    balanced = head.case_weights(labels, cases, "class_weights")
    np.testing.assert_allclose(balanced, np.array([1 / 8, 1 / 8, 1 / 4, 1 / 2]) * 3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_solution_is_the_minimum(n_classes):
    """No step in any direction lowers C * sum(weights * log loss) + |w|^2 / 2; w of two classes is their difference."""
    features, labels, cases = _sample(n_classes)
    weights, C = head.case_weights(labels, cases), 0.5
    fitted = head.fit_logistic(features, labels, weights, n_classes, C)

    def objective(kernel, bias):
        z = (features - features.mean(axis=0)) / features.std(axis=0)
        losses = -log_softmax(z @ kernel + bias, axis=1)[np.arange(len(labels)), labels]
        return C * (weights * losses).sum() + (2 if n_classes == 2 else 1) * (kernel**2).sum() / 2

    lowest, rng = objective(fitted.kernel, fitted.bias), np.random.default_rng(1)
    for _ in range(50):
        steps = rng.normal(0, 0.01, fitted.kernel.shape), rng.normal(0, 0.01, n_classes)
        assert objective(fitted.kernel + steps[0], fitted.bias + steps[1]) > lowest


def test_an_image_more_of_a_case_does_not_add_to_its_weight():
    """Every image twice, or cases of unequal size: C counts cases, so the fit stays."""
    features, labels, cases = _sample()
    one = head.fit_logistic(features, labels, head.case_weights(labels, cases), 2, 0.05)
    twice = np.repeat(np.arange(len(labels)), 2)
    other = head.fit_logistic(features[twice], labels[twice], head.case_weights(labels[twice], cases[twice]), 2, 0.05)
    np.testing.assert_allclose(one.predict(features), other.predict(features), atol=1e-5)
    # scikit-learn without weights counts images: twice as many are a weaker penalty.
    plain = LogisticRegression(C=0.05).fit(features[twice], labels[twice]).predict_proba(features)
    assert abs(plain - one.predict(features)).max() > 0.01


def test_a_class_without_images_is_improbable_and_never_an_error():
    features, labels, cases = _sample(2)
    fitted = head.fit_logistic(features, 2 * labels, head.case_weights(labels, cases), 4, 0.05)  # classes 0 and 2 of 4
    probabilities = fitted.predict(features)
    assert probabilities[:, [1, 3]].max() < 1e-3
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_a_constant_feature_changes_nothing():
    features, labels, cases = _sample()
    weights = head.case_weights(labels, cases)
    padded = np.column_stack([features, np.full(len(features), 7.0)])
    one, other = (head.fit_logistic(x, labels, weights, 2, 0.05).predict(x) for x in (features, padded))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_out_of_fold_predictions_never_see_their_own_labels():
    features, labels, cases = _sample(n_cases=20)
    folds, settings = cases.astype(int) // 2 % 4, config.Config()
    predicted = head.predict_out_of_fold(features, labels, cases, folds, 2, settings)
    swapped = np.where(folds == 1, 1 - labels, labels)
    other = head.predict_out_of_fold(features, swapped, cases, folds, 2, settings)
    np.testing.assert_array_equal(predicted[folds == 1], other[folds == 1])
    assert not np.allclose(predicted[folds != 1], other[folds != 1])
    assert np.isfinite(predicted).all()


def test_out_of_fold_needs_both_classes_in_the_other_folds():
    features, labels, cases = _sample()
    predicted = head.predict_out_of_fold(features, labels, cases, np.zeros(len(labels), int), 2, config.Config())
    assert np.isnan(predicted).all()
    by_label = head.predict_out_of_fold(features, labels, cases, labels, 2, config.Config())
    assert np.isnan(by_label).all()  # each fold would be predicted by a head that knows the other class alone


# head.npz


@pytest.fixture
def saved(tmp_path):
    features, labels, cases = _sample()
    fitted = head.fit_logistic(features, labels, head.case_weights(labels, cases), 2, 0.05)
    settings = config.change_settings(config.Config(), {"model.weights": "random"})
    head.save_head(tmp_path / "head.npz", fitted, settings)
    return tmp_path / "head.npz", settings, fitted, features


def test_a_saved_head_predicts_the_same_bytes(saved):
    path, settings, fitted, features = saved
    np.testing.assert_array_equal(head.load_head(path, settings).predict(features), fitted.predict(features))


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"model.features": ("conv4", "conv5")}, "model.features"),
        ({"image.height_px": 64}, "image"),
        ({"data.task": "subtype"}, "classes"),
        ({"run.seed": 1}, "run.seed"),  # of random weights
        ({"model.weights": "imagenet"}, "model.weights random"),
    ],
)
def test_a_head_is_refused_for_a_config_that_was_changed(saved, changes, match):
    path, settings, *_ = saved
    with pytest.raises(ModelError, match=f"was trained with {match}"):
        head.load_head(path, config.change_settings(settings, changes))


def test_a_head_is_refused_for_other_weights_of_the_backbone(saved):
    path, settings, fitted, _ = saved
    weights = path.with_name("mine.weights.h5")
    settings = config.change_settings(settings, {"model.weights": str(weights)})
    weights.write_bytes(b"those of the training")
    head.save_head(path, fitted, settings)
    weights.write_bytes(b"others")
    with pytest.raises(ModelError, match=r"was trained with model.weights [0-9a-f]{64}, but"):
        head.load_head(path, settings)


def test_a_head_that_holds_a_pickle_or_is_cut_is_refused(saved):
    path, settings, *_ = saved
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="not a head that can be read"):
        head.load_head(path, settings)
    pickled = dict.fromkeys(head.LinearHead._fields, np.array([{}], dtype=object))
    np.savez(path, settings=json.dumps({}), **pickled)
    with pytest.raises(ModelError, match="not a head that can be read"):
        head.load_head(path, settings)


# other probes


def _settings(kind, **changes):
    return config.change_settings(config.Config(), {"head.kind": kind} | changes)


def _fit(kind, features, labels, cases, folds, n_classes=2, **changes):
    return head.PROBES[kind](features, labels, cases, folds, n_classes, _settings(kind, **changes))


def test_neighbours_vote_with_the_weight_of_their_case():
    """Two images of one case are one vote: by hand, k 3 of a point whose neighbours are a, a and b."""
    features = np.array([[1, 0], [1, 0.1], [1, 0.2], [-1, 0], [-1, 0.1]])
    labels, cases = np.array([0, 0, 1, 1, 1]), np.array(["a", "a", "b", "c", "c"])
    fitted = _fit("knn", features, labels, cases, np.zeros(5, int))._replace(k=3, centre=np.zeros(2))
    fitted = fitted._replace(features=features)
    prior = np.array([1, 2]) / 3  # a case each: a is benign, b and c are malignant
    votes = np.array([1 / 2 + 1 / 2, 1]) / 2
    np.testing.assert_allclose(fitted.predict(np.array([[1.0, 0.1]])), [(3 * votes + prior) / 4])


def test_k_is_chosen_out_of_fold_by_case():
    """Images of a case are alike and labels of cases are noise: few of a case are best, many of others."""
    rng = np.random.default_rng(0)
    cases = np.repeat(np.arange(40), 6)
    labels = (np.arange(40) < 30).astype(int)[cases]
    features = rng.normal(0, 1, (40, 5))[cases] + rng.normal(0, 0.01, (240, 5))
    by_case = _fit("knn", features, labels, cases.astype(str), cases % 5).k
    by_image = _fit("knn", features, labels, cases.astype(str), np.arange(240) % 5).k
    assert by_image == 5 and by_case > 10  # five other images of the case


def test_prototypes_are_the_means_of_unit_vectors_and_a_class_without_images_is_improbable():
    features = np.array([[2.0, 1], [2, -1], [-2, 1], [-2, -1]])
    labels, cases = np.array([0, 0, 2, 2]), np.array(["a", "b", "c", "d"])
    fitted = _fit("prototype", features, labels, cases, np.zeros(4, int), 3)
    mean = 2 / np.sqrt(5)
    np.testing.assert_allclose(fitted.means[[0, 2]], [[mean, 0], [-mean, 0]], atol=1e-12)
    (predicted,) = fitted.predict(np.array([[5.0, 0]]))
    odds = np.exp(-head.PROTOTYPE_SCALE / 2 * ((1 - mean) ** 2 - (1 + mean) ** 2))  # of squared distances
    assert predicted[0] / predicted[2] == pytest.approx(odds) and predicted[1] < 1e-4


def test_shots_are_of_distinct_cases_until_every_case_has_given_one():
    labels, cases = np.repeat([0, 1], 12), np.repeat(np.arange(8), 3)  # four cases of each label
    for shots, most in ((1, 1), (4, 1), (6, 2), (50, 3)):
        drawn = head.draw_shots(labels, cases, shots, np.random.default_rng(shots))
        assert len(set(drawn)) == len(drawn) == 2 * min(shots, 12)
        assert np.bincount(cases[drawn]).max() == most and (np.bincount(cases[drawn]) >= most - 1).all()
    draws = [tuple(cases[head.draw_shots(labels, cases, 1, np.random.default_rng(seed))]) for seed in range(300)]
    assert min(np.bincount(np.ravel(draws), minlength=8)) > 40  # every case is drawn as often as the others: 75 times


def test_a_seed_draws_other_shots_and_equal_seeds_equal_ones():
    features, labels, cases = _sample(n_cases=20)
    folds = np.zeros(len(labels), int)
    one, same, other = (
        _fit("prototype", features, labels, cases, folds, **{"head.shots": 2, "run.seed": seed}) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.means, same.means)
    assert not np.allclose(one.means, other.means)


@pytest.mark.parametrize("kind", ["knn", "prototype"])
def test_other_probes_never_see_the_labels_that_they_predict_out_of_fold(kind):
    features, labels, cases = _sample(n_cases=20)
    folds = cases.astype(int) // 2 % 4
    swapped = np.where(folds == 1, 1 - labels, labels)
    one, other = (
        head.predict_out_of_fold(features, truth, cases, folds, 2, _settings(kind)) for truth in (labels, swapped)
    )
    np.testing.assert_array_equal(one[folds == 1], other[folds == 1])
    assert not np.allclose(one[folds != 1], other[folds != 1]) and np.isfinite(one).all()
    np.testing.assert_allclose(one.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"head.shots": 4}, "head.shots counts for head.kind prototype"),
     ({"head.kind": "knn", "tune.part": "conv4"}, "cannot be fine-tuned")],
)  # fmt: skip
def test_probes_that_contradict_other_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config.change_settings(config.Config(), changes)
