"""The score of strangeness that training fitted, as steps of the graph and as numbers to prove those steps by."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from . import network as nw
from .errors import ExportError, RunError

SHORTEST = 1e-6
"""No feature vector counts as shorter: one of zeros is far from every class, and not 0 / 0."""


@dataclass(frozen=True)
class Detector:
    """The least squared distance of (f / |f| - mean) @ whiten to the centers [C, F]; over 1 is out of distribution.

    The features f [F] are what `layer` gives; where `pooled`, it gives [H, W, F], and they are the mean over places.
    """

    layer: str
    pooled: bool
    mean: nw.Floats
    whiten: nw.Floats
    centers: nw.Floats

    def scores(self, model: Any, inputs: NDArray[Any]) -> nw.Floats:
        """Give the score [n] of each input [n, ...] by Keras' features, in float64."""
        features = np.asarray(self.watched(model)(inputs, training=False), np.float64)
        features = features.mean(axis=(1, 2)) if self.pooled else features
        length = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), SHORTEST)
        places = (features / length - self.mean) @ self.whiten
        scores: nw.Floats = ((places[:, None] - self.centers) ** 2).sum(axis=2).min(axis=1)
        return scores

    def watched(self, model: Any) -> Any:
        """Give a model of the same weights whose output is the features' layer; RunError if it has none such."""
        try:
            return keras.Model(model.inputs[0], model.get_layer(self.layer).output)
        except ValueError as error:
            raise RunError(f"the run's score reads layer {self.layer!r}, which the Keras model has not") from error

    def extend(self, net: nw.Network) -> None:
        """Append the score to the network: from the input of its last Dense, seen before it was flattened."""
        op = net.find(net.output)
        while not isinstance(op, nw.Dense):
            if len(op.inputs) != 1:
                raise ExportError(f"the score needs a network that ends in a Dense layer; this one ends in {op.name!r}")
            op = net.find(op.inputs[0])
        op = net.find(op.inputs[0])
        while self.pooled and len(op.shape) != 3 and isinstance(op, nw.Reshape):
            op = net.find(op.inputs[0])
        size = self.mean.size
        if op.shape[-1:] != (size,) or len(op.shape) != (3 if self.pooled else 1):
            raise RunError(f"the run's score is of {size} features, but the last Dense layer reads {list(op.shape)}")
        source = op.name
        if self.pooled:
            source = net.add(nw.GlobalPool("ood/pool", [source], (size,), "average"))
        net.score = net.add(nw.Strangeness("ood", [source], (), self.mean, self.whiten, self.centers, SHORTEST))


def read_detector(folder: Path, stated: Any) -> Detector | None:
    """Give the score that metrics.json states and ood.npz holds; None where it says there is none.

    RunError for what is missing or does not fit.
    """
    if not isinstance(stated, dict) or stated.get("threshold") is None:
        return None
    path = folder / "ood.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, whiten, centers = (np.asarray(file[key], np.float64) for key in ("mean", "whiten", "centers"))
        layer, pooled = str(stated["layer"]), bool(stated["pooled"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error
    size = mean.size
    fits = mean.shape == (size,) and whiten.shape == (size, size) and centers.ndim == 2 and centers.shape[1] == size
    if not (fits and size and len(centers) and all(np.isfinite(each).all() for each in (mean, whiten, centers))):
        raise RunError(f"{path} is no score: expected finite mean [F], whiten [F, F] and centers [C, F]")
    if stated["threshold"] != 1:
        raise RunError(f"metrics.json has an out-of-distribution threshold of {stated['threshold']!r}; expected 1")
    return Detector(layer, pooled, mean, whiten, centers)
