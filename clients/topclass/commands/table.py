"""The CSV file: its columns, and how it appears whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from topclass.commands.answers import Answers
from topclass.commands.failures import Failed, ReaderGone
from topclass.results import Prediction

# A file name that is not UTF-8 must not make a table that no program can read.
_ENCODING = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}


@dataclass(frozen=True)
class Columns:
    """Which columns there are; without labels, no probabilities."""

    labels: tuple[str, ...]
    ranks: int

    @property
    def header(self) -> list[str]:
        """Their names."""
        ranked = [f"{what}_{rank}" for rank in range(2, self.ranks + 1) for what in ("label", "probability")]
        return [
            "input",
            "top_class",
            "label",
            "probability",
            *ranked,
            *(f"p_{label}" for label in self.labels),
            "error",
        ]

    def row(self, name: str, found: Prediction | str) -> list[str | int]:
        """One line of cells. Probabilities have the fewest digits that give back the same float32."""
        if isinstance(found, str):
            return [name, *[""] * (len(self.header) - 2), found]
        ranked = [cell for entry in found.top_k[1:] for cell in (entry.label, _shortest(entry.probability))]
        top: list[str | int] = [found.top_class, found.label, _shortest(found.probability)]
        return [name, *top, *ranked, *map(str, found.probabilities), ""]


def _shortest(probability: float) -> str:
    return str(np.float32(probability))


class Table:
    """Writes rows, and counts them."""

    def __init__(self, stream: TextIO, columns: Columns):
        # Rows, those that failed, and the end of the last in bytes: one value, so that an interrupt between two
        # statements cannot make them disagree.
        self._complete = (0, 0, 0)
        self.partial: Path | None = None  # where the rows are kept, once the run has failed
        self._stream, self._columns = stream, columns
        self._writer = csv.writer(stream, lineterminator="\n")
        self._writer.writerow(columns.header)

    @property
    def rows(self) -> int:
        """How many rows are written."""
        return self._complete[0]

    @property
    def failed(self) -> int:
        """How many of them have an error."""
        return self._complete[1]

    def keep(self, unfinished: Path, path: Path) -> None:
        """Keep the complete rows of the file `unfinished` in `<path>.partial`."""
        os.truncate(unfinished, self._complete[2])
        self.partial = path.with_name(path.name + ".partial")
        unfinished.replace(self.partial)

    def write(self, answers: Answers) -> None:
        """Append the rows of one chunk."""
        self._writer.writerows(map(self._columns.row, answers.names, answers.rows))
        self._stream.flush()
        end = self._stream.buffer.tell() if self._stream.seekable() else 0
        self._complete = (self.rows + len(answers.rows), self.failed + answers.failed, end)


@contextmanager
def table(path: Path | None, columns: Columns) -> Iterator[Table]:
    """A table that is written to `path`, or to standard output if that is None.

    The file appears under its name when it is complete. If the block fails after some rows, these are kept in
    `<path>.partial`, and what was under the name stays untouched.
    """
    if path is None:
        with _standard_output() as stream:
            yield Table(stream, columns)
    elif path.exists() and not path.is_file():  # /dev/null, a pipe: nothing to rename
        with path.open("w", **_ENCODING) as stream:  # type: ignore[call-overload]
            yield Table(stream, columns)
    else:
        yield from _whole_or_partial(Path(os.path.realpath(path)), columns)


def _whole_or_partial(path: Path, columns: Columns) -> Iterator[Table]:
    # A name of its own, so that two runs with the same output do not write into each other's file.
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    written: Table | None = None
    try:
        with unfinished.open("x", **_ENCODING) as stream:  # type: ignore[call-overload]
            written = Table(stream, columns)
            yield written
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
    except BaseException:
        if written and written.rows:
            written.keep(unfinished, path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _standard_output() -> Iterator[TextIO]:
    stream = io.TextIOWrapper(sys.stdout.buffer, write_through=True, **_ENCODING)  # type: ignore[arg-type]
    try:
        yield stream
        stream.flush()
    except BrokenPipeError:
        raise ReaderGone from None
    finally:
        stream.detach()


def check_writable(path: Path, inputs: list[Path]) -> None:
    """Failed, before anything is sent, where the table could not be written or would replace an input."""
    if path.is_dir():
        raise Failed(f"{path} is a folder; -o takes the name of a file")
    if not path.absolute().parent.is_dir():
        raise Failed(f"there is no folder {path.absolute().parent} to write {path.name} into")
    if not os.access(path.absolute().parent, os.W_OK) and not path.exists():
        raise Failed(f"{path} cannot be written: no permission for its folder")
    if path.is_file() and any(path.samefile(other) for other in inputs):
        raise Failed(f"{path} is one of the inputs; it would be replaced by the table")
