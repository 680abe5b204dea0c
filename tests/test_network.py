"""Backbone and head joined: what is frozen, what is saved, weights that do not fit. See also test_backbones.py."""

import keras
import numpy as np
import pytest
from tiny_backbone import TINY

from breakhis_cls import config
from breakhis_cls.errors import ModelError
from breakhis_cls.modeling import backbones, fit, network
from breakhis_cls.modeling.head import LinearHead, save_head
from breakhis_cls.modeling.weights import weights_title
from breakhis_cls.pipeline.batches import TrainingRows

RANDOM = config.Model(weights="random", features=("conv5",))
PRETRAINED = config.Model(weights="imagenet", features=("conv5",))  # as far as freezing goes


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


@pytest.mark.parametrize("part", ["conv5", pytest.param("all", marks=pytest.mark.slow)])
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


def test_only_the_chosen_part_is_trainable(joined):
    backbone, _ = joined
    network.set_trainable(backbone, PRETRAINED, "conv5")
    opened = {weight.path.split("/")[0] for weight in backbone.trainable_weights}
    assert opened and all(name.startswith("conv5") and "_bn" not in name for name in opened)


def test_both_blocks_side_by_side():
    backbone = network.build_backbone(config.Model(weights="random", features=("conv4", "conv5")))
    assert backbone(np.zeros((1, 32, 32, 3), "uint8")).shape == (1, 1024 + 2048)


def test_missing_weights_and_those_of_another_network_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no weights at"):
        network.build_backbone(config.Model(weights=str(tmp_path / "none.weights.h5")))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ModelError, match="does not hold weights of ResNet50"):
        network.build_backbone(config.Model(weights=str(tmp_path / "other.weights.h5")))


def test_a_saved_model_opens_safely_and_predicts_the_same(joined, tmp_path):
    _, model = joined
    model.save(tmp_path / "model.keras")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(network.load_model(tmp_path / "model.keras")(pixels), model(pixels))
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    with pytest.raises(ModelError, match="not a Keras model"):
        network.load_model(tmp_path / "broken.keras")


def test_features_of_imagenet_weights_equal_those_of_keras(shared):
    weights = shared / "weights/resnet50_imagenet_notop.weights.h5"
    settings = config.Model(weights=str(weights), features=("conv5",))
    assert weights_title(settings) == "8-bit pruned ResNet50"
    backbone = network.build_backbone(settings)
    plain = keras.applications.ResNet50(include_top=False, weights=str(weights), pooling="avg")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = plain(keras.applications.resnet50.preprocess_input(pixels.astype("float32")))
    np.testing.assert_allclose(backbone(pixels), expected, rtol=1e-4, atol=1e-4)


def test_a_saved_head_is_joined_with_the_backbone_it_was_fitted_on(tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "ResNet50", TINY)
    rng = np.random.default_rng(0)
    settings = config.Config(model=RANDOM, image=config.Image(height_px=32, width_px=64))
    fitted = LinearHead(rng.normal(3, 1, 16), rng.uniform(1, 2, 16), rng.normal(size=(16, 2)), rng.normal(size=2))
    save_head(tmp_path / "head.npz", fitted, settings)
    (tmp_path / "config.yaml").write_text(config.dump_config(settings))
    keras.utils.set_random_seed(settings.run.seed)
    backbone = network.build_backbone(RANDOM)
    pixels = rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    expected = fitted.predict(backbone(pixels).numpy())
    np.testing.assert_allclose(network.load_run_model(tmp_path)(pixels), expected, atol=1e-5)

    (tmp_path / "config.yaml").write_text(config.dump_config(config.change_settings(settings, {"run.seed": 1})))
    with pytest.raises(ModelError, match=r"was trained with run.seed"):
        network.load_run_model(tmp_path)


def test_mixed_precision_stays_inside_the_trunk():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = network.build_backbone(RANDOM)
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
