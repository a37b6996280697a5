"""A small residual network for colour pictures of 32x32: CIFAR-10 with 1.65 million parameters.

Eight convolutions and a layer of outputs, two of the convolutions' pairs bridged by a sum, in the shape of the ResNet-9
of D. Page, How to train your ResNet (2018), with half its filters. The test is on 10,000 training pictures held out
before anything was chosen; the source's own test part is reported beside it.

The target is 90 % of the 10,000 in under 90 minutes on 2 cores; not yet measured with these settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.augment import Augmentation
from training.data import Dataset
from training.networks import parts
from training.recipe import Recipe


def network(dataset: Dataset, options: argparse.Namespace) -> Any:
    """Raw pictures in, the probability of each class out."""
    from keras import Input, Model, Sequential, layers

    given = Input(dataset.row_shape)
    x = Sequential([Input(dataset.row_shape), *parts.with_channels(dataset)], name="scaled")(given)
    x = _convolution(x, 32)
    x = _residual(layers.MaxPooling2D()(_convolution(x, 64)))
    x = layers.MaxPooling2D()(_convolution(x, 128))
    x = _residual(layers.MaxPooling2D()(_convolution(x, 256)))
    x = layers.GlobalMaxPooling2D()(x)
    if options.dropout:
        x = layers.Dropout(options.dropout)(x)
    return Model(given, parts.outputs(dataset, options)(x), name="cifar")


def _convolution(x: Any, filters: int) -> Any:
    from keras import layers

    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _residual(x: Any) -> Any:
    from keras import layers

    filters = x.shape[-1]
    return layers.Add()([x, _convolution(_convolution(x, filters), filters)])


RECIPE = Recipe(
    name="cifar",
    summary="Train a small residual network on colour pictures.",
    script=Path(__file__),
    network=network,
    knobs=("dropout", "output"),
    defaults={
        **{"data": "cifar10", "optimizer": "adamw", "weight_decay": 0.05, "learning_rate": 3e-3, "warmup": 3},
        **{"epochs": 30, "batch_size": 256, "augment": "yes", "patience": 0, "dropout": 0.2},
    },
    measured={"cifar10": {"test_rows": 10_000, "validation": 0.05, "target": 0.90}},
    check=parts.pictures_only("cifar", 16),
    augmentation=Augmentation(shift=4, mirror=True, reflect=True, cut=8),
)
