"""Reads what training left: a run folder, complete when metrics.json is there."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RunError

METRICS = "metrics.json"
SCHEMA = 1
_NEEDED: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "run": str,
    "recipe": str,
    "labels": list,
    "input": dict,
    "data": dict,
    "metrics": dict,
    "arguments": dict,
    "versions": dict,
}


@dataclass(frozen=True)
class Run:
    """One complete run.

    `inputs` [n, ...] and `labels` [n] are the samples; `metrics` is metrics.json as it is, checked for what we need.
    """

    folder: Path
    metrics: dict[str, Any]
    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    @property
    def kind(self) -> str:
        """Give "image" or "table"."""
        return str(self.metrics["input"]["kind"])

    @property
    def temperature(self) -> float:
        """Give what the logits are divided by: 1 for runs that were not calibrated."""
        return float((self.metrics.get("calibration") or {}).get("temperature", 1.0))

    @property
    def class_labels(self) -> list[str]:
        """Give the label of each class, in order."""
        return list(self.metrics["labels"])


def read_run(folder: Path) -> Run:
    """Read everything but the Keras model; RunError, in one line, for whatever is missing or does not fit."""
    if not folder.is_dir():
        raise RunError(f"no run folder {folder}: expected runs/<model>/<run>, as training writes it")
    _demand_complete(folder)
    metrics = _read_metrics(folder / METRICS)
    inputs, labels = _read_samples(folder / "samples.npz")
    run = Run(folder, metrics, inputs, labels)
    _check_samples(run)
    return run


def load_keras(run: Run) -> Any:
    """Load model.keras (this imports TensorFlow); RunError if Keras cannot."""
    import keras

    path = run.folder / "model.keras"
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # a broken zip, a missing class, bad JSON, missing weights: each its own exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{path} cannot be loaded by Keras: {reason}") from error


def _demand_complete(folder: Path) -> None:
    if not (folder / METRICS).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{METRICS}"))
        if inside:
            raise RunError(f"{folder} holds runs but is none; name one of them, the newest is {folder / inside[-1]}")
        if (folder / "model.keras").exists():
            raise RunError(f"the run {folder} is incomplete: no {METRICS}, so its training has not finished")
        raise RunError(f"{folder} is no run folder: it has no {METRICS}")
    for name in ("model.keras", "samples.npz"):
        if not (folder / name).is_file():
            raise RunError(f"the run {folder} has no {name}")


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(metrics, dict) or metrics.get("schema") != SCHEMA:
        given = metrics.get("schema") if isinstance(metrics, dict) else None
        raise RunError(f"{path} has schema {given!r}; expected {SCHEMA}")
    for key, kind in _NEEDED.items():
        if not isinstance(metrics.get(key), kind):
            raise RunError(f"{path} has no proper {key!r}")
    if not all(isinstance(label, str) for label in metrics["labels"]):
        raise RunError(f"{path}: every label must be a string")
    for key in ("calibration", "out_of_distribution"):
        if not isinstance(metrics.get(key), dict | None):
            raise RunError(f"{path} has no proper {key!r}")
    temperature = (metrics.get("calibration") or {}).get("temperature", 1.0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise RunError(f"{path} has a temperature of {temperature!r}; expected a number over 0")
    if metrics["input"].get("kind") not in ("image", "table"):
        raise RunError(f"{path}: input kind {metrics['input'].get('kind')!r}; expected 'image' or 'table'")
    return metrics


def _read_samples(path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as samples:
            return samples["inputs"], samples["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
        raise RunError(f"{path} cannot be read: {reason}") from error


def _check_samples(run: Run) -> None:
    path, inputs, labels = run.folder / "samples.npz", run.inputs, run.labels
    if not len(inputs):
        raise RunError(f"{path} has no samples; nothing can be proven without one")
    if len(inputs) != len(labels):
        raise RunError(f"{path} has {len(inputs)} inputs and {len(labels)} labels")
    dtype = "uint8" if run.kind == "image" else "float32"
    if str(inputs.dtype) != dtype:
        raise RunError(f"{path}: the inputs are {inputs.dtype}; expected {dtype} for kind {run.kind!r}")
    if not np.isfinite(inputs).all():
        raise RunError(f"{path}: the inputs have values that are not finite")
    expected = _stated_shape(run)
    if expected is not None and list(inputs.shape[1:]) not in expected:
        raise RunError(f"{path}: the inputs are {list(inputs.shape)}; {METRICS} says [N, {_join(expected[0])}]")


def _stated_shape(run: Run) -> list[list[int]] | None:
    """Give the shapes of one row that fit metrics.json; one channel may be written out or not."""
    stated = run.metrics["input"]
    if run.kind == "table":
        return [[len(stated["features"])]] if "features" in stated else None
    try:
        size, channels = [int(stated["height"]), int(stated["width"])], int(stated.get("channels", 1))
    except (KeyError, TypeError, ValueError):
        return None
    return [size, [*size, 1]] if channels == 1 else [[*size, channels]]


def _join(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes))
