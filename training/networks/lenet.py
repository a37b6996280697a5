"""LeNet-5 in the shape of 1998: six and sixteen filters of 5x5, averaging pools, 120-84-10, tanh; 61,706 parameters.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition, Proceedings of the
IEEE 86(11), 1998. As is usual today, every filter of the second layer sees all six maps (there: a table of some), pools
have no weights of their own, and softmax stands for the radial basis functions.

Measured on 2 cores of an Intel Xeon that other work shared (TensorFlow 2.21, 2026-11-21):

    python -m training lenet --seeds 3        99.30 % of 10,000 test digits, median of 3 seeds (99.21 to 99.32 %)
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
    """Raw pictures in, the probability of each class out; 28x28 is padded to the 32x32 of 1998."""
    from keras import Input, Sequential, layers

    small = min(dataset.row_shape[:2]) < 32
    return Sequential(
        [
            Input(dataset.row_shape),
            *parts.with_channels(dataset),
            layers.Conv2D(6, 5, padding="same" if small else "valid", name="C1"),
            parts.activation(options),
            layers.AveragePooling2D(2, name="S2"),
            layers.Conv2D(16, 5, name="C3"),
            parts.activation(options),
            layers.AveragePooling2D(2, name="S4"),
            layers.Flatten(),
            layers.Dense(120, name="C5"),
            parts.activation(options),
            *([layers.Dropout(options.dropout)] if options.dropout else []),
            layers.Dense(84, name="F6"),
            parts.activation(options),
            parts.outputs(dataset, options),
        ],
        name="lenet",
    )


RECIPE = Recipe(
    name="lenet",
    summary="Train LeNet-5, the convolutional network of 1998.",
    script=Path(__file__),
    network=network,
    knobs=("activation", "slope", "dropout", "output"),
    defaults={"data": "mnist", "activation": "tanh", "learning_rate": 2e-3},
    measured={"mnist": {"epochs": 25, "batch_size": 128, "target": 0.99, "augment": "yes", "patience": 8}},
    check=parts.pictures_only("lenet", 16),
    augmentation=Augmentation(shift=2, turn=8, zoom=0.08),
)
