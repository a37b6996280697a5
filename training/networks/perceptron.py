"""One neuron that says 1 if w·x + b > 0, and learns from each of its mistakes: Rosenblatt's perceptron of 1958.

Rows are shown one at a time. For a mistake, what should have been said less what was said, -1 or 1, times the row goes
onto the weights. Where a line parts the classes, this ends (Novikoff 1962); where none does, as for xor, it never does.

Measured on 2 cores of an Intel Xeon that other work shared (TensorFlow 2.21, 2026-11-21):

    python -m training perceptron --data and          converges: no mistake in epoch 7
    python -m training perceptron --data or           converges: no mistake in epoch 3
    python -m training perceptron --data separable    converges in epoch 2; 100 % of 40 test points
    python -m training perceptron --data xor          does NOT converge in 100 epochs, and exits with 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import assess, command, data, evaluate, fit, run
from training.errors import DataError
from training.recipe import Recipe

Floats = NDArray[np.float32]


def train(recipe: Recipe, options: argparse.Namespace) -> command.Verdict:
    """Show the rows again and again until an epoch passes without a mistake, --epochs times at most."""
    clock = run.Clock()
    with clock.lap("data"):
        dataset = data.from_options(options)
    recipe.check(dataset, options)
    command.introduce(dataset)
    with clock.lap("fit"):
        weights, bias, mistakes = learn(dataset.train, options.epochs, options.seed)

    fit.repeatable(options.seed)
    model = recipe.network(dataset, options)
    model.set_weights([weights[:, None], np.array([bias], np.float32)])
    with clock.lap("evaluate"):
        guesses = evaluate.probabilities(model, dataset.validation.inputs)
        validation = evaluate.measure(guesses, dataset.validation.labels, dataset.labels)
        answers = evaluate.probabilities(model, dataset.test.inputs)
        test = evaluate.measure(answers, dataset.test.labels, dataset.labels)

    folder = run.start(options.runs, options.name)
    history = {"mistakes": [float(count) for count in mistakes]}
    assessment = assess.as_they_are(validation, test, answers, "a step says 0 or 1, and nothing between")
    result = run.Result(recipe.id, recipe.script, options, dataset, model, history, assessment, clock.seconds)
    run.complete(folder, run.write(folder, result))

    rule = " + ".join(f"{weight:g}·{name}" for weight, name in zip(weights, dataset.features or (), strict=True))
    command.say(f"says {dataset.labels[1]!r} if {rule} + {bias:g} > 0".replace("+ -", "- "))
    if mistakes[-1]:
        words = f"did NOT converge: {mistakes[-1]} mistakes on {len(dataset.train)} rows in epoch {len(mistakes)}"
        return command.Verdict(folder, False, f"{words}; perhaps no line parts the classes", test["accuracy"])
    end = command.verdict(folder, test["accuracy"], options.target)
    words = f"converged: no mistake on {len(dataset.train)} rows in epoch {len(mistakes)}; {end.words}"
    return command.Verdict(folder, end.reached, words, end.accuracy)


def learn(part: data.Part, epochs: int, seed: int) -> tuple[Floats, np.float32, list[int]]:
    """The perceptron learning rule, online; weights [F], bias, and the mistakes in each epoch until there is none."""
    weights, bias = np.zeros(part.inputs.shape[1], np.float32), np.float32(0)
    mistakes: list[int] = []
    for epoch in range(epochs):
        wrong = 0
        for row in np.random.default_rng([seed, epoch]).permutation(len(part)):
            said = int(part.inputs[row] @ weights + bias > 0)
            if error := np.float32(part.labels[row] - said):
                weights += error * part.inputs[row]
                bias += error
                wrong += 1
        mistakes.append(wrong)
        if not wrong:
            break
    return weights, bias, mistakes


def network(dataset: data.Dataset, _options: argparse.Namespace) -> Any:
    """One neuron under a step: 1 where the sign is 1, else 0, in layers that every Keras knows."""
    from keras import Input, Model, layers, ops

    given = Input(dataset.row_shape)
    weighted_sum = layers.Dense(1, name="neuron")(given)
    return Model(given, layers.ReLU(name="step")(ops.sign(weighted_sum)), name="perceptron")


def two_classes_in_a_table(dataset: data.Dataset, _options: argparse.Namespace) -> None:
    """Refuse pictures and more than two classes."""
    if not dataset.is_table or len(dataset.labels) != 2:
        kind = "a table" if dataset.is_table else "pictures"
        raise DataError(f"{dataset.name} is {kind} of {len(dataset.labels)} classes; expected a table of two classes")


RECIPE = Recipe(
    name="perceptron",
    summary="Train one neuron by the perceptron learning rule.",
    script=Path(__file__),
    network=network,
    defaults={"data": "and", "epochs": 100, "batch_size": 1},
    measured={name: {"target": 1.0} for name in ("and", "or", "separable")},
    check=two_classes_in_a_table,
    without=(
        *("class_weights", "machine", "fresh", "tensorboard", "mlflow"),
        *("loss", "optimizer", "momentum", "weight_decay", "learning_rate", "schedule", "warmup", "batch_size"),
        *("patience", "augment"),
    ),
    train=train,
)
