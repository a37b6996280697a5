"""The way of every network: data, network, compile, fit, evaluate, write, verdict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from training import arguments, assess, calibrate, command, data, evaluate, feed, fit, progress, report, run, trackers
from training.errors import UsageError
from training.recipe import Recipe


def train(recipe: Recipe, options: argparse.Namespace) -> command.Verdict:
    """The whole story of one run, from the data to the verdict."""
    clock = run.Clock()

    # ------------------------------------------------------------------------------------------------------------ data
    trackers.check(options)
    with clock.lap("data"):
        dataset = data.from_options(options)
    recipe.check(dataset, options)
    varied = augmentation(recipe, dataset, options)
    command.introduce(dataset)

    # --------------------------------------------------------------------------------------------- network and compile
    fit.repeatable(options.seed)
    fit.set_precision(options.precision)
    scope, devices = fit.strategy(options, feed.batch_size(options, dataset))
    with scope:
        model = recipe.network(dataset, options)
        model.summary()
        neurons = model.output_shape[-1]
        steps = feed.steps(options, dataset)
        model.compile(fit.optimizer(options, steps), fit.loss(options, neurons), metrics=["accuracy"])
        model.optimizer.build(model.trainable_variables)

    # ------------------------------------------------------------------------------------------------------------- fit
    claim = progress.claim(options.runs, options.name, _key(recipe, options, dataset), options.fresh == "yes")
    folder = claim.folder
    rows = feed.Feed(dataset, options, neurons, varied)
    followed = progress.Progress(folder, model, options.patience)
    done = followed.begin()
    if not followed.over and done < options.epochs:
        with fit.interruptible() as ctrl_c, trackers.callbacks(options, folder) as tracked:
            model.fit(
                rows.dataset(),
                epochs=options.epochs,
                initial_epoch=done,
                validation_data=feed.validation(dataset.validation, options.loss, neurons),
                validation_batch_size=fit.even(len(dataset.validation), devices),
                callbacks=[*fit.follow(rows, followed), *tracked, ctrl_c],
                shuffle=False,
                verbose=fit.verbosity(),
            )
    history = fit.checked(followed.history)
    followed.end()
    clock.seconds["fit"] = round(followed.seconds, 3)
    model = in_float32(recipe, dataset, options, model)

    # -------------------------------------------------------------------------------------------------------- evaluate
    with clock.lap("evaluate"):
        assessment = assess.assess(model, dataset)

    # ----------------------------------------------------------------------------------------------------------- write
    result = run.Result(recipe.id, recipe.script, options, dataset, model, history, assessment, clock.seconds)
    metrics = run.write(folder, result)
    if dataset.official is not None:
        metrics["metrics"]["official_test"] = beside(model, dataset.official, dataset.labels, assessment.temperature)
    report.write(folder, result, metrics)
    run.complete(folder, metrics)
    claim.release()

    # --------------------------------------------------------------------------------------------------------- verdict
    return command.verdict(folder, assessment.test["accuracy"], options.target)


def beside(model: Any, part: data.Part, labels: tuple[str, ...], temperature: float) -> dict[str, Any]:
    """The figures of the source's own test part, told beside those of the held-out rows."""
    answers = calibrate.tempered(evaluate.probabilities(model, part.inputs), temperature)
    figures = evaluate.measure(answers, part.labels, labels)
    command.say(f"accuracy {figures['accuracy']:.2%} on the source's own {len(part):,} test rows")
    return figures


def augmentation(recipe: Recipe, dataset: data.Dataset, options: argparse.Namespace) -> Any:
    """How the pictures are varied, if they are; UsageError where there is nothing to vary."""
    if options.augment == "no":
        return None
    if dataset.is_table:
        raise UsageError(f"--augment varies pictures, and {dataset.name} is a table")
    if recipe.augmentation is None:
        raise UsageError(f"--augment: {recipe.name} has no augmentation of its own")
    return recipe.augmentation


def in_float32(recipe: Recipe, dataset: data.Dataset, options: argparse.Namespace, model: Any) -> Any:
    """The same weights in a network that computes in float32: what is written and served is never half precise."""
    if options.precision == "float32" and options.strategy == "none":
        return model
    fit.set_precision("float32")
    weights = [np.asarray(each) for each in model.get_weights()]
    model = recipe.network(dataset, options)
    model.set_weights(weights)
    return model


def _key(recipe: Recipe, options: argparse.Namespace, dataset: data.Dataset) -> str:
    settled = {
        key: value for key, value in arguments.as_json(options).items() if key not in ("runs", "data_dir", "target")
    }
    code = [Path(path).read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("networks/*.py"))]
    return progress.key(recipe.id, settled, dataset.sha256, dataset.sizes, code, run.versions())
