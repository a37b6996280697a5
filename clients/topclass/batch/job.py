"""One job, from its files to its table."""

from __future__ import annotations

import csv
import io
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from topclass.batch import manifest
from topclass.batch.answers import Answered
from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed, ReaderGone
from topclass.batch.journal import Journal, State, journal
from topclass.batch.labels import Labels
from topclass.batch.pictures import Fitting
from topclass.batch.sinks import Sink
from topclass.batch.sources import Reading, read
from topclass.batch.tally import Tally

ERRORS_HEADER = b"row,input,error\n"

Engine: TypeAlias = Callable[[Iterable[Chunk]], Generator[Answered, None, None]]
"""Answers chunks, in their order. Closing it ends what is in progress."""


@dataclass(frozen=True)
class Job:
    """What to read, whom to ask, how to write. `settings` are what must be the same in a run that goes on."""

    files: IO[str]
    reading: Reading
    fitting: Fitting
    engine: Engine
    sink: Sink
    labels: Labels | None
    class_labels: tuple[str, ...]
    strict: bool = False
    checked: bool = False
    """Standard input is among the files: what comes is compared with what came, by its checksum."""


class StrictRow(Failed):
    """A row is bad, and the job was told to stop there."""


def run(job: Job, out: Journal | Stream, told: Callable[[Answered], None]) -> Tally:
    """Answer all rows behind those that `out` has, and write them. `told` hears of each chunk."""
    state, start = out.state, time.monotonic()
    before = state.seconds
    tally = Tally.of(job.class_labels, state.tally)
    job.fitting.inverted = state.inverted

    def note() -> None:
        state.tally, state.seconds = tally.kept(), before + time.monotonic() - start
        state.inverted = job.fitting.inverted

    if not state.size:
        out.write(job.sink.header())
    try:
        with closing(job.engine(_chunks(job, state))) as answered:
            for each in answered:
                if job.strict and each.errors:
                    row = min(each.errors)
                    raise StrictRow(f"{each.chunk.names[row]}: {each.errors[row]}")
                rows, errors = job.sink.rows(each), _errors(each, state.rows)
                if job.checked:
                    state.checksum = _checksum(each.chunk, state.checksum)
                # From here on nothing may come between; what is written without being counted is cut off again.
                out.write(rows, errors)
                tally.add(each)
                state.rows += len(each.chunk.names)
                state.failed += len(each.errors)
                told(each)
                out.maybe_commit(note)
    except StrictRow:
        note()
        out.commit()
        raise
    note()
    state.done = True
    out.commit()
    return tally


def _chunks(job: Job, state: State) -> Iterator[Chunk]:
    job.files.seek(0)
    chunks = read(manifest.read(job.files), job.reading, 0 if job.checked else state.rows)
    if job.labels is not None:
        chunks = job.labels.added(chunks, 0 if job.checked else state.rows)
    prepared = job.fitting.prepare(chunks)
    return _behind(prepared, state) if job.checked else prepared


def _behind(chunks: Iterator[Chunk], state: State) -> Iterator[Chunk]:
    """What standard input gives behind the rows that have their answer, if these are the same as before."""
    rows, checksum = 0, 0
    while rows < state.rows:
        chunk = next(chunks, None)
        if chunk is not None:
            rows, checksum = rows + len(chunk.names), _checksum(chunk, checksum)
        if chunk is None or (rows >= state.rows and (rows, checksum) != (state.rows, state.checksum)):
            raise Failed("standard input does not give the rows that it gave before; --restart begins anew")
    yield from chunks


def _checksum(chunk: Chunk, before: int) -> int:
    parts: Any = [chunk.inputs] if isinstance(chunk.inputs, np.ndarray) else chunk.inputs
    for part in parts:
        before = zlib.crc32(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else part, before)
    return zlib.crc32(repr(sorted(chunk.errors.items())).encode(), before)


def _errors(answered: Answered, first: int) -> bytes:
    if not answered.errors:
        return b""
    stream = io.StringIO()
    names = answered.chunk.names
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerows((first + row, names[row], answered.errors[row]) for row in sorted(answered.errors))
    return stream.getvalue().encode("utf-8", "backslashreplace")


class Stream:
    """A table that goes where nothing can be taken back: standard output, a pipe, a device."""

    def __init__(self, stream: IO[bytes]):
        self.state, self._stream = State(), stream

    def write(self, rows: bytes, errors: bytes = b"") -> None:  # noqa: ARG002
        """Write; errors stand in the rows."""
        try:
            self._stream.write(rows)
            self._stream.flush()
        except BrokenPipeError:
            raise ReaderGone from None
        self.state.size += len(rows)

    def maybe_commit(self, finished: Callable[[], None]) -> None:
        """What is written is written."""

    def commit(self) -> None:
        """What is written is written."""


@contextmanager
def kept(output: Path, settings: dict[str, Any], files: IO[str], restart: bool) -> Iterator[Journal]:
    """The journal of `output`: a fresh one, or what an earlier run of the same job left."""
    held: AbstractContextManager[Journal] = journal(output)
    with held as found:
        if restart or not found.recover():
            found.state = State()
            for name in ("state", "rows", "errors"):
                (found.folder / name).unlink(missing_ok=True)
            found.settings = {}
        else:
            found.check(settings, files)
        try:
            yield found
        except BaseException:
            if not found.certain and not found.state.done:
                found.forget()
            raise
