"""A multilayer perceptron for small pictures and for tables: 784-128-10 on digits and MNIST.

MEASURED
"""

from pathlib import Path

from training.augment import Augmentation
from training.networks import parts
from training.recipe import Recipe

RECIPE = Recipe(
    name="mlp",
    summary="Train a multilayer perceptron, on pictures or a table.",
    script=Path(__file__),
    network=parts.dense,
    knobs=parts.DENSE,
    defaults={"learning_rate": 2e-3, "dropout": 0.1},
    measured={
        "digits": {"epochs": 30, "batch_size": 32, "target": 0.96},
        "mnist": {
            **{"epochs": 40, "batch_size": 128, "target": 0.983},
            **{"augment": "yes", "dropout": 0.0, "patience": 10},
        },
    },
    augmentation=Augmentation(shift=1),
)
