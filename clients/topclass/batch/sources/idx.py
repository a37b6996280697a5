"""IDX files, in which MNIST comes, plain and gzipped: http://yann.lecun.com/exdb/mnist/ describes the format."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from topclass.batch.chunk import Chunk, Numbered
from topclass.batch.failures import Failed
from topclass.batch.manifest import File
from topclass.batch.sources.arrays import pass_over

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def open_idx(path: str) -> Any:
    """The file's bytes, unzipped."""
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rb")
    return Path(path).open("rb")


def header(stream: IO[bytes], path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype; Failed where it is none."""
    try:
        zero, kind, dimensions = struct.unpack(">HBB", stream.read(4))
        shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
        if zero or not dimensions:
            raise ValueError
        return shape, np.dtype(_TYPES[kind])
    except (struct.error, ValueError, KeyError, OSError, EOFError, zlib.error):
        raise Failed(f"{path} is not an IDX file, as MNIST's are") from None


def count(file: File, how: Reading) -> int:  # noqa: ARG001
    """Its rows."""
    with open_idx(file.path) as stream:
        return header(stream, file.path)[0][0]


def chunks(file: File, how: Reading, skip: int) -> Generator[Chunk, None, int]:
    """Its rows from `skip` on."""
    with open_idx(file.path) as stream:
        shape, dtype = header(stream, file.path)
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        size, held = how.rows(row_bytes), skip
        try:
            pass_over(stream, skip * row_bytes)
            for first in range(skip, shape[0], size):
                rows = min(size, shape[0] - first)
                data = stream.read(rows * row_bytes)
                held = first + len(data) // max(1, row_bytes)
                if held < first + rows:
                    raise EOFError
                piece = np.frombuffer(data, dtype).reshape(rows, *shape[1:])
                yield Chunk(Numbered(file.path, first, rows), piece.astype(dtype.newbyteorder("="), copy=False))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            why = f" ({error})" if str(error) else ""
            text = f"{file.path} is cut off or damaged: it promises {shape[0]:,} rows and holds {held:,}{why}"
            raise Failed(text) from None
    return 0


def labels(path: str) -> list[str]:
    """All values of a one-dimensional IDX file."""
    with open_idx(path) as stream:
        shape, dtype = header(stream, path)
        data = stream.read()
    if len(shape) != 1 or len(data) != shape[0] * dtype.itemsize:
        raise Failed(f"{path} holds no list of labels: its shape is {list(shape)}")
    return [str(value) for value in np.frombuffer(data, dtype).tolist()]
