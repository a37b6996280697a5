"""The networks by which people learn this field, one small file each; docs/training.md has the table."""

from importlib import import_module

from training.recipe import Recipe

NAMES = (
    *("perceptron", "logistic", "patterns", "softmax", "mlp15", "mlp16", "mlp"),
    *("lenet", "cnn", "cifar", "faces", "hand"),
)
"""From the oldest and smallest on."""


def find(name: str) -> Recipe:
    """The recipe of that name; KeyError for none."""
    if name not in NAMES:
        raise KeyError(name)
    recipe: Recipe = import_module(f"training.networks.{name}").RECIPE
    return recipe
