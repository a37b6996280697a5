"""CSV and JSON lines, a chunk at a time: the cells of a column are made together, and the columns laid side by side."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from topclass.batch import numbers
from topclass.batch.answers import Answered
from topclass.batch.chunk import Numbered
from topclass.batch.numbers import Cells
from topclass.batch.sinks.layout import Layout


def _csv_cell(text: str) -> str:
    """The text quoted as CSV needs it; a zero character cannot stand in a table."""
    text = text.replace("\0", "\\x00")
    if not any(character in text for character in ',"\n\r'):
        return text
    return '"' + text.replace('"', '""') + '"'


def _json_cell(text: str) -> str:
    return json.dumps(text.encode("utf-8", "backslashreplace").decode(), ensure_ascii=False).replace("\0", "")


class _Text:
    def __init__(self, layout: Layout, quote: Callable[[str], str]):
        self.layout, self.quote = layout, quote
        self.labels = numbers.text_cells([quote(label) for label in layout.labels])
        self.numbers = numbers.text_cells([str(index) for index in range(len(layout.labels))])
        self.flags = numbers.text_cells(["false", "true"])

    def finish(self, written: Path, into: Path) -> bool:  # noqa: ARG002
        """The rows are the table."""
        return False

    def names(self, names: Sequence[str]) -> list[Cells | bytes]:
        """The first column."""
        if isinstance(names, Numbered):
            around = self.quote(f"{names.path}[\1]").encode("utf-8", "backslashreplace")
            before, _, after = around.partition(b"\1" if b"\1" in around else rb"\u0001")
            return [before, numbers.counted_cells(names.first, len(names)), after]
        return [numbers.text_cells(map(self.quote, names))]

    def shares(self, answered: Answered) -> tuple[Cells, list[Cells]]:
        """The probability of the top class, and where they are wanted those of each class."""
        values, classes = answered.values, len(self.layout.labels)
        if not self.layout.probabilities or not len(values):
            none = np.zeros((len(values), 1), np.uint8)
            return numbers.float_cells(values.probability), [none] * classes if self.layout.probabilities else []
        cells = numbers.float_cells(values.probabilities.ravel())
        cells = cells.reshape(len(values), classes, cells.shape[1])
        rows = np.arange(len(values))
        same = np.array_equal(values.probabilities[rows, values.top_class], values.probability)
        top = cells[rows, values.top_class] if same else numbers.float_cells(values.probability)
        return top, list(cells.swapaxes(0, 1))

    def ranked(self, answered: Answered) -> list[list[Cells]]:
        """For each rank behind the first its label and its probability."""
        rows = answered.values.top_k
        found = []
        for rank in range(1, self.layout.ranks):
            classes = np.array([row[rank].class_index for row in rows], np.int64)
            shares = np.array([row[rank].probability for row in rows], np.float32)
            found.append([self.labels[classes], numbers.float_cells(shares)])
        return found


class Csv(_Text):
    """One line for each row, with a header."""

    def __init__(self, layout: Layout):
        super().__init__(layout, _csv_cell)

    def header(self) -> bytes:
        """The names of the columns."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerow(self.layout.header)
        return stream.getvalue().encode("utf-8", "backslashreplace")

    def rows(self, answered: Answered) -> bytes:
        """One line for each; those without an answer have empty cells and their reason."""
        values, chunk, layout = answered.values, answered.chunk, self.layout
        top, each = self.shares(answered)
        columns: list[Cells] = [
            self.numbers[values.top_class],
            self.labels[values.top_class],
            top,
            *(cell for rank in self.ranked(answered) for cell in rank),
            *each,
        ]
        after: list[Cells] = [self._scores(answered), self.flags[values.out_of_distribution.astype(np.int64)]]
        count, good = len(chunk.names), answered.good
        laid: list[Cells | bytes] = self.names(chunk.names)
        for column in columns:
            laid += [b",", _scattered(column, good, count)]
        if layout.expected:
            laid += [b",", numbers.text_cells(map(_csv_cell, chunk.expected or [""] * count))]
        for column in after:
            laid += [b",", _scattered(column, good, count)]
        provenance = f"{layout.version},{layout.sha256}".encode()
        if len(good) < count:
            cells = np.repeat(np.frombuffer(provenance, np.uint8)[None], len(good), axis=0)
            laid += [b",", _scattered(cells, good, count, empty=b",")]
        else:
            laid += [b",", provenance]
        if answered.errors:
            laid += [b",", numbers.text_cells(_csv_cell(answered.errors.get(row, "")) for row in range(count)), b"\n"]
        else:
            laid.append(b",\n")
        return numbers.joined(laid, count)

    @staticmethod
    def _scores(answered: Answered) -> Cells:
        scores = answered.values.ood_score
        return np.zeros((len(answered.values), 1), np.uint8) if scores is None else numbers.float_cells(scores)


