"""A backbone with its own preprocessing inside the model, a head on its pooled features, and what is frozen when."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from .. import config
from ..data.splits import class_names
from ..errors import ModelError
from ..files import atomic_path
from .backbones import BACKBONES, stage_output
from .weights import weights_identity

BLOCKS = ("conv4", "conv5")  # whose pooled outputs may feed the head; part of the feature cache's key
LAST_FROZEN = {"conv5": "conv4", "conv4": "conv3"}  # tune.part -> the last stage that stays frozen
SCRATCH_MOMENTUM = 0.9  # Keras's 0.99 needs some 500 steps before BatchNorm's averages mean anything
HEAD_WEIGHTS = ("mean", "variance", "count", "kernel", "bias")  # in head.npz, in the order of `head.get_weights()`


def widths(model: config.Model) -> dict[str, int]:
    """Number of pooled features of each block of BLOCKS; known without building the backbone."""
    return {block: BACKBONES[model.backbone].stages[block][1] for block in BLOCKS}


def n_features(model: config.Model) -> int:
    """Number of inputs of the head: the widths of `model.features` together."""
    return sum(widths(model)[block] for block in model.features)


def build_backbone(model: config.Model, blocks: tuple[str, ...] | None = None) -> keras.Model:
    """(n, h, w, 3) RGB in [0, 255] -> (n, d) pooled outputs of `blocks` side by side; d by `widths`.

    conv5 alone is what keras.applications gives with `pooling="avg"` on images that its own function preprocessed.
    Random weights come from Keras's global seed: call `keras.utils.set_random_seed` first.
    Raises ModelError where the weights are missing or of another architecture.
    """
    kind, blocks = BACKBONES[model.backbone], blocks or model.features

    # --- the network of keras.applications, with its weights ---
    weights_identity(model)  # raises where the file is missing
    # Keras's get_file raises a bare Exception where there is no network to download from.
    expected_errors = Exception if model.weights == "imagenet" else (ValueError, OSError, KeyError)
    try:
        with warnings.catch_warnings():
            # Keras 3.15 looks for every layer twice; older files hold it once. What is not found at all raises.
            warnings.filterwarnings("ignore", "Skipping nested container at '_operations_by_depth")
            network = kind.build(include_top=False, weights=None if model.weights == "random" else model.weights)
    except expected_errors as error:
        fault = f"{model.weights} does not hold weights of {model.backbone} without top: {_first_line(error)}"
        if model.weights == "imagenet":
            fault = (
                f"ImageNet weights could not be downloaded ({_first_line(error)}). Download them once on a machine "
                "with a network (they stay in ~/.keras/models), or name a file with --model.weights PATH"
            )
        raise ModelError(fault) from None

    # --- preprocessing in front, one pooled output for each block behind ---
    trunk = keras.Model(network.input, [stage_output(network, kind.stages[block][0]) for block in blocks], name="trunk")
    image = keras.Input((None, None, 3), name="image")
    outputs = trunk(kind.preprocessing(name="preprocessing", dtype="float32")(image))  # bfloat16 rounds off a level
    # Means over some hundred cells are taken in float32: bfloat16 has three significant digits.
    pooled = [layers.GlobalAveragePooling2D(dtype="float32")(output) for output in tree.flatten(outputs)]
    if kind.normalises_pooled and "conv5" in blocks:
        at = blocks.index("conv5")
        pooled[at] = network.layers[-1](pooled[at])
    return keras.Model(image, pooled[0] if len(pooled) == 1 else layers.Concatenate()(pooled), name="backbone")


def build_head(n_features: int, n_classes: int, dropout: float, seed: int) -> keras.Model:
    """(n, d) pooled features -> (n, n_classes) probabilities, float32 whatever the precision of the rest.

    The features are standardised first (identity until `adapt`), so that one learning rate suits every block.
    """
    kernel = keras.initializers.GlorotUniform(seed=seed)
    return keras.Sequential(
        [
            keras.Input((n_features,), name="features"),
            layers.Normalization(name="standardise", dtype="float32"),
            layers.Dropout(dropout, seed=seed, name="dropout"),
            # Mixed precision must not reach the last layer.
            layers.Dense(n_classes, "softmax", kernel_initializer=kernel, name="probabilities", dtype="float32"),
        ],
        name="head",
    )


def join_model(backbone: keras.Model, head: keras.Model, image: config.Image) -> keras.Model:
    """Images of (n, height_px, width_px, 3) uint8 -> probabilities; shares both parts' weights."""
    pixels = keras.Input((image.height_px, image.width_px, 3), dtype="uint8", name="image")
    return keras.Model(pixels, head(backbone(pixels)), name="breakhis")


