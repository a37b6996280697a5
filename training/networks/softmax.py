"""One layer, no hidden neurons: 784-10 on MNIST, 7,850 parameters; under softmax, or each neuron under its sigmoid.

MEASURED
"""

from pathlib import Path

from training.networks import parts
from training.recipe import Recipe

RECIPE = Recipe(
    name="softmax",
    summary="Train one layer of neurons, under softmax or sigmoid.",
    script=Path(__file__),
    network=parts.dense,
    knobs=("output",),
    defaults={"data": "mnist", "hidden": "", "learning_rate": 2e-3},
    measured={"mnist": {"epochs": 20, "batch_size": 128, "target": 0.92}},
)
