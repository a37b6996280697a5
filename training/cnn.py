"""A small convolutional network for pictures: 55,000 parameters for 28x28.

Measured, with the defaults and seed 0, on 2 cores that other work shared (TensorFlow 2.21):

    python -m training.cnn                                   99.44 % of 359 test digits;     13 s of fit,  21 s in all
    python -m training.cnn --data mnist --data-dir DIR       99.31 % of 10,000 test digits; 116 s of fit, 126 s in all
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training import arguments, assess, command, data, fit, report, run
from training.errors import DataError

if TYPE_CHECKING:
    import keras  # at run time inside the functions: --help and bad data answer before TensorFlow's three seconds

RECIPE = "training.cnn"
MEASURED = {
    "digits": arguments.Defaults(epochs=20, batch_size=32, target=0.97),
    "mnist": arguments.Defaults(epochs=6, batch_size=128, target=0.988),
    "": arguments.Defaults(epochs=10, batch_size=128),
}
SMALLEST_SIDE = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and train; the exit status."""
    flags = arguments.parser(RECIPE, "Train a small convolutional network.", learning_rate=3e-3, dropout=0.3)
    return command.run(train, arguments.parse(flags, RECIPE, MEASURED, argv))


def train(options: argparse.Namespace) -> command.Verdict:
    """The whole story, from the data to the verdict."""
    clock = run.Clock()

    # ------------------------------------------------------------------------------------------------------------ data
    with clock.lap("data"):
        dataset = data.load(options.data, options.data_dir, options.limit)
    only_pictures(dataset)
    command.introduce(dataset)

    # --------------------------------------------------------------------------------------------------------- network
    fit.repeatable(options.seed)
    model = network(dataset, options.dropout)
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


def network(dataset: data.Dataset, dropout: float) -> keras.Model:
    """Raw pictures of 0..255 in, the probability of each class out."""
    from keras import Input, Sequential, layers

    height, width, *channels = dataset.row_shape
    return Sequential(
        [
            Input(dataset.row_shape),
            layers.Rescaling(1 / 255),
            # Grey pictures get their one channel after the scaling: ONNX Runtime scales [N,H,W,1] 57 times slower.
            *([] if channels else [layers.Reshape((height, width, 1))]),
            *convolutions(height, width),
            layers.Flatten(),
            *([layers.Dropout(dropout)] if dropout else []),
            layers.Dense(len(dataset.labels), activation="softmax"),
        ],
        name="cnn",
    )


def convolutions(height: int, width: int) -> Iterator[Any]:
    """16 filters, 32, then 64 until 8x8 or less is left, so that a larger picture costs depth and not a huge Dense.

    Pooling comes before ReLU: the result is the same, and ReLU then works on a quarter of the numbers.
    """
    from keras import layers

    for filters in (16, 32):
        yield from _convolution(filters)
        yield layers.MaxPooling2D()
        yield layers.ReLU()
        height, width = height // 2, width // 2
    yield from _convolution(64)
    yield layers.ReLU()
    while max(height, width) > 8 and min(height, width) > 1:
        yield layers.MaxPooling2D()
        yield from _convolution(64)
        yield layers.ReLU()
        height, width = height // 2, width // 2


def _convolution(filters: int) -> Iterator[Any]:
    from keras import layers

    yield layers.Conv2D(filters, 3, padding="same", use_bias=False)
    # Keras' own momentum, 0.99, needs thousands of steps before the averages are right; digits has 820.
    yield layers.BatchNormalization(momentum=0.9)


def only_pictures(dataset: data.Dataset) -> None:
    """Refuse what has no neighbourhoods to convolve."""
    if dataset.is_table:
        raise DataError(f"{dataset.name} is a table; the cnn expects pictures (python -m training.mlp takes tables)")
    if min(dataset.row_shape[:2]) < SMALLEST_SIDE:
        size = "x".join(map(str, dataset.row_shape[:2]))
        raise DataError(
            f"{dataset.name} has pictures of {size}; the cnn expects {SMALLEST_SIDE}x{SMALLEST_SIDE} or more"
        )


if __name__ == "__main__":
    sys.exit(main())
