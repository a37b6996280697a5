"""Reads a CSV with a header: numbers to learn from, and one column of labels."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import numpy as np

from training import npz
from training.errors import DataError


def read(path: Path, label: str | None = None, names: Sequence[str] | None = None) -> npz.Contents:
    """Read the table; `label` names the column of labels, else it is the last one; `names` are those of its numbers.

    Raises DataError with the file, the line and the column, what was found and what was expected.
    """
    try:
        return _checked(_lines(path), label, names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(number in the file, cells) of each line that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            return [(rows.line_num, cells) for cells in rows if any(cell.strip() for cell in cells)]
    except FileNotFoundError:
        raise DataError("no such file") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"no CSV in UTF-8: {error}") from None


def _checked(lines: list[tuple[int, list[str]]], label: str | None, names: Sequence[str] | None) -> npz.Contents:
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    if len(header) < 2 or len(lines) < 2:
        raise DataError("expected a header, at least two columns separated by commas, and rows under it")
    if len(set(header)) != len(header) or "" in header:
        raise DataError(f"the header {', '.join(header)} names a column twice, or has an empty name")
    if all(_is_number(cell) for cell in header):
        raise DataError(f"the first line is {', '.join(header)}; expected a header of column names")
    place = _place(header, label)
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise DataError(f"line {number} has {len(cells)} cells; the header has {len(header)}")
    features = [column for column in range(len(header)) if column != place]
    values = [[_value(cells[column], number, header[column]) for column in features] for number, cells in lines[1:]]
    labels = [_label(cells[place], number, header[place]) for number, cells in lines[1:]]
    stored: dict[str, npz.Array] = {
        "x": np.array(values, np.float64),
        "y": _numbers_or_words(labels),
        "features": np.array([header[column] for column in features]),
    }
    notes = [f"the labels are the column {header[place]!r}"]
    contents = npz.checked(stored, names)
    said = tuple(note for note in contents.notes if "taken as float32" not in note)
    return npz.Contents(
        contents.inputs, contents.labels, None, None, contents.names, contents.features, (*said, *notes)
    )


def _place(header: list[str], label: str | None) -> int:
    if label is None:
        return len(header) - 1
    if label not in header:
        near = difflib.get_close_matches(label, header, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"no column {label!r} for the labels; there are {', '.join(header)}{hint}")
    return header.index(label)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _value(cell: str, line: int, column: str) -> float:
    if not _is_number(cell) or not isfinite(float(cell)):
        found = repr(cell) if cell.strip() else "nothing"
        raise DataError(f"line {line}, column {column!r} holds {found}; expected a number")
    return float(cell)


def _label(cell: str, line: int, column: str) -> str:
    if not cell.strip():
        raise DataError(f"line {line} has no label in the column {column!r}")
    return cell.strip()


def _numbers_or_words(labels: list[str]) -> npz.Array:
    """0..C-1 as numbers where every label is such a one; else words, though they may look like numbers."""
    numbers = {int(label) for label in labels if label.isdecimal()}
    if all(label.isdecimal() for label in labels) and numbers == set(range(len(numbers))):
        return np.array([int(label) for label in labels])
    return np.array(labels)
