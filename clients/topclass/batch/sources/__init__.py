"""From files to chunks: each kind of file has its reader, and each reader can begin at any row.

Nothing is held that does not lie in a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed
from topclass.batch.manifest import STDIN, File
from topclass.batch.sources import archives, arrays, columns, files, idx, streams, text

__all__ = ["Reading", "count", "read"]


@dataclass(frozen=True)
class Reading:
    """How files are read: rows in a chunk, and what the model takes.

    `key` names the array or the column of the inputs, `id_key` that of the rows' names, `label_key` that of their
    labels; `folders` takes the labels from the pictures' folders. `input_format` is that of standard input.
    """

    row: tuple[int, ...]
    dtype: str
    array_rows: int = 1024
    picture_rows: int = 64
    features: tuple[str, ...] = ()
    key: str | None = None
    id_key: str | None = None
    label_key: str | None = None
    folders: bool = False
    input_format: str | None = None

    def rows(self, row_bytes: int) -> int:
        """Rows of an array in one chunk."""
        from topclass.batch.chunk import MOST_BYTES

        return max(1, min(self.array_rows, MOST_BYTES // max(1, row_bytes)))


def reader(file: File) -> Any:
    """The room that reads such a file."""
    name = file.path.lower()
    if file.path == STDIN:
        return streams
    if name.endswith((".npy", ".npz")):
        return arrays
    if name.endswith((".parquet", ".pq")):
        return columns
    if name.endswith((".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")):
        return text
    return archives if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")) else idx


def count(listed: Iterable[File], how: Reading) -> int | None:
    """The rows in all, as far as the files say so themselves: None where one must be read to know. Checks each."""
    total: int | None = 0
    for file in listed:
        _check_labels(file, how)
        rows = 1 if file.is_picture else reader(file).count(file, how)
        total = None if total is None or rows is None else total + rows
    return total


def _check_labels(file: File, how: Reading) -> None:
    named = (text, columns, streams) if file.path.lower().endswith(".npy") else (arrays, text, columns, streams)
    if how.label_key is not None and (file.is_picture or reader(file) not in named):
        raise Failed(
            f"{file.path} has no labels inside it, and there is no file {how.label_key!r}; --labels takes `folders`, a "
            "file, or the name of a column or of an array of an .npz"
        )


def read(listed: Iterable[File], how: Reading, skip: int = 0) -> Iterator[Chunk]:
    """The chunks of all files, in order, without the first `skip` rows; Failed where there are fewer than these.

    A run that goes on begins where a chunk ended, and so sends the same chunks as one that was never stopped.
    """
    for is_picture, group in groupby(listed, lambda file: file.is_picture):
        if is_picture:
            passed = sum(1 for _ in islice(group, skip))
            skip -= passed
            yield from files.chunks(group, how)
            continue
        for file in group:
            room = reader(file)
            rows = room.count(file, how)
            if rows is not None and rows <= skip:
                skip -= rows
                continue
            left = yield from room.chunks(file, how, skip)
            skip = left or 0
    if skip:
        raise Failed(f"the inputs have {skip:,} rows less than were answered before; --restart begins anew")
