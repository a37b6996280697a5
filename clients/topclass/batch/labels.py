"""The true labels of a job's rows, from wherever they are."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed
from topclass.batch.manifest import IDX_ENDINGS
from topclass.batch.sources import idx

FOLDERS = "folders"

ByRow: TypeAlias = Sequence[str] | dict[str, str]


@dataclass(frozen=True)
class Labels:
    """Where they come from: the folders' names, a column or array of the inputs, or a file."""

    folders: bool = False
    key: str | None = None
    table: ByRow | None = None

    def added(self, chunks: Iterable[Chunk], skip: int) -> Iterator[Chunk]:
        """The chunks with the labels of a file; `skip` rows were before them. Failed where there are too few."""
        first = skip
        for chunk in chunks:
            if self.table is None:
                yield chunk
                continue
            rows = range(first, first + len(chunk.names))
            if isinstance(self.table, dict):
                found = [self.table.get(name, "") for name in chunk.names]
            elif rows.stop > len(self.table):
                raise Failed(f"there are only {len(self.table):,} labels, and more rows than these")
            else:
                found = [self.table[row] for row in rows]
            yield replace(chunk, expected=found)
            first = rows.stop


def find(given: str | None) -> Labels | None:
    """What --labels says: `folders`, a file that is there, or else a name inside the inputs."""
    if given is None:
        return None
    if given == FOLDERS:
        return Labels(folders=True)
    if Path(given).is_file():
        return Labels(table=_file(given))
    if any(character in given for character in "/\\"):
        raise Failed(f"the file of labels {given} does not exist")
    return Labels(key=given)


def _file(path: str) -> ByRow:
    if path.lower().endswith(".npy"):
        try:
            values = np.load(path, allow_pickle=False)
        except ValueError:
            raise Failed(f"{path} is not an array that numpy saved") from None
        if values.ndim != 1:
            raise Failed(f"{path} has shape {list(values.shape)}; labels are one for each row")
        return [str(value) for value in values.tolist()]
    if path.lower().endswith(IDX_ENDINGS):
        return idx.labels(path)
    opener: Callable[..., Iterable[str]] = gzip.open if path.lower().endswith(".gz") else open
    lines = opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    if ".csv" in path.lower()[-7:]:
        return _csv(path, lines)
    return [line.strip() for line in lines if line.strip()]


def _csv(path: str, lines: Iterable[str]) -> dict[str, str]:
    """Two columns, the input's name and its label; the columns `input` and `label`, or else the first two."""
    rows = csv.reader(lines)
    header = next(rows, [])
    if len(header) < 2:
        raise Failed(f"{path} has no two columns; labels are `input,label`, or one in a line of a .txt file")
    places = [header.index(name) if name in header else index for index, name in enumerate(("input", "label"))]
    found = {row[places[0]]: row[places[1]] for row in rows if len(row) > max(places)}
    if "input" not in header and "label" not in header:
        found[header[places[0]]] = header[places[1]]
    return found
