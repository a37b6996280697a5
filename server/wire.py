"""Answers as bytes of topclass.v1.PredictResponse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.errors import InvalidInput
from topclass.v1 import inference_pb2 as pb


@dataclass(frozen=True)
class Shape:
    """What the request asked to see."""

    top_k: int
    omit_probabilities: bool


def predictions(probabilities: np.ndarray, labels: Sequence[str], shape: Shape) -> pb.PredictResponse:
    """One Prediction for each row of float32 [n, C]; InvalidInput names a row that has no finite probabilities."""
    top = probabilities.argmax(axis=1)
    best = probabilities[np.arange(len(top)), top]
    if not np.isfinite(best).all():  # NaN and infinity are what argmax finds first
        row = int(np.argmin(np.isfinite(best)))
        raise InvalidInput(f"row {row} gives no finite probabilities: its values are out of all range", row=row)
    response = pb.PredictResponse()
    add = response.predictions.add
    rows = probabilities.tolist() if not shape.omit_probabilities else [()] * len(top)
    for top_class, probability, row in zip(top.tolist(), best.tolist(), rows, strict=True):
        add(top_class=top_class, label=labels[top_class], probability=probability, probabilities=row)
    if shape.top_k:
        _add_top_k(response, probabilities, labels, min(shape.top_k, len(labels)))
    return response


def _add_top_k(response: pb.PredictResponse, probabilities: np.ndarray, labels: Sequence[str], k: int) -> None:
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(probabilities, order, axis=1)
    for prediction, classes, row in zip(response.predictions, order.tolist(), values.tolist(), strict=True):
        for index, probability in zip(classes, row, strict=True):
            prediction.top_k.add(class_index=index, label=labels[index], probability=probability)
