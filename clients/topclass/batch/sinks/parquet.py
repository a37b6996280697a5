"""Parquet: rows are kept as Arrow batches, which can be cut behind any chunk; the table is made of them in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from topclass.batch.answers import Answered
from topclass.batch.sinks.layout import Layout

_GROUP = 1 << 16  # rows of a row group: always so many, so that where a run was stopped leaves no trace


class Parquet:
    """The columns of the CSV file, but all probabilities in one, `probabilities`; the labels are in the metadata."""

    def __init__(self, layout: Layout):
        import pyarrow as pa

        self._pa, self._layout = pa, layout
        classes = len(layout.labels)
        fields = [
            ("input", pa.string()),
            ("top_class", pa.int32()),
            ("label", pa.string()),
            ("probability", pa.float32()),
        ]
        fields += [(name, pa.string() if "label" in name else pa.float32()) for name in layout.ranked]
        fields += [("probabilities", pa.list_(pa.float32(), classes))] if layout.probabilities else []
        fields += [("expected", pa.string())] if layout.expected else []
        fields += [("ood_score", pa.float32()), ("out_of_distribution", pa.bool_()), ("version", pa.int64())]
        fields += [("sha256", pa.string()), ("error", pa.string())]
        labels = json.dumps(list(layout.labels), ensure_ascii=False)
        self._schema = pa.schema(fields, metadata={"topclass.labels": labels})

    def header(self) -> bytes:
        """The schema."""
        return bytes(self._schema.serialize())

    def rows(self, answered: Answered) -> bytes:
        """One batch."""
        batch = self._pa.record_batch(list(self._columns(answered)), schema=self._schema)
        return bytes(batch.serialize())

    def _columns(self, answered: Answered) -> Iterator[Any]:
        pa, layout, values, chunk = self._pa, self._layout, answered.values, answered.chunk
        count = len(chunk.names)
        good = np.array(answered.good, np.int64)
        missing = np.ones(count, np.bool_)
        missing[good] = False

        def column(kind: Any, cells: Any) -> Any:
            if len(good) == count:
                return pa.array(cells, kind)
            wide = np.zeros(count, np.asarray(cells).dtype)
            wide[good] = cells
            return pa.array(wide, kind, mask=missing)

        labels = np.array(layout.labels, object)
        yield pa.array([name.encode("utf-8", "backslashreplace").decode() for name in chunk.names], pa.string())
        yield column(pa.int32(), values.top_class.astype(np.int32))
        yield column(pa.string(), labels[values.top_class])
        yield column(pa.float32(), values.probability)
        for rank in range(1, layout.ranks):
            yield column(pa.string(), labels[[row[rank].class_index for row in values.top_k]])
            yield column(pa.float32(), np.array([row[rank].probability for row in values.top_k], np.float32))
        if layout.probabilities:
            wide = np.zeros((count, len(layout.labels)), np.float32)
            wide[good] = values.probabilities
            mask = pa.array(missing) if missing.any() else None
            yield pa.FixedSizeListArray.from_arrays(pa.array(wide.ravel()), len(layout.labels), mask=mask)
        if layout.expected:
            known = chunk.expected
            yield pa.nulls(count, pa.string()) if known is None else pa.array(known, pa.string())
        scores = values.ood_score
        yield pa.nulls(count, pa.float32()) if scores is None else column(pa.float32(), scores)
        yield column(pa.bool_(), values.out_of_distribution)
        yield column(pa.int64(), np.full(len(good), layout.version, np.int64))
        yield column(pa.string(), np.array([layout.sha256] * len(good), object))
        yield pa.array([answered.errors.get(row) for row in range(count)], pa.string())

    def finish(self, written: Path, into: Path) -> bool:
        """Read the batches, and write them in row groups of equal size."""
        from pyarrow import parquet

        pa = self._pa
        with pa.OSFile(str(written)) as source, parquet.ParquetWriter(str(into), self._schema) as writer:
            waiting, rows = [], 0
            for batch in pa.ipc.open_stream(source):
                waiting.append(batch)
                rows += len(batch)
                while rows >= _GROUP:
                    table = pa.Table.from_batches(waiting, self._schema).combine_chunks()
                    writer.write_table(table.slice(0, _GROUP), row_group_size=_GROUP)
                    rest = table.slice(_GROUP)
                    waiting, rows = rest.to_batches(), len(rest)
            if rows:
                table = pa.Table.from_batches(waiting, self._schema).combine_chunks()
                writer.write_table(table, row_group_size=_GROUP)
        return True
