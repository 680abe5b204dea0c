"""Three convolutions under the name ResNet50, for tests of what surrounds the backbone: a run takes a second or two."""

from __future__ import annotations

import keras
from keras import layers

from breakhis_cls.modeling.backbones import Backbone


def build(include_top: bool, weights: str | None) -> keras.Model:
    """(n, h, w, 3) -> (n, h / 32, w / 32, 16), with a BatchNorm in each stage."""
    image = keras.Input((None, None, 3))
    output = image
    for stage, width, stride in (("conv3", 4, 8), ("conv4", 8, 2), ("conv5", 16, 2)):
        output = layers.Conv2D(width, stride, stride, padding="same", name=f"{stage}_conv")(output)
        output = layers.ReLU(name=f"{stage}_out")(layers.BatchNormalization(name=f"{stage}_bn")(output))
    return keras.Model(image, output)


TINY = Backbone(build, {"conv3": ("conv3_out", 4), "conv4": ("conv4_out", 8), "conv5": ("conv5_out", 16)})
