"""A multilayer perceptron for small pictures and for tables: 784-128-10 on digits and MNIST.

Measured on 2 cores of an Intel Xeon that other work shared (TensorFlow 2.21, 2026-11-21):

    python -m training mlp --seeds 3          97.49 % of 359 test digits, median of 3 seeds (96.10 to 98.05 %)
    python -m training mlp --data mnist --seeds 3
                                              98.62 % of 10,000 test digits, median of 3 seeds (98.60 to 98.72 %)
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
