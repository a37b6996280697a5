"""Where the rows of a batch come from: picture files, folders of them, and arrays in .npy and .npz files.

Nothing is held that does not lie in a request: pictures are read when their batch is sent, arrays piece by piece.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from topclass.commands.failures import Failed

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
ARRAY_ENDINGS = (".npy", ".npz")
# The names that an .npz is searched for, in this order; the second and third are keras' own.
_KEYS = ("inputs", "x", "x_test")
_NOT_INPUTS = {"labels", "y", "y_test"}
# A request stays well under the 128 MiB that a server takes by default, and eight of them fit into memory.
MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Chunk:
    """Rows for one request, and the name of each: a file's path, or `file.npy[17]`."""

    names: list[str]
    inputs: list[str] | NDArray[Any]


@dataclass(frozen=True)
class PictureFiles:
    """Picture files, in order."""

    paths: list[str]

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.paths)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """At most `size` of them, or MOST_BYTES, at a time."""
        taken: list[str] = []
        total = 0
        for path in self.paths:
            length = _length(path)
            if taken and (len(taken) == size or total + length > MOST_BYTES):
                yield Chunk(taken, taken)
                taken, total = [], 0
            taken.append(path)
            total += length
        if taken:
            yield Chunk(taken, taken)


@dataclass(frozen=True)
class ArrayFile:
    """One array in a .npy file, or in a .npz file under `key`."""

    path: str
    key: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    @property
    def rows(self) -> int:
        """How many."""
        return self.shape[0]

    def chunks(self, size: int) -> Iterator[Chunk]:
        """At most `size` rows, or MOST_BYTES, at a time."""
        row_bytes = max(1, self.dtype.itemsize * math.prod(self.shape[1:]))
        size = max(1, min(size, MOST_BYTES // row_bytes))
        pieces = self._by_slicing(size) if self.fortran else self._by_reading(size)
        first = 0
        for piece in pieces:
            yield Chunk([f"{self.path}[{first + row}]" for row in range(len(piece))], piece)
            first += len(piece)

    def _by_reading(self, size: int) -> Iterator[NDArray[Any]]:
        row_shape = self.shape[1:]
        row_bytes = self.dtype.itemsize * math.prod(row_shape)
        with _opened(self.path, self.key) as stream:
            _read_header(stream, self.path)
            for first in range(0, self.rows, size):
                rows = min(size, self.rows - first)
                data = stream.read(rows * row_bytes)
                if len(data) < rows * row_bytes:
                    whole = first + len(data) // row_bytes
                    raise Failed(f"{self.path} is cut off: it promises {self.rows:,} rows and holds {whole:,}")
                yield np.frombuffer(data, self.dtype).reshape(rows, *row_shape)

    def _by_slicing(self, size: int) -> Iterator[NDArray[Any]]:
        # Column-major: a row lies all over the file.
        loaded = np.load(self.path, mmap_mode="r", allow_pickle=False)
        array = loaded[self.key] if self.key else loaded
        for first in range(0, self.rows, size):
            yield array[first : first + size]


Source: TypeAlias = PictureFiles | ArrayFile


def find_sources(inputs: Sequence[str], key: str | None) -> list[Source]:
    """The rows behind the arguments, in their order; Failed where one of them holds none."""
    sources: list[Source] = []
    for path in inputs:
        if path.lower().endswith(ARRAY_ENDINGS) and not Path(path).is_dir():
            sources.append(_array_file(path, key))
            continue
        pictures = _pictures(path)
        if sources and isinstance(sources[-1], PictureFiles):
            pictures = sources.pop().paths + pictures  # type: ignore[union-attr]
        sources.append(PictureFiles(pictures))
    return sources


def _pictures(path: str) -> list[str]:
    if not Path(path).is_dir():
        if path.lower().endswith(PICTURE_ENDINGS):
            return [path]
        raise Failed(
            f"{path} is neither a picture ({' '.join(PICTURE_ENDINGS)}) nor an array ({' '.join(ARRAY_ENDINGS)})"
        )
    found = [
        os.path.join(folder, name)  # noqa: PTH118  # a Path would rewrite the folder's name as it was given
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(PICTURE_ENDINGS) and not name.startswith(".")
    ]
    if not found:
        raise Failed(f"the folder {path} holds no pictures ({' '.join(PICTURE_ENDINGS)})")
    return sorted(found)


def _array_file(path: str, key: str | None) -> ArrayFile:
    chosen = _choose_key(path, key) if path.lower().endswith(".npz") else None
    with _opened(path, chosen) as stream:
        shape, fortran, dtype = _read_header(stream, path)
    if dtype.hasobject:
        raise Failed(f"{path} holds Python objects; save an array of uint8 pictures or float32 rows")
    if not shape:
        raise Failed(f"{path} holds a single number; the first dimension must be the rows")
    return ArrayFile(path, chosen, shape, dtype, fortran and len(shape) > 1)


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
def _opened(path: str, key: str | None) -> Iterator[IO[bytes]]:
    try:
        if key is None:
            with Path(path).open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(path) as archive, archive.open(key + ".npy") as member:
                yield member
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Failed(f"{path} is damaged: {error}") from None


def _read_header(stream: IO[bytes], path: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(stream)
        return np.lib.format.read_array_header_2_0(stream)
    except ValueError:
        raise Failed(f"{path} is not an array that numpy saved") from None


def _length(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0  # the row gets its error when it is read
