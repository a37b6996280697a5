"""Logistic regression: one sigmoid neuron on a table, three parameters for age and affordability.

    python -m training logistic --data-dir DIR            where DIR has insurance_data.csv (age, affordibility, ...)
    python -m training logistic --data my.csv

A table of a hundred rows or fewer is too small to hold some out. There every row is held out once: as many networks are
fitted as there are rows, each on all the others, and each answers for its row (leave-one-out). What is written and
served is one more network, fitted on all. MEASURED
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
    """Fit N + 1 networks for N rows: N for the measure, the last for use."""
    clock = run.Clock()
    command.introduce(dataset)
    fit.repeatable(options.seed)
    rows = dataset.train
    with clock.lap("evaluate"), fit.interruptible() as ctrl_c:
        answers = np.concatenate([_answer(recipe, options, dataset, row, ctrl_c) for row in range(len(rows))])
        test = evaluate.measure(answers, rows.labels, dataset.labels)
    with clock.lap("fit"), fit.interruptible() as ctrl_c:
        model, history = _fitted(recipe, options, dataset, rows, ctrl_c)

    folder = run.start(options.runs, options.name)
    seen = evaluate.measure(evaluate.probabilities(model, rows.inputs), rows.labels, dataset.labels)
    assessment = assess.as_they_are(seen, test, answers, "no row is left that the network did not learn from")
    result = run.Result(recipe.id, recipe.script, options, dataset, model, history, assessment, clock.seconds)
    run.complete(folder, run.write(folder, result))
    return command.verdict(folder, test["accuracy"], options.target, "leave-one-out accuracy")


def _answer(
    recipe: Recipe, options: argparse.Namespace, dataset: data.Dataset, row: int, ctrl_c: Any
) -> NDArray[np.float64]:
    others = dataset.train.take(np.delete(np.arange(len(dataset.train)), row))
    model, _ = _fitted(recipe, options, dataset, others, ctrl_c)
    return evaluate.probabilities(model, dataset.train.inputs[row : row + 1])


def _fitted(
    recipe: Recipe, options: argparse.Namespace, dataset: data.Dataset, part: data.Part, ctrl_c: Any
) -> tuple[Any, dict[str, list[float]]]:
    """A network fitted on these rows alone; even the scaling of the columns has seen no other."""
    if len(np.unique(part.labels)) < 2:
        raise DataError(f"{dataset.name} has a class of one row only; leaving it out leaves nothing to learn from")
    here = replace(dataset, train=part)
    model = recipe.network(here, options)
    neurons = model.output_shape[-1]
    model.compile(fit.optimizer(options, feed.steps(options, here)), fit.loss(options, neurons), metrics=["accuracy"])
    wanted = feed.targets(part.labels, options.loss, neurons)
    weights = feed.class_weights(part.labels, len(dataset.labels), options.class_weights)[part.labels]
    fitted = model.fit(
        part.inputs,
        wanted,
        sample_weight=weights,
        batch_size=feed.batch_size(options, here),
        epochs=options.epochs,
        callbacks=[ctrl_c],
        verbose=0,
    )
    return model, fitted.history


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