def _scattered(cells: Cells, good: list[int], count: int, empty: bytes = b"") -> Cells:
    """The cells in their rows, the others empty."""
    if len(good) == count:
        return cells
    wide = np.zeros((count, max(cells.shape[1], len(empty))), np.uint8)
    wide[:, : len(empty)] = np.frombuffer(empty, np.uint8)
    wide[good] = 0
    wide[np.array(good, np.int64), : cells.shape[1]] = cells
    return wide


class JsonLines(_Text):
    """One object for each row; those without an answer have `input` and `error`."""

    def __init__(self, layout: Layout):
        super().__init__(layout, _json_cell)

    def header(self) -> bytes:
        """Nothing stands before the rows."""
        return b""

    def rows(self, answered: Answered) -> bytes:
        """One line for each."""
        if not answered.errors:
            return self._good(answered, answered.chunk.names, answered.chunk.expected)
        names, expected = answered.chunk.names, answered.chunk.expected
        good = answered.good
        kept = None if expected is None else [expected[row] for row in good]
        lines = self._good(answered, [names[row] for row in good], kept).split(b"\n") if good else []
        ready = iter(lines)
        return b"".join(
            (self._bad(names[row], answered.errors[row], expected[row] if expected else None) if row in answered.errors
             else next(ready)) + b"\n"
            for row in range(len(names))
        )  # fmt: skip

    def _bad(self, name: str, error: str, expected: str | None) -> bytes:
        middle = f', "expected": {self.quote(expected)}' if expected is not None else ""
        return f'{{"input": {self.quote(name)}{middle}, "error": {self.quote(error)}}}'.encode()

    def _good(self, answered: Answered, names: Sequence[str], expected: list[str] | None) -> bytes:
        values, layout = answered.values, self.layout
        laid: list[Cells | bytes] = [
            b'{"input": ',
            *self.names(names),
            b', "top_class": ',
            self.numbers[values.top_class],
        ]
        laid += [b', "label": ', self.labels[values.top_class], b', "probability": ', _finite(values.probability)]
        if layout.ranks:
            for rank, (label, share) in enumerate(self.ranked(answered), start=2):
                laid += [f', "label_{rank}": '.encode(), label, f', "probability_{rank}": '.encode(), share]
        if layout.probabilities:
            cells = _finite(values.probabilities.ravel())
            for index, column in enumerate(
                cells.reshape(len(values), len(layout.labels), cells.shape[1]).swapaxes(0, 1)
            ):
                laid += [b", " if index else b', "probabilities": [', column]
            laid.append(b"]" if layout.labels else b', "probabilities": []')
        if expected is not None:
            laid += [b', "expected": ', numbers.text_cells(map(self.quote, expected))]
        laid += [b', "ood_score": ', b"null" if values.ood_score is None else _finite(values.ood_score)]
        laid += [b', "out_of_distribution": ', self.flags[values.out_of_distribution.astype(np.int64)]]
        laid.append(f', "version": {layout.version}, "sha256": "{layout.sha256}"}}\n'.encode())
        return numbers.joined(laid, len(values))


def _finite(values: np.ndarray) -> Cells:
    """Numbers as JSON has them: what is infinite or none becomes null."""
    cells = numbers.float_cells(values)
    strange = ~np.isfinite(values)
    if strange.any():
        cells[strange] = 0
        cells[strange, :4] = np.frombuffer(b"null", np.uint8)
    return cells
