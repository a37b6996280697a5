"""topclass.v1 messages with many rows, read and written without a Python object for each row.

Protobuf writes a message's fields one after the other, so predictions of equal length are a table of bytes: numpy fills
it in one go. What is the same for every answer of a loaded model is serialized once. Everything unusual, and every
small request, goes through the protobuf library; property tests hold both to the same result.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from server.errors import InvalidInput
from server.lanes import Answer
from server.protobuf import BYTES, FIXED32, VARINT, delimited, fields, tag, varint
from topclass.v1 import inference_pb2 as pb

LARGE = 16 << 10  # bytes of a request from which it pays not to copy the tensor's data
MOST_ANSWER = (1 << 31) - 1  # bytes of a protobuf message
_SLICE = 8 << 20  # bytes of an answer that are written at once; the rest waits as bytes only
_WHOLE = 4 << 20  # bytes of prepared rows of one model
_FEW = 64  # fields of a request, more than the proto has; the library takes apart what has more
_STRANGENESS = 7  # bytes of a row's ood_score and out_of_distribution
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


def winners(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's most probable class and its probability; InvalidInput names a row that has no finite ones."""
    top = probabilities.argmax(axis=1)
    best = probabilities[np.arange(len(top)), top]
    if not np.isfinite(best).all():  # NaN and infinity are what argmax finds first
        row = int(np.argmin(np.isfinite(best)))
        raise InvalidInput(f"row {row} gives no finite probabilities: its values are out of all range", row=row)
    return top, best


