"""784-15-10: the smallest hidden layer that reads digits fairly well; 11,935 parameters.

Measured on 2 cores of an Intel Xeon that other work shared (TensorFlow 2.21, 2026-11-21):

    python -m training mlp15 --seeds 3        94.17 % of 10,000 test digits, median of 3 seeds (94.13 to 94.60 %)
"""

from pathlib import Path

from training.networks import parts
from training.recipe import Recipe

RECIPE = Recipe(
    name="mlp15",
    summary="Train a perceptron with 15 hidden neurons.",
    script=Path(__file__),
    network=parts.dense,
    knobs=parts.DENSE,
    defaults={"data": "mnist", "hidden": "15", "activation": "sigmoid", "learning_rate": 5e-3},
    measured={"mnist": {"epochs": 30, "batch_size": 128, "target": 0.935}},
)
