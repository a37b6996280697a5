"""Networks whose weights are given by hand: nothing is trained, and the answers can be worked out with a pencil.

    python -m training hand --net two       2 inputs, 2 sigmoid neurons; (1.0, 0.5) gives 0.7408, 0.6457
    python -m training hand --net three     3-3-3 sigmoid; (0.9, 0.1, 0.8) gives 0.726, 0.708, 0.778
    python -m training hand --net neuron    one neuron; its weighted sum of (0.8, 0.9, 0.8) is 9.2, sigmoid 0.99990
    python -m training hand --net biased    the same with the bias -10: 0.3100

The script says what the network answers, and fails where that is not what is written here, to the last digit: 0.708 is
how a pencil leaves 0.7086, for it goes on with the three digits of what the hidden neurons gave: 0.761, 0.603, 0.650.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import assess, command, data, evaluate, fit, run
from training.recipe import Recipe


@dataclass(frozen=True)
class Given:
    """A network by its weights: a matrix [in][out] and biases [out] for each layer, an input, and its answers."""

    layers: tuple[tuple[tuple[tuple[float, ...], ...], tuple[float, ...]], ...]
    inputs: tuple[float, ...]
    answers: tuple[str, ...]


def _from(*rows: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Weights written as one row for each neuron, of what it takes from each input, turned into Keras' [in][out]."""
    return tuple(zip(*rows, strict=True))


NETS = {
    "two": Given(
        ((_from((0.9, 0.3), (0.2, 0.8)), (0.0, 0.0)),),
        (1.0, 0.5),
        ("0.7408", "0.6457"),
    ),
    "three": Given(
        (
            (_from((0.9, 0.3, 0.4), (0.2, 0.8, 0.2), (0.1, 0.5, 0.6)), (0.0, 0.0, 0.0)),
            (_from((0.3, 0.7, 0.5), (0.6, 0.5, 0.2), (0.8, 0.1, 0.9)), (0.0, 0.0, 0.0)),
        ),
        (0.9, 0.1, 0.8),
        ("0.726", "0.708", "0.778"),
    ),
    "neuron": Given(((_from((3.0, 4.0, 4.0)), (0.0,)),), (0.8, 0.9, 0.8), ("0.99990",)),
    "biased": Given(((_from((3.0, 4.0, 4.0)), (-10.0,)),), (0.8, 0.9, 0.8), ("0.3100",)),
}


def train(recipe: Recipe, options: argparse.Namespace) -> command.Verdict:
    """Build the network, ask it, compare, and write a run like any other."""
    given = NETS[options.net]
    clock = run.Clock()
    with clock.lap("data"):
        dataset = example(options.net, given)
    fit.repeatable(options.seed)
    model = recipe.network(dataset, options)
    model.set_weights([np.array(each, np.float32) for layer in given.layers for each in layer])
    with clock.lap("evaluate"):
        said = np.asarray(model(dataset.test.inputs, training=False))[0]
        answers = evaluate.probabilities(model, dataset.test.inputs)
        test = evaluate.measure(answers, dataset.test.labels, dataset.labels)
    folder = run.start(options.runs, options.name)
    assessment = assess.as_they_are(test, test, answers, "the weights were given by hand")
    result = run.Result(recipe.id, recipe.script, options, dataset, model, {}, assessment, clock.seconds)
    run.complete(folder, run.write(folder, result))
    reached = all(agrees(float(value), wanted) for value, wanted in zip(said, given.answers, strict=True))
    words = f"{given.inputs} gives {', '.join(f'{value:.5f}' for value in said)}"
    by_hand = f"{'as' if reached else 'NOT as'} worked out by hand: {', '.join(given.answers)}"
    return command.Verdict(folder, reached, f"{words}, {by_hand}", test["accuracy"])


def agrees(value: float, digits: str) -> bool:
    """Whether a value is what someone wrote down, in whole or cut short, to the last digit written."""
    return abs(value - float(digits)) < 10.0 ** -len(digits.partition(".")[2])


def example(name: str, given: Given) -> data.Dataset:
    """One row, which is every part; its class is the neuron that says most, or of one neuron whether it says yes."""
    values = [float(answer) for answer in given.answers]
    labels = tuple(f"o{number}" for number in range(1, len(values) + 1)) if len(values) > 1 else ("no", "yes")
    label = int(np.argmax(values)) if len(values) > 1 else int(values[0] > 0.5)
    part = data.Part(np.array([given.inputs], np.float32), np.array([label], np.int64))
    features = tuple(f"x{number}" for number in range(1, len(given.inputs) + 1))
    return data.Dataset(f"hand-{name}", labels, part, part, part, "0" * 64, features)


def network(dataset: data.Dataset, options: argparse.Namespace) -> Any:
    """Sigmoid layers of the sizes that the weights have."""
    from keras import Input, Sequential, layers

    sizes = [len(biases) for _, biases in NETS[options.net].layers]
    return Sequential(
        [Input(dataset.row_shape), *(layers.Dense(size, activation="sigmoid") for size in sizes)], name="hand"
    )


RECIPE = Recipe(
    name="hand",
    summary="Write a network with given weights; nothing is trained.",
    script=Path(__file__),
    network=network,
    knobs=("net",),
    defaults={"data": "hand"},
    without=("data", "learning", "machine", "seeds", "fresh", "tensorboard", "mlflow", "target"),
    train=train,
)
