"""topclass.v1 messages with many rows, read and written without a Python object for each row.

Protobuf writes a message's fields one after the other, so predictions of equal length are a table of bytes: numpy fills
it in one go. What is the same for every answer of a loaded model is serialized once. Everything unusual, and every
small request, goes through the protobuf library; property tests hold both to the same result.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from server.errors import InvalidInput
from server.lanes import Answer
from server.predictions import Columns, Rows, Shape, split, strangeness, winners
from server.protobuf import BYTES, delimited, fields, varint
from topclass.v1 import inference_pb2 as pb

LARGE = 16 << 10  # bytes of a request from which it pays not to copy the tensor's data
MOST_ANSWER = (1 << 31) - 1  # bytes of a protobuf message
_SLICE = 8 << 20  # bytes of an answer that are written at once; the rest waits as bytes only
_FEW = 64  # fields of a request, more than the proto has; the library takes apart what has more
_REQUEST_TENSOR, _REQUEST_IMAGES, _TENSOR_DATA = 4, 5, 3


def read_request(message: bytes) -> tuple[pb.PredictRequest, memoryview]:
    """The request and its tensor's data, which is a view of the message; the request's own `tensor.data` is empty.

    InvalidInput where the bytes are no PredictRequest.
    """
    if len(message) >= LARGE and (found := find_tensor(message)):
        request, start, stop = found
        return request, memoryview(message)[start:stop]
    try:
        request = pb.PredictRequest.FromString(message)
    except DecodeError as error:
        raise InvalidInput("the message is not a topclass.v1.PredictRequest") from error
    return request, memoryview(request.tensor.data)


def find_tensor(message: bytes) -> tuple[pb.PredictRequest, int, int] | None:
    """A request without its tensor's data, and where these are; None for a message of any other form."""
    with contextlib.suppress(ValueError, DecodeError):  # the library decides what is no message
        found = list(fields(message, most=_FEW))
        inputs = [field for field in found if field.number in (_REQUEST_TENSOR, _REQUEST_IMAGES)]
        if len(inputs) != 1 or inputs[0].number != _REQUEST_TENSOR or inputs[0].kind != BYTES:
            return None
        [tensor] = inputs
        inner = list(fields(message, tensor.content, tensor.stop, most=_FEW))
        data = [field for field in inner if field.number == _TENSOR_DATA and field.kind == BYTES]
        if len(data) != 1:
            return None
        request = pb.PredictRequest.FromString(message[: tensor.start] + message[tensor.stop :])
        request.tensor.MergeFromString(message[tensor.content : data[0].start] + message[data[0].stop : tensor.stop])
        request.tensor.SetInParent()
        return request, data[0].content, data[0].stop
    return None


class ResponseWriter:
    """Writes PredictResponses of one loaded model."""

    def __init__(
        self,
        model: str,
        version: int,
        sha256: str,
        provider: str,
        labels: Sequence[str],
        ood_threshold: float | None = None,
    ):
        """ood_threshold: where it is given, answers have one more column, the score that is over it or not."""
        self._labels, self._threshold = labels, ood_threshold
        self._provenance = pb.PredictResponse(
            model=model, version=version, model_sha256=sha256, provider=provider
        ).SerializeToString()
        self._all_labels = pb.PredictResponse(labels=labels).SerializeToString()
        self._rows = Rows(labels, ood_threshold is not None)

    def write_all(self, answers: Sequence[Answer], request: pb.PredictRequest) -> list[bytes]:
        """The answers to several requests that want the same and have as many rows; InvalidInput as for `write`."""
        shape, each = self._shape(request), len(answers[0].rows)
        if len(answers) == 1 or shape.ranks or self._rows.longest(shape) * each * len(answers) > _SLICE:
            return [self.write(answer, request) for answer in answers]
        table, used = self._fill(np.concatenate([answer.rows for answer in answers]), shape)
        if used is None:
            ends = np.arange(each, len(table) + 1, each) * table.shape[1]
        else:
            table, ends = table[used], used.sum(axis=1).cumsum()[each - 1 :: each]
        rows, written, start = table.tobytes(), [], 0
        labels = self._all_labels if request.include_labels else b""
        for answer, end in zip(answers, ends.tolist(), strict=True):
            written.append(b"".join((rows[start:end], self._provenance, _timing(answer), labels)))
            start = end
        return written

    def write(self, answer: Answer, request: pb.PredictRequest) -> bytes:
        """The answer to a request; InvalidInput names a row that has no finite probabilities."""
        shape = self._shape(request)
        size = self._rows.longest(shape)
        if size * len(answer.rows) > MOST_ANSWER:
            raise InvalidInput(
                f"the answer would have {len(answer.rows)} rows of {size} bytes, more than one message holds; send "
                "fewer rows, ask for a smaller top_k, or set omit_probabilities"
            )
        probabilities, scores = split(answer.rows, len(self._labels))
        if len(probabilities) == 1 and not shape.ranks:
            parts = [self._rows.one(probabilities, self._strange(scores), shape)]
        else:
            top, best = winners(probabilities)
            strange, step = self._strange(scores), max(1, _SLICE // size)
            parts = [
                self._rows.write(
                    probabilities[at : at + step],
                    top[at : at + step],
                    best[at : at + step],
                    None if strange is None else strange[at : at + step],
                    shape,
                )
                for at in range(0, len(top), step)
            ]
        return b"".join(
            (*parts, self._provenance, _timing(answer), self._all_labels if request.include_labels else b"")
        )

    def _shape(self, request: pb.PredictRequest) -> Shape:
        return Shape(not request.omit_probabilities, min(request.top_k, len(self._labels)))

    def _strange(self, scores: np.ndarray | None) -> np.ndarray | None:
        return None if scores is None or self._threshold is None else strangeness(scores, self._threshold)

    def _fill(self, rows: np.ndarray, shape: Shape) -> Columns:
        probabilities, scores = split(rows, len(self._labels))
        return self._rows.fill(probabilities, *winners(probabilities), self._strange(scores), shape)


def _timing(answer: Answer) -> bytes:
    return _times(round(answer.queue_seconds * 1e6), round(answer.compute_seconds * 1e6), answer.batch_rows)


@functools.lru_cache(64)  # those who shared a batch mostly say the same
def _times(queue_us: int, compute_us: int, batch_rows: int) -> bytes:
    return delimited(6, b"\x08" + varint(queue_us) + b"\x10" + varint(compute_us) + b"\x18" + varint(batch_rows))


def stream_reply(id: str, response: bytes) -> bytes:
    """A PredictStreamResponse with a serialized PredictResponse in it."""
    return (delimited(1, id.encode()) if id else b"") + delimited(2, response)
