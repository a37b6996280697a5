"""Records of text and of columns to chunks: numbers as the model takes them, or the bytes of picture files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from topclass.batch.chunk import MOST_BYTES, Chunk

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

Values: TypeAlias = Sequence[Any] | NDArray[Any] | bytes


class BadRow(ValueError):
    """One record cannot be an input; the words say why."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row before it is checked: its name, its numbers or picture file or what is wrong with it, its label."""

    name: str
    values: Values | BadRow
    label: str | None = None


def gathered(records: Iterable[Record], how: Reading) -> Iterator[Chunk]:
    """Chunks of records, in order; rows of numbers travel in larger ones than picture files."""
    group: list[Record] = []
    size = 0
    for record in records:
        length = len(record.values) if isinstance(record.values, bytes) else 0
        most = how.picture_rows if any(isinstance(r.values, bytes) for r in (*group[:1], record)) else _most(how)
        if group and (len(group) >= most or size + length > MOST_BYTES):
            yield _chunk(group, how)
            group, size = [], 0
        group.append(record)
        size += length
    if group:
        yield _chunk(group, how)


def _most(how: Reading) -> int:
    return how.rows(math.prod(how.row) * np.dtype(how.dtype).itemsize)


def _chunk(group: list[Record], how: Reading) -> Chunk:
    names = [record.name for record in group]
    labels = [record.label or "" for record in group] if how.label_key is not None else None
    errors = {row: str(record.values) for row, record in enumerate(group) if isinstance(record.values, BadRow)}
    encoded = [row for row, record in enumerate(group) if isinstance(record.values, bytes)]
    if encoded:
        for row in range(len(group)):
            if row not in errors and not isinstance(group[row].values, bytes):
                errors[row] = "holds numbers, and its neighbours picture files"
        return Chunk(names, [group[row].values for row in encoded], errors, labels)  # type: ignore[misc]
    good = [row for row in range(len(group)) if row not in errors]
    array, bad = numbers([group[row].values for row in good], how)
    errors |= {good[index]: words for index, words in bad.items()}
    return Chunk(names, array, errors, labels)


def numbers(rows: list[Any], how: Reading) -> tuple[NDArray[Any], dict[int, str]]:
    """The good rows as the model takes them, and why each of the others is none."""
    try:
        return shaped(_as_array(rows), how), {}
    except BadRow:
        pass
    kept: list[NDArray[Any]] = []
    errors: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            kept.append(shaped(_as_array([row]), how))
        except BadRow as error:
            errors[index] = str(error)
    return (np.concatenate(kept) if kept else np.empty((0, *how.row), how.dtype)), errors


def _as_array(rows: list[Any]) -> NDArray[Any]:
    try:
        array = np.array(rows)
        if array.dtype.kind == "U":
            array = array.astype(np.float64)
    except ValueError:
        raise BadRow("holds what is no number, or not as many in each row") from None
    if array.dtype.kind not in "uif":
        raise BadRow("holds what is no number")
    return array


def shaped(array: NDArray[Any], how: Reading) -> NDArray[Any]:
    """[N, …] as the model takes it. BadRow where the numbers are too many, too few, or no bytes for a picture."""
    wanted, has = math.prod(how.row), array[0].size if len(array) else math.prod(how.row)
    if has != wanted:
        raise BadRow(f"holds {has:,} numbers, and the model takes {wanted:,}")
    if how.dtype == "uint8" and array.dtype != np.uint8:
        if not ((array >= 0) & (array <= 255) & (array == np.floor(array))).all():
            raise BadRow("holds what is no whole number from 0 to 255")
        array = array.astype(np.uint8)
    elif how.dtype != "uint8":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and the server names its row
            array = array.astype(np.float32, copy=False)
    return array.reshape(len(array), *how.row)
