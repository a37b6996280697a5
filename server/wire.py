"""topclass.v1 messages with many rows, read and written without a Python object for each row.

Protobuf writes a message's fields one after the other, so predictions of equal length are a table of bytes: numpy fills
it in one go. What is the same for every answer of a loaded model is serialized once. Everything unusual, and every
small request, goes through the protobuf library; property tests hold both to the same result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from server.errors import InvalidInput
from server.lanes import Answer
from server.protobuf import BYTES, FIXED32, VARINT, delimited, fields, tag, varint
from topclass.v1 import inference_pb2 as pb

LARGE = 16 << 10  # bytes of a request from which it pays not to copy the tensor's data
_REQUEST_TENSOR, _REQUEST_IMAGES, _TENSOR_DATA = 4, 5, 3


def read_request(message: bytes) -> tuple[pb.PredictRequest, memoryview]:
    """The request and its tensor's data, which is a view of the message; the request's own `tensor.data` is empty.

    InvalidInput where the bytes are no PredictRequest.
    """
    with contextlib.suppress(ValueError, DecodeError):  # the library decides what is no message
        if len(message) >= LARGE and (parsed := _read_large(message)):
            return parsed
    try:
        request = pb.PredictRequest.FromString(message)
    except DecodeError as error:
        raise InvalidInput("the message is not a topclass.v1.PredictRequest") from error
    return request, memoryview(request.tensor.data)


def _read_large(message: bytes) -> tuple[pb.PredictRequest, memoryview] | None:
    """The parts around one tensor's data, parsed by the library; None for a message of any other form."""
    found = list(fields(message))
    inputs = [field for field in found if field.number in (_REQUEST_TENSOR, _REQUEST_IMAGES)]
    if len(inputs) != 1 or inputs[0].number != _REQUEST_TENSOR or inputs[0].kind != BYTES:
        return None
    [tensor] = inputs
    inner = list(fields(message, tensor.content, tensor.stop))
    data = [field for field in inner if field.number == _TENSOR_DATA and field.kind == BYTES]
    if len(data) != 1:
        return None
    request = pb.PredictRequest.FromString(message[: tensor.start] + message[tensor.stop :])
    request.tensor.MergeFromString(message[tensor.content : data[0].start] + message[data[0].stop : tensor.stop])
    request.tensor.SetInParent()
    return request, memoryview(message)[data[0].content : data[0].stop]


class ResponseWriter:
    """Writes PredictResponses of one loaded model."""

    def __init__(self, model: str, version: int, sha256: str, provider: str, labels: Sequence[str]):
        self._labels = labels
        self._provenance = pb.PredictResponse(
            model=model, version=version, model_sha256=sha256, provider=provider
        ).SerializeToString()
        self._all_labels = pb.PredictResponse(labels=labels).SerializeToString()
        self._full, self._short = _Rows(labels, probabilities=True), _Rows(labels, probabilities=False)

    def write(self, answer: Answer, request: pb.PredictRequest) -> bytes:
        """The answer to a request; InvalidInput names a row that has no finite probabilities."""
        probabilities = answer.rows
        top = probabilities.argmax(axis=1)
        best = probabilities[np.arange(len(top)), top]
        if not np.isfinite(best).all():  # NaN and infinity are what argmax finds first
            row = int(np.argmin(np.isfinite(best)))
            raise InvalidInput(f"row {row} gives no finite probabilities: its values are out of all range", row=row)
        rows = self._short if request.omit_probabilities else self._full
        if request.top_k:
            written = self._ranked(probabilities, top, best, request)
        else:
            written = rows.write(probabilities, top, best)
        labels = self._all_labels if request.include_labels else b""
        return b"".join((written, self._provenance, _timing(answer), labels))

    def _ranked(
        self, probabilities: np.ndarray, top: np.ndarray, best: np.ndarray, request: pb.PredictRequest
    ) -> bytes:
        """Predictions with their top k classes, through the library."""
        k = min(request.top_k, len(self._labels))
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(probabilities, order, axis=1)
        rows = [()] * len(top) if request.omit_probabilities else probabilities.tolist()
        response, labels = pb.PredictResponse(), self._labels
        for number, (ranking, row) in enumerate(zip(order.tolist(), values.tolist(), strict=True)):
            first = int(top[number])
            prediction = response.predictions.add(
                top_class=first, label=labels[first], probability=float(best[number]), probabilities=rows[number]
            )
            for index, probability in zip(ranking, row, strict=True):
                prediction.top_k.add(class_index=index, label=labels[index], probability=probability)
        return response.SerializeToString()


class _Rows:
    """A table of bytes: for each class, a serialized Prediction with holes for the numbers. The label comes last."""

    def __init__(self, labels: Sequence[str], *, probabilities: bool):
        self._with_probabilities = probabilities
        classes = len(labels)
        width = len(varint(classes - 1))
        contents = []
        for index, label in enumerate(labels):
            row = tag(1, VARINT) + varint(index, width) + tag(3, FIXED32)
            self._best = len(row)
            row += bytes(4)
            if probabilities:
                row += tag(4, BYTES) + varint(4 * classes)
                self._all = len(row)
                row += bytes(4 * classes)
            contents.append(row + delimited(2, label.encode()))
        size_width = max(len(varint(len(row))) for row in contents)
        rows = [tag(1, BYTES) + varint(len(row), size_width) + row for row in contents]
        before = 1 + size_width
        self._best += before
        self._all_span = slice(self._all + before, self._all + before + 4 * classes) if probabilities else slice(0)
        longest = max(map(len, rows))
        self._table = np.zeros((classes, longest), np.uint8)
        for index, whole in enumerate(rows):
            self._table[index, : len(whole)] = np.frombuffer(whole, np.uint8)
        lengths = np.array([len(row) for row in rows])
        self._used = None if (lengths == longest).all() else np.arange(longest) < lengths[:, None]

    def write(self, probabilities: np.ndarray, top: np.ndarray, best: np.ndarray) -> bytes:
        """The field `predictions` for float32 [n, C], its top classes [n] and their probabilities [n]."""
        rows = self._table[top]
        rows[:, self._best : self._best + 4] = _bytes(best[:, None])
        if self._with_probabilities:
            rows[:, self._all_span] = _bytes(probabilities)
        written: bytes = (rows if self._used is None else rows[self._used[top]]).tobytes()
        return written


def _bytes(values: np.ndarray) -> np.ndarray:
    """float32 [n, k] as uint8 [n, 4k], little-endian."""
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def _timing(answer: Answer) -> bytes:
    queue, compute = round(answer.queue_seconds * 1e6), round(answer.compute_seconds * 1e6)
    content = b"\x08" + varint(queue) + b"\x10" + varint(compute) + b"\x18" + varint(answer.batch_rows)
    return delimited(6, content)


def stream_reply(id: str, response: bytes) -> bytes:
    """A PredictStreamResponse with a serialized PredictResponse in it."""
    return (delimited(1, id.encode()) if id else b"") + delimited(2, response)
