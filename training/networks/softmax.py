"""One layer, no hidden neurons: 784-10 on MNIST, 7,850 parameters; under softmax, or each neuron under its sigmoid.

Measured on 2 cores of an Intel Xeon that other work shared (TensorFlow 2.21, 2026-11-21):

    python -m training softmax --seeds 3      92.78 % of 10,000 test digits, median of 3 seeds (92.73 to 92.80 %)
    python -m training softmax --output sigmoid --learning-rate 0.004 --target 0.92 --seeds 3
                                              92.04 %, median of 3 seeds (92.01 to 92.04 %)
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
