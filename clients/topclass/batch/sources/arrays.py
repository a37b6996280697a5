"""Arrays that numpy saved, .npy and .npz, read piece by piece.

Not memory-mapped, but for column-major ones: a file that is cut off below a map ends the process without a word.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topclass.batch.chunk import Chunk, Numbered
from topclass.batch.failures import Failed
from topclass.batch.manifest import File

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

# The names that an .npz is searched for, in this order; the second and third are keras' own.
_KEYS = ("inputs", "x", "x_test")
_NOT_INPUTS = {"labels", "y", "y_test"}


@dataclass(frozen=True)
class Array:
    """One array in a file, or in an archive under `key`."""

    path: str
    key: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def pieces(self, size: int, skip: int) -> Iterator[NDArray[Any]]:
        """`size` rows at a time, from row `skip` on."""
        if not self.fortran:
            yield from self._by_reading(size, skip)
            return
        # A row of a column-major array lies all over the file.
        loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
        array = loaded[self.key] if self.key else loaded
        for first in range(skip, self.shape[0], size):
            yield np.asarray(array[first : first + size])

    def _by_reading(self, size: int, skip: int) -> Iterator[NDArray[Any]]:
        with opened(self.path, self.key) as stream:
            read_header(stream, self.path)
            if self.key is None:
                stream.seek(skip * self.row_bytes, os.SEEK_CUR)
            else:
                pass_over(stream, skip * self.row_bytes)
            for first in range(skip, self.shape[0], size):
                rows = min(size, self.shape[0] - first)
                data = stream.read(rows * self.row_bytes)
                if len(data) < rows * self.row_bytes:
                    raise self._cut_off(first + len(data) // self.row_bytes)
                yield np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])

    def _cut_off(self, held: int) -> Failed:
        return Failed(f"{self.path} is cut off: it promises {self.shape[0]:,} rows and holds {held:,}")


def pass_over(stream: IO[bytes], size: int) -> None:
    """Read so many bytes, and forget them."""
    while size > 0 and (data := stream.read(min(size, 1 << 20))):
        size -= len(data)


def count(file: File, how: Reading) -> int:
    """Its rows."""
    return found(file.path, how.key).shape[0]


def chunks(file: File, how: Reading, skip: int) -> Generator[Chunk, None, int]:
    """Its rows from `skip` on."""
    array = found(file.path, how.key)
    labels = None
    if how.label_key is not None and array.key is not None:
        labels = label_array(file.path, how.label_key, array.shape[0])
    first = skip
    for piece in array.pieces(how.rows(array.row_bytes), skip):
        names = Numbered(file.path, first, len(piece))
        yield Chunk(names, piece, {}, None if labels is None else labels[first : first + len(piece)])
        first += len(piece)
    return 0


def label_array(path: str, key: str, rows: int) -> list[str]:
    """The labels of all rows, from an array of the same .npz."""
    with opened(path, _choose_key(path, key)) as stream:
        values = np.lib.format.read_array(stream, allow_pickle=False)
    if values.shape != (rows,):
        raise Failed(f"{path}: the labels {key!r} have shape {list(values.shape)}, and there are {rows:,} rows")
    return [str(value) for value in values.tolist()]


def found(path: str, key: str | None) -> Array:
    """The array of a file, checked."""
    chosen = _choose_key(path, key) if path.lower().endswith(".npz") else None
    with opened(path, chosen) as stream:
        shape, fortran, dtype = read_header(stream, path)
    if dtype.hasobject:
        raise Failed(f"{path} holds Python objects; save an array of uint8 pictures or float32 rows")
    if not shape:
        raise Failed(f"{path} holds a single number; the first dimension must be the rows")
    return Array(path, chosen, shape, dtype, fortran and len(shape) > 1)


def _choose_key(path: str, key: str | None) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile:
        raise Failed(f"{path} is not an .npz file") from None
    candidates = [name for name in names if name not in _NOT_INPUTS]
    for name in [key] if key else [*_KEYS, *(candidates if len(candidates) == 1 else [])]:
        if name in names:
            return name
    listed = ", ".join(names) or "nothing"
    raise Failed(
        f"{path} has no array {key!r}; it holds: {listed}"
        if key
        else f"{path} holds: {listed}; choose the inputs with --key"
    )


@contextmanager
def opened(path: str, key: str | None) -> Iterator[IO[bytes]]:
    """The bytes of a saved array; Failed where the archive is damaged."""
    try:
        if key is None:
            with Path(path).open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(path) as archive, archive.open(key + ".npy") as member:
                yield member
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Failed(f"{path} is damaged: {error}") from None


def read_header(stream: IO[bytes], path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether column-major, and dtype; Failed where it is no saved array."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        return np.lib.format.read_array_header_2_0(stream)
    except ValueError:
        raise Failed(f"{path} is not an array that numpy saved") from None
