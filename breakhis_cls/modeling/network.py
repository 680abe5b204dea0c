"""ResNet50 with its own preprocessing inside the model, a pooled head, and what is frozen when."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
from keras import layers

from .. import config
from ..errors import ConfigError, ModelError
from ..files import sha256_of

BLOCKS: dict[str, tuple[str, int]] = {
    "conv4": ("conv4_block6_out", 1024),
    "conv5": ("conv5_block3_out", 2048),
}  # output layer, width
TUNED = {"none": (), "conv5": ("conv5",), "conv4": ("conv4", "conv5"), "all": ("conv",)}  # by layer name's prefix
IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)  # Keras's "caffe" preprocessing, which ResNet50 v1 was trained with
KNOWN_WEIGHTS = {"2b300325d4372ac1": "8-bit pruned ResNet50"}  # SHA-256 prefix -> what they must be called
SCRATCH_MOMENTUM = 0.9  # Keras's 0.99 needs some 500 steps before BatchNorm's averages mean anything


@keras.saving.register_keras_serializable("breakhis_cls")
class CaffePreprocessing(layers.Layer):
    """RGB in [0, 255], any dtype, (..., 3) -> BGR minus ImageNet's mean, float. What `resnet50.preprocess_input` does,
    without its wrap-around on uint8 and without writing into its argument. (`Rescaling` here is the classic mistake.)
    """

    def call(self, rgb):
        bgr = keras.ops.flip(keras.ops.cast(rgb, self.compute_dtype), axis=-1)
        return bgr - keras.ops.convert_to_tensor(IMAGENET_MEAN_BGR, dtype=self.compute_dtype)


def weights_id(model: config.Model) -> str:
    """Content of the weights: `random`, `imagenet` (fixed by Keras's own checksum) or a file's SHA-256."""
    if model.weights in ("random", "imagenet"):
        return model.weights
    path = Path(model.weights)
    if not path.is_file():
        expected = f"imagenet, random, or a .weights.h5 of {model.backbone} without top"
        raise ModelError(f"no weights at {path}; expected {expected}")
    return sha256_of(path)


def weights_sha256(model: config.Model) -> str | None:
    """SHA-256 of the weights' file; None for random and imagenet, which have no file of the user's."""
    found = weights_id(model)
    return None if found == model.weights else found


def title(model: config.Model) -> str:
    """What a report calls the backbone, such as `ResNet50 (imagenet)`; known non-official weights by their name."""
    found = weights_id(model)
    if found in ("random", "imagenet"):
        return f"{model.backbone} ({found})"
    return KNOWN_WEIGHTS.get(found[:16], f"{model.backbone} ({Path(model.weights).name})")


def build_backbone(model: config.Model, blocks: tuple[str, ...] | None = None) -> keras.Model:
    """(n, h, w, 3) RGB in [0, 255] -> (n, d) pooled outputs of `blocks` side by side (1024 for conv4, 2048 for conv5).

    Random weights come from Keras's global seed: call `keras.utils.set_random_seed` first.
    Raises ModelError where the weights are missing or of another architecture.
    """
    image = keras.Input((None, None, 3), name="image")
    resnet = _pretrained(model)
    ends = [resnet.get_layer(BLOCKS[block][0]).output for block in blocks or model.features]
    trunk = keras.Model(resnet.input, ends, name="trunk")
    outputs = trunk(CaffePreprocessing(name="preprocessing")(image))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    pooled = [layers.GlobalAveragePooling2D()(output) for output in outputs]
    return keras.Model(image, pooled[0] if len(pooled) == 1 else layers.Concatenate()(pooled), name="backbone")


def build_head(n_features: int, n_classes: int, dropout: float, seed: int) -> keras.Model:
    """(n, d) pooled features -> (n, n_classes) probabilities, float32 whatever the precision of the rest.

    The features are standardised first (identity until `adapt`), so that one learning rate suits every block.
    """
    return keras.Sequential(
        [
            keras.Input((n_features,), name="features"),
            layers.Normalization(name="standardise"),
            layers.Dropout(dropout, seed=seed, name="dropout"),
            layers.Dense(
                n_classes,
                activation="softmax",
                dtype="float32",  # mixed precision must not reach the last layer
                kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
                name="probabilities",
            ),
        ],
        name="head",
    )


def join(backbone: keras.Model, head: keras.Model, image: config.Image) -> keras.Model:
    """Images of (n, height_px, width_px, 3) uint8 -> probabilities; shares both parts' weights."""
    pixels = keras.Input((image.height_px, image.width_px, 3), dtype="uint8", name="image")
    return keras.Model(pixels, head(backbone(pixels)), name="breakhis")


def set_trainable(backbone: keras.Model, part: str, from_scratch: bool) -> None:
    """Open `part` of the trunk for training. BatchNorm stays frozen unless the weights are random.

    `fit` overrides `training=False` in Keras 3 (keras#20285): the flag on each BatchNorm is what holds its statistics.
    Call it before `compile`; afterwards it does nothing. Raises ConfigError where the part does not feed the head.
    """
    trunk = backbone.get_layer("trunk")
    opened = [layer for layer in trunk.layers if layer.name.startswith(TUNED[part])] if part != "none" else []
    if part != "none" and not opened:
        raise ConfigError(f"tune.part {part} does not feed model.features; say --tune.part conv4, or conv5 features")
    backbone.trainable = True
    for layer in trunk.layers:
        is_batch_norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer in opened and (from_scratch or not is_batch_norm)
        if is_batch_norm and from_scratch:
            layer.momentum = SCRATCH_MOMENTUM


def load(path: Path) -> keras.Model:
    """Open a model.keras in safe mode; ModelError if it is missing or not one of ours."""
    if not path.is_file():
        raise ModelError(f"no model at {path}; expected the model.keras of a finished run")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a Keras model that can be opened safely: {_first_line(error)}") from None


def _pretrained(model: config.Model) -> keras.Model:
    build = keras.applications.ResNet50
    if model.weights == "random":
        return build(include_top=False, weights=None)
    if model.weights == "imagenet":
        return _with_imagenet(build)
    weights_id(model)  # a missing file is told by its own sentence
    try:
        return build(include_top=False, weights=model.weights)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"{model.weights} does not hold weights of {model.backbone} without top: {_first_line(error)}"
        ) from None


def _with_imagenet(build) -> keras.Model:
    try:
        return build(include_top=False, weights="imagenet")
    except Exception as error:  # get_file raises bare Exception when the network is away
        raise ModelError(
            f"ImageNet weights could not be fetched ({_first_line(error)}). Fetch them once where there is a network "
            "(they stay in ~/.keras/models), or name a file with --model.weights PATH"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
