"""Networks of keras.applications: the preprocessing of each, where its stages end, and how many channels they have."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import layers

IMAGENET_MEAN_BGR = (103.939, 116.779, 123.68)  # Keras's "caffe" preprocessing, which ResNet50 v1 was trained with
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0, 1]: Keras's "torch" mode


@keras.saving.register_keras_serializable("breakhis_cls")
class CaffePreprocessing(layers.Layer):
    """RGB in [0, 255], any dtype, (..., 3) -> BGR minus ImageNet's mean, float, as `resnet50.preprocess_input` does."""

    # preprocess_input wraps uint8 around and writes into its argument. Rescaling before ResNet50 is a common mistake.

    def call(self, rgb):
        bgr = keras.ops.flip(keras.ops.cast(rgb, self.compute_dtype), axis=-1)
        return bgr - keras.ops.convert_to_tensor(IMAGENET_MEAN_BGR, dtype=self.compute_dtype)


def torch_preprocessing(**options) -> layers.Layer:
    """RGB in [0, 255], any dtype, (..., 3) -> (RGB / 255 - mean) / std of ImageNet, as `densenet.preprocess_input`."""
    scale = [1 / (255 * std) for std in IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return layers.Rescaling(scale, offset, **options)


@dataclass(frozen=True)
class Backbone:
    """How to build a network of keras.applications, and where its stages are."""

    build: Callable[..., keras.Model]  # called with include_top=False and weights
    # conv3, conv4, conv5 (1/8, 1/16 and 1/32 of the image's size) -> name of the stage's last layer, its channels
    stages: dict[str, tuple[str, int]]
    # RGB in [0, 255] -> what `build` expects; Identity where the network preprocesses by itself
    preprocessing: Callable[..., layers.Layer] = layers.Identity
    normalises_pooled: bool = False  # its last layer is a LayerNormalization that was trained on the pooled conv5


BACKBONES = {
    "ResNet50": Backbone(
        keras.applications.ResNet50,
        {"conv3": ("conv3_block4_out", 512), "conv4": ("conv4_block6_out", 1024), "conv5": ("conv5_block3_out", 2048)},
        CaffePreprocessing,
    ),
    # DenseNet normalises before it convolves: a stage ends after the BatchNorm and ReLU that follow it.
    "DenseNet121": Backbone(
        keras.applications.DenseNet121,
        {"conv3": ("pool3_relu", 512), "conv4": ("pool4_relu", 1024), "conv5": ("relu", 1024)},
        torch_preprocessing,
    ),
    "EfficientNetV2B0": Backbone(
        keras.applications.EfficientNetV2B0,
        {"conv3": ("block3b_add", 48), "conv4": ("block5e_add", 112), "conv5": ("top_activation", 1280)},
    ),
    "ConvNeXtTiny": Backbone(
        keras.applications.ConvNeXtTiny,
        {
            "conv3": ("convnext_tiny_stage_1_block_2_identity", 192),
            "conv4": ("convnext_tiny_stage_2_block_8_identity", 384),
            "conv5": ("convnext_tiny_stage_3_block_2_identity", 768),
        },
        normalises_pooled=True,
    ),
}


def stage_output(network: keras.Model, layer: str) -> keras.KerasTensor:
    """The output of `layer`, or of the sum that follows it where that is no layer (the `+` in ConvNeXt's blocks)."""
    operations = network.operations
    at = [operation.name for operation in operations].index(layer)
    next_one = operations[at + 1 : at + 2]
    is_sum = bool(next_one) and not isinstance(next_one[0], layers.Layer)
    return operations[at + is_sum].output
