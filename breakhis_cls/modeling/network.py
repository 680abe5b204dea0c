"""A backbone with its own preprocessing inside the model, a pooled head, and what is frozen when."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import keras
from keras import layers

from .. import config
from ..errors import ConfigError, ModelError
from .backbones import BACKBONES, layers_after, stage_output
from .weights import weights_identity

BLOCKS = ("conv4", "conv5")  # whose pooled outputs may feed the head; part of the feature cache's key
BEFORE = {"conv5": "conv4", "conv4": "conv3"}  # tune.part -> the last stage that stays closed
SCRATCH_MOMENTUM = 0.9  # Keras's 0.99 needs some 500 steps before BatchNorm's averages mean anything


def widths(model: config.Model) -> dict[str, int]:
    """Pooled features of each block of BLOCKS; known without building the backbone."""
    return {block: BACKBONES[model.backbone].stages[block][1] for block in BLOCKS}


def n_features(model: config.Model) -> int:
    """What the head gets: the widths of `model.features` together."""
    return sum(widths(model)[block] for block in model.features)


def build_backbone(model: config.Model, blocks: tuple[str, ...] | None = None) -> keras.Model:
    """(n, h, w, 3) RGB in [0, 255] -> (n, d) pooled outputs of `blocks` side by side; d by `widths`.

    conv5 alone is what keras.applications gives with `pooling="avg"` on images preprocessed as it says. Random weights
    come from Keras's global seed: call `keras.utils.set_random_seed` first.
    Raises ModelError where the weights are missing or of another architecture.
    """
    kind, blocks = BACKBONES[model.backbone], blocks or model.features
    image = keras.Input((None, None, 3), name="image")
    whole = _pretrained(model)
    trunk = keras.Model(whole.input, [stage_output(whole, kind.stages[block][0]) for block in blocks], name="trunk")
    outputs = trunk(kind.preprocessing(name="preprocessing", dtype="float32")(image))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    pooled = [layers.GlobalAveragePooling2D(dtype="float32")(output) for output in outputs]
    if kind.normalises_pooled and "conv5" in blocks:
        at = blocks.index("conv5")
        pooled[at] = whole.layers[-1](pooled[at])
    return keras.Model(image, pooled[0] if len(pooled) == 1 else layers.Concatenate()(pooled), name="backbone")


def build_head(n_features: int, n_classes: int, dropout: float, seed: int) -> keras.Model:
    """(n, d) pooled features -> (n, n_classes) probabilities, float32 whatever the precision of the rest.

    The features are standardised first (identity until `adapt`), so that one learning rate suits every block.
    """
    return keras.Sequential(
        [
            keras.Input((n_features,), name="features"),
            layers.Normalization(name="standardise", dtype="float32"),
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


def join_model(backbone: keras.Model, head: keras.Model, image: config.Image) -> keras.Model:
    """Images of (n, height_px, width_px, 3) uint8 -> probabilities; shares both parts' weights."""
    pixels = keras.Input((image.height_px, image.width_px, 3), dtype="uint8", name="image")
    return keras.Model(pixels, head(backbone(pixels)), name="breakhis")


def set_trainable(backbone: keras.Model, model: config.Model, part: str) -> None:
    """Open `part` of the trunk for training. BatchNorm stays frozen unless the weights are random.

    `fit` overrides `training=False` in Keras 3 (keras#20285): the flag on each BatchNorm is what holds its statistics,
    and a rate of 0 what keeps the dropout of closed stages still (EfficientNet's), as it was when features were kept.
    Call it before `compile`; afterwards it does nothing. Raises ConfigError where the part does not feed the head.
    """
    trunk, from_scratch = backbone.get_layer("trunk"), model.weights == "random"
    opened = _opened(trunk, model, part)
    backbone.trainable = True
    for layer in trunk.layers:
        is_batch_norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer in opened and (from_scratch or not is_batch_norm)
        if is_batch_norm and from_scratch:
            layer.momentum = SCRATCH_MOMENTUM
        if isinstance(layer, layers.Dropout) and layer not in opened:
            layer.rate = 0.0


def load_model(path: Path) -> keras.Model:
    """Open a model.keras in safe mode; ModelError if it is missing or not one of ours."""
    if not path.is_file():
        raise ModelError(f"no model at {path}; expected the model.keras of a finished run")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a Keras model that can be opened safely: {_first_line(error)}") from None


def _opened(trunk: keras.Model, model: config.Model, part: str) -> list[layers.Layer]:
    if part not in BEFORE:
        return trunk.layers if part == "all" else []
    opened = layers_after(trunk, BACKBONES[model.backbone].stages[BEFORE[part]][0])
    if not opened:
        raise ConfigError(f"tune.part {part} does not feed model.features; say --tune.part conv4, or conv5 features")
    return opened


def _pretrained(model: config.Model) -> keras.Model:
    build = BACKBONES[model.backbone].build
    if model.weights == "random":
        return build(include_top=False, weights=None)
    if model.weights == "imagenet":
        return _with_imagenet(build)
    weights_identity(model)  # a missing file is told by its own sentence
    try:
        with warnings.catch_warnings():
            # Keras 3.15 looks for every layer twice; older files hold it once. What is not found at all raises.
            warnings.filterwarnings("ignore", "Skipping nested container at '_operations_by_depth")
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
