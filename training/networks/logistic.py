"""Logistic regression: one sigmoid neuron on a table, three parameters for age and affordability.

    python -m training logistic --data-dir DIR            where DIR has insurance_data.csv (age, affordibility, ...)
    python -m training logistic --data my.csv

A table of a hundred rows or fewer is too small to hold some out. There every row is held out once: as many networks are
fitted as there are rows, each on all the others, and each answers for its row (leave-one-out). What is written and
served is one more network, fitted on all.

Measured on 2 cores of an Intel Xeon that other work shared (TensorFlow 2.21, 2026-11-21):

    python -m training logistic --data-dir DIR            85.71 %, 24 of 28 rows, each left out once
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training import assess, command, data, evaluate, feed, fit, run, story
from training.errors import DataError
from training.networks import parts
from training.networks.perceptron import two_classes_in_a_table
from training.recipe import Recipe

LEFT_OUT_ROWS = 100
"""Tables of so many rows at most are measured by leaving one out."""


def train(recipe: Recipe, options: argparse.Namespace) -> command.Verdict:
    """The usual story for a large table; for a small one, leave-one-out."""
    dataset = data.from_options(options)
    if sum(dataset.sizes.values()) > LEFT_OUT_ROWS:
        return story.train(recipe, options)
    recipe.check(dataset, options)
    return leave_one_out(recipe, options, whole(dataset))


def whole(dataset: data.Dataset) -> data.Dataset:
    """The dataset with every part made of all its rows."""
    every = (dataset.train, dataset.validation, dataset.test)
    rows = data.Part(np.concatenate([part.inputs for part in every]), np.concatenate([part.labels for part in every]))
    notes = ("each row is the test of a network fitted on all the others", *dataset.notes)
    return replace(dataset, train=rows, validation=rows, test=rows, notes=notes)


def leave_one_out(recipe: Recipe, options: argparse.Namespace, dataset: data.Dataset) -> command.Verdict:
    """Fit N + 1 times for N rows: N for the measure, the last for use."""
    clock = run.Clock()
    command.introduce(dataset)
    rows = dataset.train
    if np.bincount(rows.labels).min() < 2:
        raise DataError(f"{dataset.name} has a class of one row only; leaving it out leaves nothing to learn from")
    fit.repeatable(options.seed)
    neuron = Neuron(dataset, options)
    with clock.lap("evaluate"), fit.interruptible() as ctrl_c:
        answers = np.concatenate([neuron.without(row, ctrl_c) for row in range(len(rows))])
        test = evaluate.measure(answers, rows.labels, dataset.labels)
    with clock.lap("fit"), fit.interruptible() as ctrl_c:
        history = neuron.learn(rows, ctrl_c)
        model = recipe.network(dataset, options)
        model.layers[-1].set_weights(neuron.model.get_weights())

    folder = run.start(options.runs, options.name)
    seen = evaluate.measure(evaluate.probabilities(model, rows.inputs), rows.labels, dataset.labels)
    assessment = assess.as_they_are(seen, test, answers, "no row is left that the network did not learn from")
    result = run.Result(recipe.id, recipe.script, options, dataset, model, history, assessment, clock.seconds)
    run.complete(folder, run.write(folder, result))
    return command.verdict(folder, test["accuracy"], options.target, "leave-one-out accuracy")


class Neuron:
    """The neuron alone, fitted again and again from the same beginning; even the scaling has seen no row left out."""

    def __init__(self, dataset: data.Dataset, options: argparse.Namespace) -> None:
        from keras import Input, Sequential

        self._dataset, self._options = dataset, options
        self.model = Sequential([Input(dataset.row_shape), parts.outputs(dataset, options)])
        self._neurons = self.model.output_shape[-1]
        steps = feed.steps(options, dataset)
        self.model.compile(fit.optimizer(options, steps), fit.loss(options, self._neurons), metrics=["accuracy"])
        self.model.optimizer.build(self.model.trainable_variables)
        self._variables = [*self.model.variables, *self.model.optimizer.variables]
        self._beginning = [np.array(each) for each in self._variables]
        self._mean = self._deviation = np.zeros(0, np.float32)

    def learn(self, part: data.Part, ctrl_c: Any) -> dict[str, list[float]]:
        """Fit on these rows alone; the curves."""
        for variable, value in zip(self._variables, self._beginning, strict=True):
            variable.assign(value)
        self._mean, self._deviation = part.inputs.mean(axis=0), np.maximum(part.inputs.std(axis=0), 1e-7)
        inputs, classes = self._scaled(part.inputs), len(self._dataset.labels)
        wanted = feed.targets(part.labels, self._options.loss, self._neurons)
        weights = feed.class_weights(part.labels, classes, self._options.class_weights)[part.labels]
        size = feed.batch_size(self._options, self._dataset)
        history: dict[str, list[float]] = {}
        for epoch in range(self._options.epochs):
            self.model.reset_metrics()
            order = np.random.default_rng([self._options.seed, epoch]).permutation(len(part))
            for start in range(0, len(part), size):
                rows = order[start : start + size]
                # Keras' fit takes ten times as long around so small a step.
                said = self.model.train_on_batch(inputs[rows], wanted[rows], weights[rows], return_dict=True)
                ctrl_c.on_train_batch_end(start)
            for name, value in said.items():
                history.setdefault(name, []).append(float(value))
        return history

    def without(self, row: int, ctrl_c: Any) -> NDArray[np.float64]:
        """The answer [1, C] for this row of a fit on all the others."""
        rows = self._dataset.train
        self.learn(rows.take(np.delete(np.arange(len(rows)), row)), ctrl_c)
        return evaluate.probabilities(self.model, self._scaled(rows.inputs[row : row + 1]))

    def _scaled(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = (inputs - self._mean) / self._deviation
        return scaled


RECIPE = Recipe(
    name="logistic",
    summary="Train one sigmoid neuron on a table.",
    script=Path(__file__),
    network=parts.dense,
    knobs=("output",),
    defaults={
        **{"data": "insurance", "hidden": "", "output": "sigmoid", "learning_rate": 0.1},
        **{"schedule": "constant", "patience": 0},
    },
    measured={"insurance": {"epochs": 100, "batch_size": "all", "target": 0.85}},
    check=two_classes_in_a_table,
    train=train,
)
