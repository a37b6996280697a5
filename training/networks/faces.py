"""Yes or no from one sigmoid neuron: two folders of pictures, such as faces and everything else.

    python -m training faces --data my-pictures/

with my-pictures/no and my-pictures/yes, or whatever the two answers are called; the second, by the alphabet, is the one
whose probability the neuron gives. There is no target unless --target sets one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training.augment import Augmentation
from training.data import Dataset
from training.errors import DataError
from training.networks import cnn, parts
from training.recipe import Recipe


def two_kinds_of_pictures(dataset: Dataset, options: argparse.Namespace) -> None:
    """Refuse what is no question of yes or no, or no pictures."""
    parts.pictures_only("faces", 8)(dataset, options)
    if len(dataset.labels) != 2:
        raise DataError(
            f"{dataset.name} has {len(dataset.labels)} classes; faces answers yes or no and expects 2 "
            "(python -m training cnn takes any number)"
        )


RECIPE = Recipe(
    name="faces",
    summary="Train one sigmoid neuron on convolutions: yes or no from pictures.",
    script=Path(__file__),
    network=cnn.network,
    knobs=("dropout", "output"),
    defaults={
        **{"data": None, "output": "sigmoid", "learning_rate": 2e-3, "dropout": 0.3},
        **{"epochs": 40, "batch_size": 32, "augment": "yes", "patience": 10},
    },
    check=two_kinds_of_pictures,
    augmentation=Augmentation(shift=2, turn=5, zoom=0.05, mirror=True, reflect=True),
)
