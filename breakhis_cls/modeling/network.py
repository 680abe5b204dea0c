"""A backbone with its own preprocessing inside the model, a head on its pooled features, and what is frozen when."""

import random
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import layers, tree

from .. import config
from ..errors import ModelError
from .backbones import BACKBONES, stage_output
from .features import BLOCKS
from .head import LinearHead, check_reads_images, load_head
from .weights import weights_identity

LAST_FROZEN = {"conv5": "conv4", "conv4": "conv3"}  # tune.part -> the last stage that stays frozen
SCRATCH_MOMENTUM = 0.9  # Keras's 0.99 needs some 500 steps before BatchNorm's averages mean anything


def widths(model: config.Model) -> dict[str, int]:
    """Number of pooled features of each block of BLOCKS; known without building the backbone."""
    return {block: BACKBONES[model.backbone].stages[block][1] for block in BLOCKS}


def build_backbone(model: config.Model, blocks: tuple[str, ...] | None = None, seed: int = 0) -> keras.Model:
    """(n, h, w, 3) RGB in [0, 255] -> (n, d) pooled outputs of `blocks` side by side; d by `widths`.

    conv5 alone is what keras.applications gives with `pooling="avg"` on images that its own function preprocessed.
    seed: of random weights.
    Raises ModelError where the weights are missing or of another architecture.
    """
    kind, blocks = BACKBONES[model.backbone], blocks or model.features
    random.seed(seed)  # Keras draws the seeds of initialisers here; its own function would import TensorFlow on JAX

    # --- the network of keras.applications, with its weights ---
    weights_identity(model)  # raises where the file is missing
    try:
        with warnings.catch_warnings():
            # Keras 3.15 looks for every layer twice; older files hold it once. What is not found at all raises.
            warnings.filterwarnings("ignore", "Skipping nested container at '_operations_by_depth")
            network = kind.build(include_top=False, weights=None if model.weights == "random" else model.weights)
    except Exception as error:  # Keras's get_file raises a bare one where there is no network to download from
        if model.weights == "imagenet":
            advice = (
                "download them once where there is a network (they stay in ~/.keras/models), or see --model.weights"
            )
            raise ModelError(f"ImageNet weights could not be downloaded ({_first_line(error)}); {advice}") from None
        fault = f"{model.weights} does not hold weights of {model.backbone} without top: {_first_line(error)}"
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


def build_head(n_features: int, n_classes: int, dropout: float, seed: int, l2: float = 0.0) -> keras.Model:
    """(n, d) pooled features -> (n, n_classes) probabilities, float32 whatever the precision of the rest.

    The features are standardised first (identity until `adapt`), so that one learning rate suits every block. The last
    layer starts from zero: random weights would never decay, and decide many answers. l2: penalty of its kernel.
    """
    start = {"kernel_initializer": "zeros", "kernel_regularizer": keras.regularizers.L2(l2) if l2 else None}
    steps = [
        keras.Input((n_features,), name="features"),
        layers.Normalization(name="standardise", dtype="float32"),
        layers.Dropout(dropout, seed=seed, name="dropout"),
        # Mixed precision must not reach the last layer.
        layers.Dense(n_classes, "softmax", name="probabilities", dtype="float32", **start),
    ]
    return keras.Sequential(steps, name="head")


def join_model(backbone: keras.Model, head: keras.Model, image: config.Image) -> keras.Model:
    """Images of (n, height_px, width_px, 3) uint8 -> probabilities; shares both parts' weights."""
    pixels = keras.Input((image.height_px, image.width_px, 3), dtype="uint8", name="image")
    return keras.Model(pixels, head(backbone(pixels)), name="breakhis")


def join_outputs(model: keras.Model, frozen: keras.Model) -> keras.Model:
    """Images as `model` takes them -> {"probabilities", "features"}; features of `frozen`, which may be its backbone.

    Its weights are constants or variables that every export format knows: Normalization keeps its mean outside of both.
    """
    pixels = keras.Input(model.input_shape[1:], dtype="uint8", name="image")
    own = model.get_layer("backbone")(pixels)
    trained = get_head_weights(model.get_layer("head"))
    deviation = np.maximum(np.sqrt(trained.variance), 1e-7)
    standardise = layers.Rescaling((1 / deviation).tolist(), (-trained.mean / deviation).tolist(), dtype="float32")
    last = layers.Dense(len(trained.bias), "softmax", name="probabilities", dtype="float32")
    probabilities = last(standardise(own))
    last.set_weights([trained.kernel, trained.bias])
    features = own if frozen is model.get_layer("backbone") else frozen(pixels)
    return keras.Model(pixels, {"probabilities": probabilities, "features": features}, name="breakhis_joint")


def set_trainable(backbone: keras.Model, model: config.Model, part: str) -> None:
    """Before `compile`: train `part` of the trunk and freeze the rest, and BatchNorm unless the weights are random."""
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


def load_run_model(folder: Path) -> keras.Model:
    """The whole model of a finished run: its model.keras, or its head.npz joined with the backbone of its config.yaml.

    Raises ModelError where neither can be read, or where settings are not those that the head was trained with.
    """
    settings = config.load_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else config.Config()
    check_reads_images(settings, folder)
    if (folder / "model.keras").is_file() or not (folder / "head.npz").is_file():
        return load_model(folder / "model.keras")
    trained = load_head(folder / "head.npz", settings)
    backbone = build_backbone(settings.model, seed=settings.run.seed)
    head = build_head(len(trained.mean), len(trained.bias), settings.model.dropout, settings.run.seed)
    set_head_weights(head, trained)
    return join_model(backbone, head, settings.image)


def load_model(path: Path) -> keras.Model:
    """Open a model.keras in safe mode; ModelError if it is missing or not one of ours."""
    if not path.is_file():
        raise ModelError(f"no model at {path}; expected the model.keras or head.npz of a finished run")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a Keras model that can be opened safely: {_first_line(error)}") from None


def set_head_weights(head: keras.Model, trained: LinearHead) -> None:
    """Give Keras's layers the weights of a head, standardising included."""
    head.get_layer("probabilities").set_weights([trained.kernel, trained.bias])
    standardise = head.get_layer("standardise")
    standardise.set_weights([trained.mean, trained.variance, np.zeros((), int)])  # the last counts what was adapted to
    standardise.finalize_state()  # else it keeps the mean and variance it was built with


def get_head_weights(head: keras.Model) -> LinearHead:
    """The weights of Keras's layers as a head."""
    mean, variance, _ = head.get_layer("standardise").get_weights()
    return LinearHead(mean, variance, *head.get_layer("probabilities").get_weights())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
