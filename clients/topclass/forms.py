"""The arrangement of the bytes of one prediction, and tables of rows that have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]

ROW = 0x0A  # the tag of PredictResponse.predictions
TOP_CLASS, LABEL, PROBABILITY, PROBABILITIES, OOD_SCORE, STRANGE = 0x08, 0x12, 0x1D, 0x22, 0x35, 0x38
_WIDEST = 4  # bytes of a length: more than any message may have


class Unusual(Exception):
    """These bytes are for the protobuf library: to read, or to refuse."""


@dataclass(frozen=True, slots=True)
class Table:
    """`count` rows of bytes, each `stride` behind the one before."""

    buffer: Any
    stride: int
    count: int
    first: int = 0

    def column(self, place: int, dtype: str, width: int | None = None) -> NDArray[Any]:
        """A view [count] of one value in each row, or [count, width] of so many; nothing is copied."""
        kind = np.dtype(dtype)
        if width is None:
            return np.ndarray((self.count,), kind, self.buffer, self.first + place, (self.stride,))
        return np.ndarray((self.count, width), kind, self.buffer, self.first + place, (self.stride, kind.itemsize))

    def number(self, start: int, stop: int) -> Ints:
        """int64 [count]: the varint in these bytes of each row, modulo 2**32."""
        value: Ints = (self.column(start, "u1") & 0x7F).astype(np.int64)
        for place in range(start + 1, stop):
            value |= (self.column(place, "u1") & 0x7F).astype(np.int64) << 7 * (place - start)
        return value & 0xFFFFFFFF if stop - start == 5 else value


class Part:
    """The structure of one side of a row, before or behind its label, and the places of the values there."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[int, int]] = {}
        self.width = 0
        self._marks: list[tuple[int, int]] = []

    def mark(self, start: int, stop: int, mask: int = 0xFF) -> None:
        """These bytes are the same in all rows; of a number, whose mask is 0x80, only which byte is its last."""
        self._marks += [(place, mask) for place in range(start, stop)]

    def finish(self, example: bytes) -> Part:
        """Closes the part, of which these bytes are an example."""
        self.width = len(example)
        self._places = np.array([place for place, _ in self._marks], np.intp)
        self._mask = np.array([mask for _, mask in self._marks], np.uint8)
        self._wanted = np.array(list(example), np.uint8)[self._places] & self._mask
        return self

    def fits(self, table: Table) -> NDArray[np.bool_]:
        """bool [n, bytes of structure]: which of them are as they must be."""
        found: NDArray[np.uint8] = table.column(0, "u1", self.width).take(self._places, axis=1)
        fits: NDArray[np.bool_] = (found & self._mask) == self._wanted
        return fits


@dataclass(frozen=True, slots=True)
class Form:
    """One arrangement of a row: its tag, its length, and its fields in their order, each at most once."""

    before: Part
    behind: Part
    label: tuple[int, int] | None
    """Where in `before` the label's length stands; None for rows without one."""
    classes: int

    @classmethod
    def of(cls, row: bytes) -> Form:
        """The form of this row; Unusual where it has a field twice, or one that is not known here."""
        part, before, label, cut, seen = Part(), None, None, 0, set()
        at = number_end(row, 1)
        part.mark(0, 1)
        part.mark(1, at, 0x80)
        while at < len(row):
            tag, start = row[at], at + 1
            part.mark(at - cut, start - cut)
            if tag in seen:
                raise Unusual
            seen.add(tag)
            if tag == LABEL:
                size, stop = length(row, start)
                part.mark(start, stop, 0x80)
                label, before = (start, stop), part.finish(row[:stop])
                part, cut, at = Part(), stop + size, stop + size
                continue
            if tag in (TOP_CLASS, STRANGE):
                stop = number_end(row, start)
                part.mark(start - cut, stop - cut, 0x80)
            elif tag in (PROBABILITY, OOD_SCORE):
                stop = start + 4
            elif tag == PROBABILITIES:
                size, content = length(row, start)
                part.mark(start - cut, content - cut)
                start, stop = content, content + size
            else:
                raise Unusual
            part.values[tag] = start - cut, stop - cut
            at = stop
        if at != len(row):
            raise Unusual
        part.finish(row[cut:])
        before, behind = (before, part) if before else (part, Part().finish(b""))
        start, stop = {**before.values, **behind.values}.get(PROBABILITIES, (0, 0))
        if (stop - start) % 4:
            raise Unusual
        return cls(before, behind, label, (stop - start) // 4)


def length(message: bytes, at: int) -> tuple[int, int]:
    """The length that is written here, and where what it measures begins."""
    stop = number_end(message, at)
    if stop - at > _WIDEST:
        raise Unusual
    size = 0
    for place in range(stop - 1, at - 1, -1):
        size = size << 7 | message[place] & 0x7F
    return size, stop


def number_end(message: bytes, at: int) -> int:
    """Where the varint ends that begins here; at most 5 bytes are one of 32 bits."""
    for stop in range(at + 1, min(at + 5, len(message)) + 1):
        if message[stop - 1] < 0x80:
            return stop
    raise Unusual
