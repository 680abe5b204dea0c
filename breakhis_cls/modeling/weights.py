"""Which weights a backbone starts from, and what they must be called. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path

from .. import config
from ..errors import ModelError
from ..files import sha256_of_file

KNOWN = {"2b300325d4372ac1": "8-bit pruned ResNet50"}  # SHA-256 prefix -> what they must be called
IMAGENET_FILES = {   # as keras.applications keeps them in ~/.keras/models, and their size there in MB
    "ResNet50": ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", 95),
    "DenseNet121": ("densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", 29),
    "EfficientNetV2B0": ("efficientnetv2-b0_notop.h5", 24),
    "ConvNeXtTiny": ("convnext_tiny_notop.h5", 111),
}  # fmt: skip


def weights_identity(model: config.Model) -> str:
    """Content of the weights: `random`, `imagenet` (fixed by Keras's own checksum) or a file's SHA-256."""
    if model.weights in ("random", "imagenet"):
        return model.weights
    path = Path(model.weights)
    if not path.is_file():
        expected = f"imagenet, random, or a .weights.h5 of {model.backbone} without top"
        raise ModelError(f"no weights at {path}; expected {expected}")
    return sha256_of_file(path)


def weights_sha256(model: config.Model) -> str | None:
    """SHA-256 of the weights' file; None for random and imagenet, which have no file of the user's."""
    found = weights_identity(model)
    return None if found == model.weights else found


def weights_title(model: config.Model) -> str:
    """What a report calls the backbone, such as `ResNet50 (imagenet)`; known non-official weights by their name."""
    found = weights_identity(model)
    if found in ("random", "imagenet"):
        return f"{model.backbone} ({found})"
    return KNOWN.get(found[:16], f"{model.backbone} ({Path(model.weights).name})")
