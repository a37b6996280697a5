"""Experiment trackers, one flag each: Keras' own callback for TensorBoard, MLflow's client for MLflow."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
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
    import keras
    import mlflow

    def note(epoch: int, logs: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(logs), step=epoch + 1)

    try:
        mlflow.set_experiment(options.name)
    except mlflow.exceptions.MlflowException as error:
        raise UsageError(f"--mlflow: {' '.join(str(error).split())}") from None
    with mlflow.start_run(run_name=folder.name):
        mlflow.log_params(as_json(options))
        yield [*found, keras.callbacks.LambdaCallback(on_epoch_end=note)]
