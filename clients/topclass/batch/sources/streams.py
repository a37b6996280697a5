"""Standard input: records, an array, or one picture, as --input-format says."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator
from typing import IO, TYPE_CHECKING

import numpy as np

from topclass.batch.chunk import Chunk, Numbered
from topclass.batch.failures import Failed
from topclass.batch.manifest import File
from topclass.batch.sources import arrays, text

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

FORMATS = ("csv", "jsonl", "npy", "picture")


def count(file: File, how: Reading) -> None:  # noqa: ARG001
    """Only reading tells. Failed where nothing says what comes."""
    if how.input_format is None:
        raise Failed(f"standard input (-) needs --input-format: {', '.join(FORMATS)}")


def chunks(file: File, how: Reading, skip: int) -> Generator[Chunk, None, int]:  # noqa: ARG001
    """What comes behind the first `skip` rows; returns how many of these did not come."""
    stream = sys.stdin.buffer
    if how.input_format == "picture":
        data = stream.read()
        if not skip:
            yield Chunk(["-"], [data])
        return max(0, skip - 1)
    if how.input_format == "npy":
        return (yield from _npy(stream, how, skip))
    return (yield from text.from_stream(stream, "-", str(how.input_format), how, skip))


def _npy(stream: IO[bytes], how: Reading, skip: int) -> Generator[Chunk, None, int]:
    shape, fortran, dtype = arrays.read_header(stream, "standard input")
    if not shape or dtype.hasobject or (fortran and len(shape) > 1):
        raise Failed("standard input holds a column-major array, a single number or objects; save it with C order")
    row_bytes = dtype.itemsize * math.prod(shape[1:])
    arrays.pass_over(stream, skip * row_bytes)
    size = how.rows(row_bytes)
    for first in range(skip, shape[0], size):
        rows = min(size, shape[0] - first)
        data = stream.read(rows * row_bytes)
        if len(data) < rows * row_bytes:
            raise Failed(f"standard input ended early: it promised {shape[0]:,} rows")
        yield Chunk(Numbered("-", first, rows), np.frombuffer(data, dtype).reshape(rows, *shape[1:]))
    return max(0, skip - shape[0])
