"""Predictions as a table of bytes: rows of equal length, which numpy fills in one go, are the serialized field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from server.errors import InvalidInput
from server.protobuf import BYTES, FIXED32, VARINT, delimited, tag, varint

_WHOLE = 4 << 20  # bytes of prepared rows of one model
_STRANGENESS = 7  # bytes of a row's ood_score and out_of_distribution


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


def strangeness(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The fields ood_score and out_of_distribution of each row: uint8 [n, 7]."""
    table = np.empty((len(scores), _STRANGENESS), np.uint8)
    table[:, 0], table[:, 5] = tag(6, FIXED32)[0], tag(7, VARINT)[0]
    table[:, 1:5] = _bytes(scores[:, None])
    table[:, 6] = out_of_distribution(scores, threshold)
    return table


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


class Rows:
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

        strange: what `strangeness` gives, for a model with a score.
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
