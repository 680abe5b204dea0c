"""Backbone and head joined: what is frozen, weights that do not fit. See test_backbones.py for the other networks."""

import keras
import numpy as np
import pytest

from breakhis_cls import config
from breakhis_cls.errors import ConfigError, ModelError
from breakhis_cls.modeling import fit, network
from breakhis_cls.pipeline.batches import TrainingRows

RANDOM = config.Model(weights="random")
PRETRAINED = config.Model(weights="imagenet")  # as far as freezing goes


@pytest.fixture(scope="module")
def joined():
    keras.utils.set_random_seed(0)
    backbone = network.build_backbone(RANDOM)
    head = network.build_head(2048, 2, 0.2, 0)
    return backbone, network.join_model(backbone, head, config.Image(height_px=32, width_px=48))


def _rows():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
    return TrainingRows(pixels, np.arange(8), np.eye(2)[np.arange(8) % 2])


@pytest.mark.parametrize("part", ["conv5", "all"])
def test_tuning_at_rate_zero_moves_no_batch_norm(joined, part, tmp_path):
    backbone, model = joined
    network.set_trainable(backbone, PRETRAINED, part)
    before = [weight.numpy() for weight in backbone.weights]
    phase = config.Tune(epochs=1, peak_lr=0, batch_size=4)
    fit.fit_phase(model, phase, _rows(), _rows(), tmp_path, seed=0)
    assert all(np.array_equal(was, now.numpy()) for was, now in zip(before, backbone.weights, strict=True))


def test_training_from_scratch_moves_batch_norm(joined, tmp_path):
    backbone, model = joined
    network.set_trainable(backbone, RANDOM, "all")
    moving = [weight for weight in backbone.weights if weight.path.endswith("moving_mean")]
    before = [weight.numpy() for weight in moving]
    fit.fit_phase(model, config.Tune(epochs=1, batch_size=4), _rows(), _rows(), tmp_path, seed=0)
    assert len(moving) == 53
    assert all(not np.array_equal(was, now.numpy()) for was, now in zip(before, moving, strict=True))


def test_only_the_named_part_is_opened(joined):
    backbone, _ = joined
    network.set_trainable(backbone, PRETRAINED, "conv5")
    opened = {weight.path.split("/")[0] for weight in backbone.trainable_weights}
    assert opened and all(name.startswith("conv5") and "_bn" not in name for name in opened)


def test_a_part_above_the_features_is_refused():
    backbone = network.build_backbone(config.Model(weights="random", features=("conv4",)))
    with pytest.raises(ConfigError, match="does not feed"):
        network.set_trainable(backbone, PRETRAINED, "conv5")


def test_both_blocks_side_by_side():
    backbone = network.build_backbone(config.Model(weights="random", features=("conv4", "conv5")))
    assert backbone(np.zeros((1, 32, 32, 3), "uint8")).shape == (1, 1024 + 2048)


def test_weights_that_are_not_there_or_of_another_network(tmp_path):
    with pytest.raises(ModelError, match="no weights at"):
        network.build_backbone(config.Model(weights=str(tmp_path / "none.weights.h5")))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ModelError, match="does not hold weights of ResNet50"):
        network.build_backbone(config.Model(weights=str(tmp_path / "other.weights.h5")))


def test_a_saved_model_opens_safely_and_answers_the_same(joined, tmp_path):
    _, model = joined
    model.save(tmp_path / "model.keras")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(network.load_model(tmp_path / "model.keras")(pixels), model(pixels))
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    with pytest.raises(ModelError, match="not a Keras model"):
        network.load_model(tmp_path / "broken.keras")


def test_shared_weights_make_right_features(shared):
    """Pooled conv5 of ImageNet weights is neither dead nor wild on tissue; wrong preprocessing shows here."""
    weights = shared / "weights/resnet50_imagenet_notop.weights.h5"
    settings = config.Model(weights=str(weights))
    assert weights.weights_title(settings) == "8-bit pruned ResNet50"
    backbone = network.build_backbone(settings)
    plain = keras.applications.ResNet50(include_top=False, weights=str(weights), pooling="avg")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = plain(keras.applications.resnet50.preprocess_input(pixels.astype("float32")))
    np.testing.assert_allclose(backbone(pixels), expected, rtol=1e-4, atol=1e-4)


def test_mixed_precision_stays_inside_the_trunk():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = network.build_backbone(config.Model(weights="random"))
        model = network.join_model(
            backbone, network.build_head(2048, 2, 0.2, seed=0), config.Image(height_px=32, width_px=48)
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert backbone.get_layer("trunk").get_layer("conv5_block3_out").compute_dtype == "bfloat16"
    assert backbone.get_layer("preprocessing").compute_dtype == "float32"  # bfloat16 would round 1 level away
    assert backbone.output.dtype == "float32"
    probabilities = model.predict(np.zeros((2, 32, 48, 3), np.uint8), verbose=0)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