def split(rows: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """What `Model.compute` gave, taken apart: probabilities [n, C], and scores [n] where it has that column."""
    return (rows[:, :classes], rows[:, classes]) if rows.shape[1] > classes else (rows, None)


def out_of_distribution(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which rows [n] are unlike the training data; a score that is no number is of one that is."""
    return ~(scores <= np.float32(threshold))


def _strangeness(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The fields ood_score and out_of_distribution of each row: uint8 [n, 7]."""
    table = np.empty((len(scores), _STRANGENESS), np.uint8)
    table[:, 0], table[:, 5] = tag(6, FIXED32)[0], tag(7, VARINT)[0]
    table[:, 1:5] = _bytes(scores[:, None])
    table[:, 6] = out_of_distribution(scores, threshold)
    return table


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
        self._rows = _Rows(labels, ood_threshold is not None)

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
        return None if scores is None or self._threshold is None else _strangeness(scores, self._threshold)

    def _fill(self, rows: np.ndarray, shape: Shape) -> Columns:
        probabilities, scores = split(rows, len(self._labels))
        return self._rows.fill(probabilities, *winners(probabilities), self._strange(scores), shape)


class Shape(NamedTuple):
    """What the rows of an answer hold beside class and label: all probabilities or not, and so many ranks."""

    probabilities: bool
    ranks: int


# Columns of the table that rows of bytes are: uint8 [n, w], and which of its bytes count; None: all of them.
Columns = tuple[np.ndarray, np.ndarray | None]


class _ByClass:
    """Bytes for each class, of different length."""

    def __init__(self, rows: Sequence[bytes]):
        self.width = max(map(len, rows))
        self._bytes = np.frombuffer(b"".join(row.ljust(self.width, b"\0") for row in rows), np.uint8)
        self._bytes = self._bytes.reshape(len(rows), self.width)
        self._rows = rows
        lengths = np.array([len(row) for row in rows])
        self._used = None if (lengths == self.width).all() else np.arange(self.width) < lengths[:, None]

    def one(self, number: int) -> bytes:
        """The bytes of one class."""
        return self._rows[number]

    def of(self, classes: np.ndarray) -> Columns:
        """The bytes of some classes [...], as [..., width]."""
        return self._bytes[classes], None if self._used is None else self._used[classes]


class _Rows:
    """Serialized predictions of one model. Numbers have a fixed width; labels, and rankings of them, have not."""

    def __init__(self, labels: Sequence[str], scored: bool):
        self._classes = len(labels)
        self._strangeness = _STRANGENESS if scored else 0  # bytes, right behind the probability
        width = len(varint(self._classes - 1))
        index = [tag(1, VARINT) + varint(number, width) + tag(3, FIXED32) for number in range(self._classes)]
        text = [delimited(2, label.encode()) for label in labels]
        self._index, self._label = _ByClass(index), _ByClass(text)
        self._before_all = np.frombuffer(tag(4, BYTES) + varint(4 * self._classes), np.uint8)
        self._heads = [self._head(index, text, all_probabilities) for all_probabilities in (False, True)]
        rest = 16 + self._strangeness + self._index.width + self._label.width
        self._longest = rest, rest + len(self._before_all) + 4 * self._classes
        self._whole: list[Columns] = []  # for each class, where that is small: it grows with the square of the classes
        if self._classes * self._longest[True] <= _WHOLE:
            self._whole = [self._compose(np.arange(self._classes), all_) for all_ in (False, True)]
        ranked = [number + bytes(4) + label for number, label in zip(index, text, strict=True)]
        size_width = max(len(varint(len(entry))) for entry in ranked)
        self._rank = _ByClass([tag(5, BYTES) + varint(len(entry), size_width) + entry for entry in ranked])
        self._rank_value = 1 + size_width + self._index.width

    def _head(self, index: Sequence[bytes], text: Sequence[bytes], all_probabilities: bool) -> _ByClass:
        """For each class all that stands before its probability, in a row without ranks: its size is known."""
        rest = 4 + self._strangeness + (len(self._before_all) + 4 * self._classes if all_probabilities else 0)
        sizes = [len(number) + rest + len(label) for number, label in zip(index, text, strict=True)]
        width = len(varint(max(sizes)))
        return _ByClass(
            [tag(1, BYTES) + varint(size, width) + number for size, number in zip(sizes, index, strict=True)]
        )

    def longest(self, shape: Shape) -> int:
        """Bytes of one row, or a few more, but never fewer."""
        return self._longest[shape.probabilities] + shape.ranks * self._rank.width

    def write(
        self, probabilities: np.ndarray, top: np.ndarray, best: np.ndarray, strange: np.ndarray | None, shape: Shape
    ) -> bytes:
        """The field `predictions` for float32 [n, C], its top classes [n] and their probabilities [n].

        strange: what `_strangeness` gives, for a model with a score.
        """
        if shape.ranks:
            return self._write_ranked(probabilities, top, best, strange, shape)
        rows, used = self.fill(probabilities, top, best, strange, shape)
        return bytes((rows if used is None else rows[used]).tobytes())

    def one(self, probabilities: np.ndarray, strange: np.ndarray | None, shape: Shape) -> bytes:
        """The same for one row without ranks: most requests have one, and numpy's setting out takes longer than it."""
        row = probabilities[0]
        top = int(row.argmax())
        if not math.isfinite(row[top]):
            winners(probabilities)  # which says so
        parts = [self._heads[shape.probabilities].one(top), _bytes(row[top]).tobytes()]
        if strange is not None:
            parts.append(strange.tobytes())
        if shape.probabilities:
            parts += [self._before_all.tobytes(), _bytes(row).tobytes()]
        parts.append(self._label.one(top))
        return b"".join(parts)

    def fill(
        self, probabilities: np.ndarray, top: np.ndarray, best: np.ndarray, strange: np.ndarray | None, shape: Shape
    ) -> Columns:
        """Rows without ranks, as a table."""
        rows, used = self._holes(top, shape.probabilities)
        value = self._heads[shape.probabilities].width
        rows[:, value : value + 4] = _bytes(best[:, None])
        if strange is not None:
            rows[:, value + 4 : value + 4 + self._strangeness] = strange
        if shape.probabilities:
            first = value + 4 + self._strangeness + len(self._before_all)
            rows[:, first : first + 4 * self._classes] = _bytes(probabilities)
        return rows, used

    def _holes(self, top: np.ndarray, all_probabilities: bool) -> Columns:
        """Whole rows with these top classes, but for their probabilities."""
        if self._whole:
            rows, used = self._whole[all_probabilities]
            return rows[top], None if used is None else used[top]
        return self._compose(top, all_probabilities)

    def _compose(self, top: np.ndarray, all_probabilities: bool) -> Columns:
        (head, _), (label, label_used) = self._heads[all_probabilities].of(top), self._label.of(top)
        value, before = head.shape[1], len(self._before_all)
        behind = value + 4 + self._strangeness
        end = behind + (before + 4 * self._classes if all_probabilities else 0)
        rows = np.zeros((len(top), end + label.shape[1]), np.uint8)
        rows[:, :value], rows[:, end:] = head, label
        if all_probabilities:
            rows[:, behind : behind + before] = self._before_all
        if label_used is None:
            return rows, None
        used = np.ones(rows.shape, bool)
        used[:, end:] = label_used
        return rows, used

    def _write_ranked(
        self, probabilities: np.ndarray, top: np.ndarray, best: np.ndarray, strange: np.ndarray | None, shape: Shape
    ) -> bytes:
        """The same, with rankings, whose sizes differ from row to row."""
        content: list[Columns] = [self._index.of(top), (_bytes(best[:, None]), None)]
        content += [] if strange is None else [(strange, None)]
        if shape.probabilities:
            before = np.broadcast_to(self._before_all, (len(top), len(self._before_all)))
            content += [(before, None), (_bytes(probabilities), None)]
        content += [self._label.of(top), self._ranking(probabilities, shape.ranks)]
        sizes = np.zeros(len(top), np.int64)
        for part, used in content:
            sizes += part.shape[1] if used is None else used.sum(axis=1)
        width = len(varint(self.longest(shape)))
        head = np.broadcast_to(np.frombuffer(tag(1, BYTES), np.uint8), (len(top), 1))
        return _joined([(head, None), (_varints(sizes, width), None), *content])

    def _ranking(self, probabilities: np.ndarray, ranks: int) -> Columns:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :ranks]
        entries, used = self._rank.of(order)
        values = _bytes(np.take_along_axis(probabilities, order, axis=1)).reshape(*order.shape, 4)
        entries[:, :, self._rank_value : self._rank_value + 4] = values
        flat = len(order), ranks * self._rank.width
        return entries.reshape(flat), None if used is None else used.reshape(flat)


def _joined(columns: Sequence[Columns]) -> bytes:
    rows = np.concatenate([part for part, _ in columns], axis=1)
    used = np.concatenate([np.ones(part.shape, bool) if used is None else used for part, used in columns], axis=1)
    return bytes(rows[used].tobytes())


def _varints(values: np.ndarray, width: int) -> np.ndarray:
    """uint8 [n, width]: each number as `varint` pads it."""
    more = np.where(np.arange(width) < width - 1, 0x80, 0)
    return (values[:, None] >> 7 * np.arange(width) & 0x7F | more).astype(np.uint8)


def _bytes(values: np.ndarray) -> np.ndarray:
    """float32 [n, k] as uint8 [n, 4k], little-endian."""
    return np.ascontiguousarray(values, "<f4").view(np.uint8)


def _timing(answer: Answer) -> bytes:
    return _times(round(answer.queue_seconds * 1e6), round(answer.compute_seconds * 1e6), answer.batch_rows)


@functools.lru_cache(64)  # those who shared a batch mostly say the same
def _times(queue_us: int, compute_us: int, batch_rows: int) -> bytes:
    return delimited(6, b"\x08" + varint(queue_us) + b"\x10" + varint(compute_us) + b"\x18" + varint(batch_rows))


def stream_reply(id: str, response: bytes) -> bytes:
    """A PredictStreamResponse with a serialized PredictResponse in it."""
    return (delimited(1, id.encode()) if id else b"") + delimited(2, response)
