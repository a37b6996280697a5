"""A multilayer perceptron for small pictures and for tables: 784-128-10 on digits.

Measured, with the defaults and seed 0, on 2 cores that other work shared (TensorFlow 2.21):

    python -m training.mlp                                   97.21 % of 359 test digits;    4 s of fit,  11 s in all
    python -m training.mlp --data mnist --data-dir DIR       98.01 % of 10,000 test digits; 18 s of fit, 29 s in all
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import arguments, assess, command, data, fit, report, run

if TYPE_CHECKING:
    import keras  # at run time inside the functions: --help and bad data answer before TensorFlow's three seconds

RECIPE = "training.mlp"
MEASURED = {
    "digits": arguments.Defaults(epochs=30, batch_size=32, target=0.96),
    "mnist": arguments.Defaults(epochs=15, batch_size=128, target=0.975),
    "": arguments.Defaults(epochs=20, batch_size=64),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and train; the exit status."""
    flags = arguments.parser(RECIPE, "Train a multilayer perceptron.", learning_rate=2e-3, dropout=0.1)
    flags.add_argument(
        "--hidden", type=arguments.count, default=128, metavar="N", help="neurons in the hidden layer (default: 128)"
    )
    return command.run(train, arguments.parse(flags, RECIPE, MEASURED, argv))


def train(options: argparse.Namespace) -> command.Verdict:
    """The whole story, from the data to the verdict."""
    clock = run.Clock()

    # ------------------------------------------------------------------------------------------------------------ data
    with clock.lap("data"):
        dataset = data.load(options.data, options.data_dir, options.limit)
    command.introduce(dataset)

    # --------------------------------------------------------------------------------------------------------- network
    fit.repeatable(options.seed)
    model = network(dataset, options.hidden, options.dropout)
    model.summary()

    # --------------------------------------------------------------------------------------------------------- compile
    model.compile(optimizer=fit.adam(options, dataset), loss="sparse_categorical_crossentropy", metrics=["accuracy"])

    # ------------------------------------------------------------------------------------------------------------- fit
    folder = run.start(options.runs, options.name)
    with clock.lap("fit"), fit.interruptible() as ctrl_c:
        fitted = model.fit(
            dataset.train.inputs,
            dataset.train.labels,
            batch_size=options.batch_size,
            epochs=options.epochs,
            validation_data=(dataset.validation.inputs, dataset.validation.labels),
            callbacks=[*fit.callbacks(options.patience), ctrl_c],
            verbose=fit.verbosity(),
        )
    history = fit.checked(fitted.history)

    # -------------------------------------------------------------------------------------------------------- evaluate
    with clock.lap("evaluate"):
        assessment = assess.assess(model, dataset)

    # ----------------------------------------------------------------------------------------------------------- write
    result = run.Result(RECIPE, Path(__file__), options, dataset, model, history, assessment, clock.seconds)
    metrics = run.write(folder, result)
    report.write(folder, result, metrics)
    run.complete(folder, metrics)

    # --------------------------------------------------------------------------------------------------------- verdict
    return command.verdict(folder, assessment.test["accuracy"], options.target)


def network(dataset: data.Dataset, hidden: int, dropout: float) -> keras.Model:
    """Raw rows in (pictures of 0..255, or table rows as they are), the probability of each class out."""
    from keras import Input, Sequential, layers

    scaling: list[Any]
    if dataset.is_table:
        scaling = [layers.Normalization()]
        scaling[0].adapt(dataset.train.inputs)
    else:
        scaling = [layers.Rescaling(1 / 255), layers.Flatten()]
    return Sequential(
        [
            Input(dataset.row_shape),
            *scaling,
            layers.Dense(hidden, activation="relu"),
            *([layers.Dropout(dropout)] if dropout else []),
            layers.Dense(len(dataset.labels), activation="softmax"),
        ],
        name="mlp",
    )


if __name__ == "__main__":
    sys.exit(main())
