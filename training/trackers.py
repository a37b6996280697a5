"""Experiment trackers, one flag each: Keras' callback for TensorBoard, MLflow's for MLflow."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from training.arguments import as_json
from training.errors import UsageError

TRACKERS = ("tensorboard", "mlflow")


def check(options: Namespace) -> None:
    """UsageError where a tracker is asked for that is not installed; before any work is done."""
    for flag in TRACKERS:
        if getattr(options, flag) == "yes" and find_spec(flag) is None:
            install = "pip install -c constraints.txt -r training/requirements-trackers.txt"
            raise UsageError(f"--{flag} needs a package that is not installed: {install}")


@contextmanager
def callbacks(options: Namespace, folder: Path) -> Iterator[list[Any]]:
    """The callbacks of the trackers that were asked for, inside what each needs around a fit."""
    found: list[Any] = []
    if options.tensorboard == "yes":
        import keras

        found.append(keras.callbacks.TensorBoard(folder / "tensorboard"))
    if options.mlflow == "no":
        yield found
        return
    import mlflow
    from mlflow.keras import MlflowCallback

    mlflow.set_experiment(options.name)
    with mlflow.start_run(run_name=folder.name) as tracked:
        mlflow.log_params(as_json(options))
        yield [*found, MlflowCallback(run=tracked, log_every_epoch=True)]
