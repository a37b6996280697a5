"""What several networks are made of: the scaling at the input, an activation, the neurons at the output."""

from __future__ import annotations

import argparse
from typing import Any

from training.data import Dataset
from training.errors import DataError

DENSE = ("hidden", "activation", "slope", "dropout", "batch_norm", "output")
"""The flags of a fully connected network."""


def scaled(dataset: Dataset) -> list[Any]:
    """Layers from raw rows to small numbers: pictures by 255, columns by what training has seen of them."""
    from keras import layers

    if not dataset.is_table:
        return [layers.Rescaling(1 / 255)]
    normalization = layers.Normalization()
    normalization.adapt(dataset.train.inputs)
    return [normalization]


def with_channels(dataset: Dataset) -> list[Any]:
    """Scaled pictures [H,W,C]; grey ones get their channel last, for ONNX Runtime scales [N,H,W,1] slowly."""
    from keras import layers

    height, width, *channels = dataset.row_shape
    return [*scaled(dataset), *([] if channels else [layers.Reshape((height, width, 1))])]


def activation(options: argparse.Namespace) -> Any:
    """The layer of --activation and --slope."""
    from keras import layers

    if options.activation == "leaky_relu":
        return layers.LeakyReLU(options.slope)
    return layers.Activation(options.activation)


def outputs(dataset: Dataset, options: argparse.Namespace) -> Any:
    """A neuron for each class under softmax or sigmoid; of two classes, sigmoid needs one neuron only.

    In float32 even where the rest computes in half precision: small probabilities need it.
    """
    from keras import layers

    classes = len(dataset.labels)
    neurons = 1 if options.output == "sigmoid" and classes == 2 else classes
    return layers.Dense(neurons, activation=options.output, dtype="float32", name="output")


def dense(dataset: Dataset, options: argparse.Namespace) -> Any:
    """Scaling, the hidden layers (none for an empty --hidden), the output."""
    from keras import Input, Sequential, layers

    network: list[Any] = [Input(dataset.row_shape), *scaled(dataset)]
    if not dataset.is_table:
        network.append(layers.Flatten())
    for neurons in map(int, filter(None, options.hidden.split(","))):
        network.append(layers.Dense(neurons, use_bias=options.batch_norm == "no"))
        if options.batch_norm == "yes":
            network.append(layers.BatchNormalization(momentum=0.9))
        network.append(activation(options))
        if options.dropout:
            network.append(layers.Dropout(options.dropout))
    network.append(outputs(dataset, options))
    return Sequential(network, name="dense")


def pictures_only(recipe: str, side: int) -> Any:
    """A check that refuses what has no neighbourhoods to convolve: tables, and pictures smaller than `side`."""

    def check(dataset: Dataset, _options: argparse.Namespace) -> None:
        if dataset.is_table:
            raise DataError(
                f"{dataset.name} is a table; {recipe} expects pictures (python -m training mlp takes tables)"
            )
        if min(dataset.row_shape[:2]) < side:
            size = "x".join(map(str, dataset.row_shape[:2]))
            raise DataError(f"{dataset.name} has pictures of {size}; {recipe} expects {side}x{side} or more")

    return check
