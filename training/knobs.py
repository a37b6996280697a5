"""Every flag of the training scripts in one table, under the field's names, and what each may be."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
LOSSES = ("sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy", "mse", "mae")
OPTIMIZERS = {"sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}
"""And the learning rate of each where nobody says one."""
SCHEDULES = ("constant", "cosine", "exponential", "steps")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
ALL = "all"
"""The batch size of batch gradient descent."""


@dataclass(frozen=True)
class Knob:
    """One flag. `what` is its line of --help; `default` is what it is where neither recipe nor user says anything.

    `known` is a flag that a measured accuracy does not depend on: with any other one changed there is no target.
    """

    group: str
    name: str
    metavar: str
    kind: Callable[[str], Any]
    default: Any
    what: str
    known: bool = False
    switch: bool = False

    @property
    def flag(self) -> str:
        """As it is written: --batch-size."""
        return f"--{self.name.replace('_', '-')}"


# ------------------------------------------------------------------------------------------------------ kinds of value


def folder(text: str) -> Path:
    """A folder that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return path


def _number(text: str, kind: type[int] | type[float], good: str, low: float, high: float) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not {good}")
    return value


def count(text: str) -> int:
    """1 or more."""
    return int(_number(text, int, "a whole number of at least 1", 1, 2**31 - 1))


def from_zero(text: str) -> int:
    """0 or more."""
    return int(_number(text, int, "a whole number of at least 0", 0, 2**31 - 1))


def seed(text: str) -> int:
    """What numpy and TensorFlow take as a seed."""
    return int(_number(text, int, "a whole number from 0 to 4294967295", 0, 2**32 - 1))


def positive(text: str) -> float:
    """More than 0, and finite."""
    return float(_number(text, float, "a number greater than 0", 1e-300, 1e300))


def share(text: str) -> float:
    """0 to less than 1."""
    return float(_number(text, float, "a number from 0 to less than 1", 0.0, 1.0 - 1e-9))


def accuracy(text: str) -> float:
    """0 to 1."""
    return float(_number(text, float, "an accuracy from 0 to 1", 0.0, 1.0))


def batch(text: str) -> int | str:
    """A count, or the word for all rows at once."""
    return ALL if text == ALL else int(_number(text, int, "'all' or a whole number of at least 1", 1, 2**31 - 1))


def sizes(text: str) -> str:
    """Neurons of hidden layers, as in 16,16; the text itself, checked, so that it can be written into a command."""
    for word in text.split(","):
        try:
            count(word)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, in {text!r}") if word != text else error from None
    return text


def picture_size(text: str) -> str:
    """HEIGHTxWIDTH; the text itself, checked."""
    height, by, width = text.partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and 0 < int(height) < 10_000 and 0 < int(width) < 10_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, as in 32x32")
    return f"{int(height)}x{int(width)}"


def one_of(*choices: str) -> Callable[[str], str]:
    """One of these words."""

    def choose(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(choices)}")
        return text

    return choose


YES_NO = one_of("yes", "no")


# ---------------------------------------------------------------------------------------------------------- the table

KNOBS = (
    Knob("data", "data", "DATA", str, "digits", "a name, an .npz, a .csv, a folder of pictures", known=True),
    Knob("data", "data_dir", "DIR", folder, None, "where mnist.npz lies ($TOPCLASS_DATA)", known=True),
    Knob("data", "label", "NAME", str, None, "of a CSV: the column of labels (the last)"),
    Knob("data", "size", "HxW", picture_size, None, "of a folder: size to give pictures (theirs)"),
    Knob("data", "channels", "N", one_of("1", "3"), None, "of a folder: 1 grey, 3 colour (as they are)"),
    Knob("data", "limit", "N", count, None, "only the first N training rows: a quick try"),
    Knob("data", "validation", "X", share, 0.1, "share of training rows for validation"),
    Knob("data", "test", "X", share, 0.2, "share for the test, where data has no such part"),
    Knob("data", "test_rows", "N", count, None, "test on N held-out training rows instead"),
    Knob("data", "class_weights", "W", one_of("none", "balanced"), "none", "balanced: rare classes count more"),
    Knob("network", "net", "NAME", one_of("two", "three", "neuron", "biased"), "two", "two, three, neuron or biased"),
    Knob("network", "hidden", "N,N", sizes, "128", "neurons of each hidden layer"),
    Knob("network", "activation", "F", one_of(*ACTIVATIONS), "relu", "sigmoid, tanh, relu or leaky_relu"),
    Knob("network", "slope", "X", positive, 0.01, "of leaky_relu, for numbers below 0"),
    Knob("network", "dropout", "X", share, 0.0, "share of neurons dropped in training"),
    Knob("network", "batch_norm", "YES", YES_NO, "no", "batch normalization: yes or no"),
    Knob("network", "output", "F", one_of("softmax", "sigmoid"), "softmax", "softmax or sigmoid"),
    Knob("learning", "loss", "LOSS", one_of(*LOSSES), None, "a cross-entropy, mse or mae (by the output)"),
    Knob("learning", "optimizer", "O", one_of(*OPTIMIZERS), "adam", "sgd, adam or adamw"),
    Knob("learning", "momentum", "X", share, None, "of sgd (0)"),
    Knob("learning", "weight_decay", "X", positive, None, "of adamw (0.004)"),
    Knob("learning", "learning_rate", "X", positive, None, "at the start of the schedule"),
    Knob("learning", "schedule", "S", one_of(*SCHEDULES), "cosine", "constant, cosine, exponential or steps"),
    Knob("learning", "warmup", "N", from_zero, 0, "epochs before a cosine in which the rate rises"),
    Knob("learning", "epochs", "N", count, 20, "passes over the training rows"),
    Knob("learning", "batch_size", "N", batch, 64, "rows a step; 1: stochastic; all: batch descent"),
    Knob("learning", "patience", "N", from_zero, 5, "stop N epochs after the best one; 0: never"),
    Knob("learning", "augment", "YES", YES_NO, "no", "vary pictures in training: yes or no"),
    Knob("learning", "seed", "N", seed, 0, "of weights, order, dropout", known=True),
    Knob("machine", "precision", "P", one_of(*PRECISIONS), "float32", "float32, mixed_float16 or mixed_bfloat16"),
    Knob("machine", "strategy", "S", one_of("none", "mirrored"), "none", "mirrored: train on every GPU"),
    Knob("run", "name", "NAME", str, None, "of the model (data and network: digits-mlp)", known=True),
    Knob("run", "runs", "DIR", Path, Path("runs"), "where run folders go", known=True),
    Knob("run", "target", "X", accuracy, None, "exit with 1 below this test accuracy (known one)", known=True),
    Knob("run", "seeds", "N", count, 1, "train N times; the verdict is on the median", known=True),
    Knob(
        "run", "fresh", "YES", YES_NO, "no", "start anew, even if an unfinished run is there", known=True, switch=True
    ),
    Knob(
        "run",
        "tensorboard",
        "YES",
        YES_NO,
        "no",
        "write the curves for TensorBoard, into the run",
        known=True,
        switch=True,
    ),
    Knob("run", "mlflow", "YES", YES_NO, "no", "write to MLflow ($MLFLOW_TRACKING_URI)", known=True, switch=True),
)
GROUPS = {
    "data": "what it learns from",
    "network": "the network",
    "learning": "how it learns",
    "machine": "what it computes on",
    "run": "what is done with it",
}
NOT_THE_RECIPE = ("seeds", "fresh", "tensorboard", "mlflow")
"""Flags that change nothing in the model: they are not written down with it."""