def set_trainable(backbone: keras.Model, model: config.Model, part: str) -> None:
    """Make `part` of the trunk trainable and freeze the rest. BatchNorm stays frozen unless the weights are random.

    Call it before `compile`; afterwards it does nothing.
    """
    trunk, from_scratch = backbone.get_layer("trunk"), model.weights == "random"
    opened = trunk.layers if part == "all" else []
    if part in LAST_FROZEN:
        last_frozen, _ = BACKBONES[model.backbone].stages[LAST_FROZEN[part]]
        # Keras sorts layers by depth, and no branch runs past the end of a stage.
        opened = trunk.layers[[layer.name for layer in trunk.layers].index(last_frozen) + 1 :]
    backbone.trainable = True
    for layer in trunk.layers:
        # fit() overrides training=False in Keras 3 (keras#20285): this flag is what freezes BatchNorm's statistics.
        is_batch_norm = isinstance(layer, layers.BatchNormalization)
        layer.trainable = layer in opened and (from_scratch or not is_batch_norm)
        if is_batch_norm and from_scratch:
            layer.momentum = SCRATCH_MOMENTUM
        # EfficientNet drops whole blocks: frozen stages must not, as they did not when the features were computed.
        if isinstance(layer, layers.Dropout) and layer not in opened:
            layer.rate = 0.0


def save_head(path: Path, head: keras.Model, settings: config.Config) -> None:
    """Write head.npz: all that `load_run_model` needs beside the backbone, which many runs share (ResNet50: 95 MB)."""
    weights = dict(zip(HEAD_WEIGHTS, head.get_weights(), strict=True))
    with atomic_path(path) as temporary:
        np.savez(temporary, **weights, settings=json.dumps(_head_settings(settings)))


def load_run_model(folder: Path) -> keras.Model:
    """The whole model of a finished run: its model.keras, or its head.npz joined with the backbone of its config.yaml.

    Raises ModelError where neither file can be read, or where the backbone's weights or another setting are not those
    that the head was trained with.
    """
    path = folder / "head.npz"
    if (folder / "model.keras").is_file() or not path.is_file():
        return load_model(folder / "model.keras")
    try:
        with np.load(path, allow_pickle=False) as saved:
            trained_with = json.loads(str(saved["settings"]))
            weights = [saved[name] for name in HEAD_WEIGHTS]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a head that can be read: {_first_line(error)}; train the run again") from None
    # Features of another backbone, size or order would give probabilities without any error.
    settings = config.load_config(folder / "config.yaml")
    for name, value in _head_settings(settings).items():
        if trained_with.get(name) != value:
            raise ModelError(
                f"{path} was trained with {name} {trained_with.get(name)}, but config.yaml now stands for {value}; "
                "restore what it was trained with, or train the run again"
            )
    keras.utils.set_random_seed(settings.run.seed)  # where the backbone's weights are random
    backbone = build_backbone(settings.model)
    head = build_head(len(weights[0]), len(weights[-1]), settings.model.dropout, settings.run.seed)
    set_head_weights(head, weights)
    return join_model(backbone, head, settings.image)


def set_head_weights(head: keras.Model, weights: list[np.ndarray]) -> None:
    """Give a head the weights of another, standardising included."""
    head.set_weights(weights)
    head.get_layer("standardise").finalize_state()  # else it keeps the mean and variance it was built with


def _head_settings(settings: config.Config) -> dict[str, Any]:
    """What a head's inputs and outputs depend on, JSON-able."""
    return {
        "model.backbone": settings.model.backbone,
        "model.weights": weights_identity(settings.model),
        "run.seed": settings.run.seed if settings.model.weights == "random" else None,
        "model.features": list(settings.model.features),
        "image": settings.image.model_dump(mode="json"),
        "classes": list(class_names(settings.data.task, settings.split.protocol)),
    }


def load_model(path: Path) -> keras.Model:
    """Open a model.keras in safe mode; ModelError if it is missing or not one of ours."""
    if not path.is_file():
        raise ModelError(f"no model at {path}; expected the model.keras or head.npz of a finished run")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a Keras model that can be opened safely: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
