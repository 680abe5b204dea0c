"""Grad-CAM against values computed by hand and against a known place; what the randomisation check must find."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from breakhis_cls import config
from breakhis_cls.modeling import gradcam, network
from breakhis_cls.synthetic import tree

SIZE = (16, 24)  # of the tiny network's images


def build_tiny_model(trunk_layers, n_features, image_px, n_classes=2):
    """A model as `network.join_model` builds it, around any trunk."""
    image = keras.Input((None, None, 3))
    output = image
    for layer in trunk_layers:
        output = layer(output)
    trunk = keras.Model(image, output, name="trunk")
    outer = keras.Input((None, None, 3), name="image")
    scaled = layers.Rescaling(1 / 255, name="preprocessing")(outer)
    pooled = layers.GlobalAveragePooling2D()(trunk(scaled))
    backbone = keras.Model(outer, pooled, name="backbone")
    head = network.build_head(n_features, n_classes, 0.2, seed=1)
    last = head.get_layer("probabilities")  # starts from zero, which gives no heat at all
    last.kernel.assign(keras.initializers.GlorotUniform(seed=1)(last.kernel.shape))
    return network.join_model(backbone, head, config.Image(height_px=image_px[0], width_px=image_px[1]))


@pytest.fixture(scope="module")
def linear():
    """One 1x1 convolution that passes red and green on; log-odds of class 1 are 2 red - 3 green + 0.5."""
    model = build_tiny_model([layers.Conv2D(2, 1, use_bias=False)], 2, (2, 3))
    trunk, dense = model.get_layer("backbone").get_layer("trunk"), model.get_layer("head").layers[-1]
    trunk.layers[-1].set_weights([np.array([[[[1, 0], [0, 1], [0, 0]]]], np.float32)])
    dense.set_weights([np.array([[1, 3], [1, -2]], np.float32), np.array([0, 0.5], np.float32)])
    return model


@pytest.fixture(scope="module")
def squares():
    """(model, images, labels, masks): trained to find a dark square, which half of the noisy images have."""
    rng = np.random.default_rng(0)
    n, labels = 96, np.arange(96) % 2
    images = rng.integers(150, 256, (n, *SIZE, 3))
    masks = np.zeros((n, *SIZE), bool)
    for at in np.flatnonzero(labels):
        y, x = rng.integers(0, SIZE[0] - 6), rng.integers(0, SIZE[1] - 6)
        masks[at, y : y + 6, x : x + 6] = True
    images[masks] //= 3
    images = images.astype(np.uint8)
    keras.utils.set_random_seed(0)
    convolutions = [layers.Conv2D(8, 3, stride, "same", activation="relu") for stride in (2, 1)]
    model = build_tiny_model([layers.Rescaling(4, -3), *convolutions], 8, SIZE)
    model.compile(keras.optimizers.Adam(0.01), "categorical_crossentropy")
    model.fit(images, np.eye(2)[labels], batch_size=32, epochs=15, verbose=0)
    assert ((model.predict(images, verbose=0)[:, 1] > 0.5) == labels).mean() > 0.9
    return model, images, labels, masks


def test_evidence_equals_values_computed_by_hand(linear):
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0, :, :, 0] = [[255, 0, 51], [0, 0, 102]]
    image[0, :, :, 1] = [[0, 255, 51], [0, 51, 0]]
    expected = [[2, -3, 2 * 0.2 - 3 * 0.2], [0, -0.6, 0.8]]
    np.testing.assert_allclose(gradcam.class_evidence(linear, image, np.array([1]))[0], expected, atol=1e-6)
    heat = gradcam.upsample_heat(gradcam.class_evidence(linear, image, np.array([1]))[0], (2, 3))
    np.testing.assert_allclose(heat, [[1, 0, 0], [0, 0, 0.4]], atol=1e-6)


def test_evidence_does_not_vanish_behind_a_saturated_softmax(linear):
    dense = linear.get_layer("head").layers[-1]
    kernel, bias = dense.get_weights()
    dense.set_weights([1000 * kernel, bias])
    image = np.full((1, 2, 3, 3), [255, 0, 0], np.uint8)
    assert linear.predict(image, verbose=0)[0, 1] == 1
    np.testing.assert_allclose(gradcam.class_evidence(linear, image, np.array([1])), 2000, rtol=1e-5)
    dense.set_weights([kernel, bias])


def test_evidence_adds_up_to_the_log_odds(squares):
    model, images, labels, _ = squares
    evidence = gradcam.class_evidence(model, images, labels)
    log_p = np.log(model.predict(images, verbose=0).astype(float))
    log_odds = (log_p[:, 1] - log_p[:, 0]) * np.where(labels, 1, -1)
    bias = np.diff(model.get_layer("head").layers[-1].bias.numpy())[0] * np.where(labels, 1, -1)
    np.testing.assert_allclose(evidence.mean(axis=(1, 2)) + bias, log_odds, atol=1e-3)


@pytest.mark.parametrize("backbone", ["ResNet50", "ConvNeXtTiny"])
def test_evidence_is_what_a_gradient_tape_finds(backbone):
    """Three classes and two blocks; ConvNeXt also normalises a pooled block."""
    keras.utils.set_random_seed(0)
    settings = config.Model(backbone=backbone, weights="random", features=("conv4", "conv5"))
    trunk = network.build_backbone(settings)
    head = network.build_head(trunk.output_shape[-1], 3, 0.2, seed=0)
    n = trunk.output_shape[-1]
    rng = np.random.default_rng(0)
    head.get_layer("probabilities").set_weights([rng.normal(size=(n, 3)), rng.normal(size=3)])
    head.get_layer("standardise").adapt(rng.normal(size=(9, n)))
    for norm in (layer for layer in trunk.layers if isinstance(layer, layers.LayerNormalization)):
        norm.set_weights([rng.normal(size=weight.shape) for weight in norm.get_weights()])
    model = network.join_model(trunk, head, config.Image(height_px=64, width_px=96))
    images = rng.integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)

    pools = [layer for layer in trunk.layers if isinstance(layer, layers.GlobalAveragePooling2D)]
    blocks = keras.Model(trunk.input, [pool.input for pool in pools])(images)
    after = keras.Model([pool.input for pool in pools], trunk.output)
    dense = head.get_layer("probabilities")
    with tf.GradientTape() as tape:
        tape.watch(blocks)
        logits = head.get_layer("standardise")(after(blocks)) @ dense.kernel + dense.bias
        score = logits[:, 2] - tf.reduce_logsumexp(logits[:, :2], axis=1)
    maps = [
        tf.image.resize(tf.reduce_sum(block * tf.reduce_sum(g, (1, 2), keepdims=True), -1, keepdims=True), (4, 6))
        for block, g in zip(blocks, tape.gradient(score, blocks), strict=True)
    ]
    expected = sum(maps)[..., 0].numpy()
    found = gradcam.class_evidence(model, images, np.array([2, 2]))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_batch_gives_what_single_images_give(squares):
    model, images, labels, _ = squares
    together = gradcam.class_evidence(model, images[:20], labels[:20])  # more than a batch
    alone = [gradcam.class_evidence(model, images[at : at + 1], labels[at : at + 1])[0] for at in (0, 7, 19)]
    np.testing.assert_allclose(together[[0, 7, 19]], alone, rtol=1e-5, atol=1e-5)


def test_evidence_for_one_class_is_evidence_against_the_other(squares):
    model, images, _, _ = squares
    benign, malignant = (gradcam.class_evidence(model, images[:4], np.full(4, at)) for at in (0, 1))
    np.testing.assert_allclose(benign, -malignant, rtol=1e-5, atol=1e-5)
    assert np.abs(malignant).max() > 0.1


def test_heat_is_where_the_square_is_until_the_head_is_random(squares):
    model, images, labels, masks = squares
    some = np.flatnonzero(labels)[:24]

    def mean_auc(of_model):
        evidence = gradcam.class_evidence(of_model, images[some], labels[some])
        return np.mean(
            [
                gradcam.localization_auc(gradcam.upsample_heat(e, SIZE), masks[at])
                for e, at in zip(evidence, some, strict=True)
            ]
        )

    assert mean_auc(model) > 0.85
    assert abs(np.mean([mean_auc(gradcam.randomize_weights(model, 0.0, seed)) for seed in range(12)]) - 0.5) < 0.2


def test_the_randomization_check_finds_little_correlation(squares):
    model, images, labels, _ = squares
    table = gradcam.randomization_check(model, images[:8], labels[:8])
    assert list(table.columns) == ["share", "draw", "image", "rho"]
    assert len(table) == len(gradcam.SHARES) * gradcam.N_DRAWS * 8
    assert table["rho"].between(-1, 1).all()
    assert table.groupby("share")["rho"].median().abs().max() < 0.8
    assert gradcam.rank_correlation(*gradcam.class_evidence(model, images[[0, 0]], labels[[0, 0]])) == pytest.approx(1)


def test_a_randomized_model_is_a_copy_that_is_random_from_the_top(squares):
    model = squares[0]
    before = [weight.copy() for weight in model.get_weights()]
    head, half, whole = (gradcam.randomize_weights(model, share, 0).get_weights() for share in (0.0, 0.5, 1.0))
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    kernels = [at for at, weight in enumerate(before) if weight.ndim > 1]  # two convolutions and the head
    is_random = [[not np.array_equal(some[at], before[at]) for at in kernels] for some in (head, half, whole)]
    assert is_random == [[False, False, True], [False, True, True], [True, True, True]]
    np.testing.assert_array_equal(gradcam.randomize_weights(model, 1.0, 0).get_weights()[0], whole[0])
    assert not np.array_equal(gradcam.randomize_weights(model, 1.0, 1).get_weights()[0], whole[0])


def test_a_randomized_model_keeps_the_standardised_features(linear):
    standardise = linear.get_layer("head").get_layer("standardise")
    standardise.adapt(np.array([[0.2, 0.4], [0.6, 0.9]], np.float32))
    copied = gradcam.randomize_weights(linear, 0.0, 0).get_layer("head").get_layer("standardise")
    features = np.array([[0.3, 0.3]], np.float32)
    np.testing.assert_array_equal(copied(features), standardise(features))
    standardise.adapt(np.array([[-1, -1], [1, 1]], np.float32))  # the identity again


@pytest.mark.parametrize("backbone", ["ResNet50", "ConvNeXtTiny"])
def test_blocks_of_a_real_backbone_add_up(backbone):
    keras.utils.set_random_seed(0)
    model = config.Model(backbone=backbone, weights="random", features=("conv4", "conv5"))
    head = network.build_head(sum(network.widths(model)[block] for block in model.features), 2, 0.2, seed=0)
    whole = network.join_model(network.build_backbone(model), head, config.Image(height_px=64, width_px=96))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    evidence = gradcam.class_evidence(whole, images, np.array([0, 1]))
    assert evidence.shape == (2, 4, 6)
    if backbone == "ResNet50":  # pooled features reach the head as they are, so that the sum is exact
        p = whole.predict(images, verbose=0)[[0, 1], [0, 1]].astype(float)
        np.testing.assert_allclose(evidence.mean(axis=(1, 2)), np.log(p / (1 - p)), rtol=1e-3, atol=1e-3)


def test_heat_fills_the_field_and_stays_in_bounds():
    evidence = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    heat = gradcam.upsample_heat(evidence, (46, 70))
    assert heat.shape == (46, 70) and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() == 1
    assert not gradcam.upsample_heat(-np.ones((4, 6), np.float32), (46, 70)).any()


@pytest.mark.parametrize(("fit", "left", "right"), [("stretch", 0, 60), ("crop", 30, 60), ("pad", 0, 60)])
def test_heat_is_where_the_network_saw_it(fit, left, right):
    """A square network and a field of 60 x 120, hot in the upper left quarter of what was seen: of the whole field, of
    its middle, or of the field between two margins above and below."""
    evidence = np.zeros((40, 40), np.float32)
    evidence[:20, :20] = 1
    heat = gradcam.upsample_heat(evidence, (60, 120), config.Image(height_px=40, width_px=40, fit=fit)) > 0.5
    expected = np.zeros((60, 120), bool)
    expected[:30, left:right] = True
    assert (heat != expected).mean() < 0.02


def test_localization_auc_by_hand():
    heat = np.array([[0.9, 0.4], [0.4, 0.1]])
    assert gradcam.localization_auc(heat, np.array([[1, 0], [0, 0]], bool)) == 1
    assert gradcam.localization_auc(heat, np.array([[0, 0], [0, 1]], bool)) == 0
    assert gradcam.localization_auc(heat, np.array([[1, 1], [0, 0]], bool)) == pytest.approx((2 + 0.5 + 1) / 4)
    assert gradcam.localization_auc(np.zeros((2, 2)), np.array([[1, 0], [0, 0]], bool)) == 0.5
    assert np.isnan(gradcam.localization_auc(heat, np.zeros((2, 2), bool)))


def test_telling_nuclei_are_among_the_drawn_ones():
    name = "SOB_M_PC-14-90016-100-001.png"  # 456 pixels high
    telling, every = tree.epithelial_mask(name), tree.draw_image(name).nuclei
    assert telling.shape == every.shape == (456, 700)
    assert not (telling & ~every).any()
    assert 0.5 < telling.sum() / every.sum() < 1
