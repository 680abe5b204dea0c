"""Which weights a backbone starts from, and their names in reports. Imports no TensorFlow."""

from pathlib import Path

from .. import config
from ..data import embeddings
from ..errors import ModelError
from ..files import sha256_of_file

# SHA-256 prefix -> the name to report: a pruned copy passes for the official file unless it is named.
KNOWN = {"2b300325d4372ac1": "8-bit pruned ResNet50"}

# As keras.applications keeps them in ~/.keras/models, and their size in MB.
IMAGENET_FILES = {
    "ResNet50": ("resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", 95),
    "DenseNet121": ("densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", 29),
    "EfficientNetV2B0": ("efficientnetv2-b0_notop.h5", 24),
    "ConvNeXtTiny": ("convnext_tiny_notop.h5", 111),
}


def encoder_identity(settings: config.Config) -> str:
    """What the features come from: the SHA-256 of `features.source`, or the weights of the backbone."""
    source = settings.features.source
    return embeddings.load_embeddings(source).sha256 if source else weights_identity(settings.model)


def encoder_title(settings: config.Config) -> str:
    """Its name in reports: `ResNet50 (imagenet) conv4`, or what `features.encoder` or the file is called."""
    if settings.features.source:
        return settings.features.encoder or Path(settings.features.source).stem
    return f"{weights_title(settings.model)} {'+'.join(settings.model.features)}"


def weights_identity(model: config.Model) -> str:
    """`random`, `imagenet` (whose content Keras's own checksum fixes) or the SHA-256 of the file in hex."""
    if model.weights in ("random", "imagenet"):
        return model.weights
    if not Path(model.weights).is_file():
        expected = f"imagenet, random, or a .weights.h5 of {model.backbone} without top"
        raise ModelError(f"no weights at {model.weights}; expected {expected}")
    return sha256_of_file(Path(model.weights))


def weights_title(model: config.Model) -> str:
    """Name of the backbone in reports, such as `ResNet50 (imagenet)`; known weights that are not official by theirs."""
    return KNOWN.get(weights_identity(model)[:16], f"{model.backbone} ({Path(model.weights).name})")
