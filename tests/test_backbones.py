"""Every backbone: its preprocessing, its stages, resumed fine-tuning, and the saved model."""

import shutil

import h5py
import keras
import numpy as np
import pytest

from breakhis_cls import config
from breakhis_cls.errors import ModelError
from breakhis_cls.modeling import fit, network
from breakhis_cls.modeling.backbones import BACKBONES, CaffePreprocessing, stage_output, torch_preprocessing
from breakhis_cls.modeling.weights import IMAGENET_FILES
from breakhis_cls.pipeline.batches import TrainingRows

MODULES = {
    "ResNet50": keras.applications.resnet50,
    "DenseNet121": keras.applications.densenet,
    "EfficientNetV2B0": keras.applications.efficientnet_v2,
    "ConvNeXtTiny": keras.applications.convnext,
}
every_backbone = pytest.mark.parametrize("name", list(MODULES))
SLOW = {"marks": pytest.mark.slow}  # the first in every test run, the others in `make test-all`
PARTS = {"conv3": 8, "conv4": 16, "conv5": 32}
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
ROWS = TrainingRows(PIXELS, np.arange(8), np.eye(2)[np.arange(8) % 2])


def _settings(name, **more):
    return config.Model(backbone=name, weights="random", **more)


def _whole(name, **more):
    keras.utils.set_random_seed(0)
    return BACKBONES[name].build(include_top=False, weights=None, **more)


def _build(name, features=("conv5",)):
    """Backbone and the model that is trained; the same weights each time."""
    keras.utils.set_random_seed(0)
    backbone = network.build_backbone(_settings(name, features=features))
    head = network.build_head(backbone.output_shape[-1], 2, 0.2, 0)
    return backbone, network.join_model(backbone, head, config.Image(height_px=64, width_px=64))


def test_every_backbone_of_the_settings_is_in_the_tables():
    choices = config.Model.model_fields["backbone"].annotation.__args__
    assert set(choices) == set(BACKBONES) == set(MODULES) == set(IMAGENET_FILES)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 3)])
@pytest.mark.parametrize("name, layer", [("ResNet50", CaffePreprocessing), ("DenseNet121", torch_preprocessing)])
def test_preprocessing_equals_keras(name, layer, shape, dtype):
    rgb = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    expected = MODULES[name].preprocess_input(rgb.astype("float32").copy())
    np.testing.assert_allclose(layer()(rgb), expected, rtol=1e-5, atol=1e-6)


def test_preprocessing_leaves_its_argument_alone():
    rgb = np.full((1, 2, 2, 3), 255, "float32")
    CaffePreprocessing()(rgb)
    assert (rgb == 255).all()


@every_backbone
def test_features_equal_those_of_keras_with_its_own_preprocessing_and_pooling(name):
    backbone, _ = _build(name)
    expected = _whole(name, pooling="avg")(MODULES[name].preprocess_input(PIXELS[:2].astype("float32")))
    features = backbone(PIXELS[:2])
    assert np.ptp(features, axis=0).max() > 0  # they depend on the image
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


@every_backbone
def test_stages_end_at_an_eighth_sixteenth_and_thirtysecond(name):
    whole, stages = _whole(name), BACKBONES[name].stages
    ends = keras.Model(whole.input, [stage_output(whole, layer) for layer, _ in stages.values()])
    shapes = ends.compute_output_shape((1, 64, 96, 3))
    expected = [(1, 64 // part, 96 // part, stages[name][1]) for name, part in PARTS.items()]
    assert [tuple(shape) for shape in shapes] == expected


@pytest.mark.slow
@every_backbone
def test_resumed_fine_tuning_ends_in_the_same_bits_and_leaves_frozen_weights(name, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole" / "tune", tmp_path / "killed" / "tune"
    backbone, model = _build(name)
    network.set_trainable(backbone, config.Model(backbone=name, weights="imagenet"), "conv5")
    before = {weight.path: weight.numpy() for weight in backbone.weights}
    phase = config.Tune(epochs=2, batch_size=4, peak_lr=1e-3)

    on_epoch_end = fit.EpochCheckpoint.on_epoch_end

    def copy_first_epoch(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        if epoch == 0 and self.folder == whole:
            shutil.copytree(whole, killed)  # what a process leaves that is killed now

    monkeypatch.setattr(fit.EpochCheckpoint, "on_epoch_end", copy_first_epoch)
    undisturbed = fit.fit_phase(model, phase, ROWS, ROWS, whole, seed=0, checkpoints=True)
    moved = {weight.path for weight in backbone.weights if not np.array_equal(weight, before[weight.path])}
    assert moved and moved <= {weight.path for weight in backbone.trainable_weights}
    assert not [path for path in moved if "moving_" in path]

    monkeypatch.setattr(keras.Model, "compile", lambda *_, **__: None)  # the same graph: tracing takes most time here
    resumed = fit.fit_phase(model, phase, ROWS, ROWS, killed, seed=0, checkpoints=True)
    assert resumed.drop(columns="seconds").equals(undisturbed.drop(columns="seconds"))
    expected, weights = (_values(folder / "epoch-00002/last.weights.h5") for folder in (whole, killed))
    assert expected.keys() == weights.keys()
    assert all(np.array_equal(expected[path], weights[path]) for path in expected)


def _values(path):
    values = {}
    with h5py.File(path) as opened:
        opened.visititems(lambda at, item: values.update({at: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return values


@pytest.mark.parametrize("name", ["ResNet50", *(pytest.param(name, **SLOW) for name in list(MODULES)[1:])])
def test_a_saved_model_opens_safely_and_predicts_the_same(name, tmp_path):
    _, model = _build(name, ("conv4", "conv5"))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(network.load_model(tmp_path / "model.keras")(PIXELS[:2]), model(PIXELS[:2]))


@pytest.mark.parametrize("name", ["DenseNet121", *(pytest.param(name, **SLOW) for name in list(MODULES)[2:])])
def test_weights_of_another_network_are_refused_in_a_sentence(name, shared):
    weights = str(shared / "weights/resnet50_imagenet_notop.weights.h5")
    with pytest.raises(ModelError, match=f"does not hold weights of {name} without top") as refused:
        network.build_backbone(config.Model(backbone=name, weights=weights))
    assert "\n" not in str(refused.value)


def test_dropout_is_off_in_frozen_stages():
    backbone, _ = _build("EfficientNetV2B0")
    network.set_trainable(backbone, _settings("EfficientNetV2B0"), "conv5")
    drops = [layer for layer in backbone.get_layer("trunk").layers if isinstance(layer, keras.layers.Dropout)]
    assert {layer.rate > 0 for layer in drops} == {True, False}
    assert all((layer.rate > 0) == layer.name.startswith("block6") for layer in drops)


def test_no_two_layers_share_a_dropout_mask(tmp_path):
    _, model = _build("EfficientNetV2B0")
    checkpoint = fit.EpochCheckpoint(tmp_path, config.Tune(), seed=3)
    checkpoint.set_model(model)
    checkpoint.on_epoch_begin(1)
    drawing = [layer for layer in model._flatten_layers() if hasattr(layer, "seed_generator")]
    states = [tuple(layer.seed_generator.state.numpy()) for layer in drawing]
    assert len(set(states)) == len(drawing) == 16  # 15 blocks and the head
    checkpoint.on_epoch_begin(1)
    assert states == [tuple(layer.seed_generator.state.numpy()) for layer in drawing]
