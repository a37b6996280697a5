"""Parquet: pictures as bytes or as lists in one column, or a column for each feature. Needs pyarrow."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed
from topclass.batch.manifest import File
from topclass.batch.sources.records import BadRow, Record, gathered
from topclass.batch.sources.text import KEYS

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

_BATCH = 256  # rows read at once: pictures may be large


def parquet() -> Any:
    """The module pyarrow.parquet; Failed where it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise Failed("Parquet needs pyarrow, which is not installed: pip install 'topclass[parquet]'") from None
    return parquet


def _opened(path: str) -> Any:
    import pyarrow

    try:
        return parquet().ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise Failed(f"{path} is not a Parquet file, or is damaged: {str(error).splitlines()[0]}") from None


def count(file: File, how: Reading) -> int:
    """Its rows. Failed where it has no column for the inputs."""
    parquet()
    opened = _opened(file.path)
    _columns(opened, file.path, how)
    rows: int = opened.metadata.num_rows
    return rows


def chunks(file: File, how: Reading, skip: int) -> Generator[Chunk, None, int]:
    """Its rows from `skip` on; row groups before are not read."""
    yield from gathered(_records(file.path, how, skip), how)
    return 0


def _records(path: str, how: Reading, skip: int) -> Iterator[Record]:
    opened = _opened(path)
    inputs = _columns(opened, path, how)
    more = [name for name in (how.id_key, how.label_key) if name]
    first = 0
    groups: list[int] = []
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group).num_rows
        if first + rows > skip or groups:
            groups.append(group)
        else:
            first += rows
    number = first
    for batch in opened.iter_batches(_BATCH, row_groups=groups, columns=[*inputs, *more]):
        if number + len(batch) <= skip:
            number += len(batch)
            continue
        names = [str(value) for value in batch.column(how.id_key).to_pylist()] if how.id_key else None
        labels = [str(value) for value in batch.column(how.label_key).to_pylist()] if how.label_key else None
        for row, values in enumerate(_values(batch, inputs)):
            if number >= skip:
                name = names[row] if names else f"{path}[{number}]"
                yield Record(name, values, labels[row] if labels else None)
            number += 1


def _columns(opened: Any, path: str, how: Reading) -> list[str]:
    """The columns of the inputs: one of pictures or lists, or one for each feature."""
    names = list(opened.schema_arrow.names)
    for name in (how.id_key, how.label_key, how.key):
        if name and name not in names:
            raise Failed(f"{path} has no column {name!r}; it has: {', '.join(names[:20])}")
    if how.key:
        return [how.key]
    if how.features and all(name in names for name in how.features):
        return list(how.features)
    for key in KEYS:
        if key in names:
            return [key]
    left = [name for name in names if name not in (how.id_key, how.label_key)]
    if len(left) in (1, math.prod(how.row)):
        return left
    raise Failed(f"{path} has the columns {', '.join(names[:20])}; choose that of the inputs with --key")


def _values(batch: Any, inputs: list[str]) -> Iterator[Any]:
    if len(inputs) > 1:
        columns: list[NDArray[Any]] = [batch.column(name).to_numpy(zero_copy_only=False) for name in inputs]
        return iter(np.stack(columns, axis=1).tolist())
    return map(_value, batch.column(inputs[0]).to_pylist())


def _value(value: Any) -> Any:
    if isinstance(value, dict):  # the datasets library keeps pictures as {bytes, path}
        value = value.get("bytes")
    if isinstance(value, (bytes, list)):
        return value
    if isinstance(value, (int, float)):
        return [value]
    return BadRow("is empty" if value is None else f"holds a {type(value).__name__}; expected a picture file or a list")
