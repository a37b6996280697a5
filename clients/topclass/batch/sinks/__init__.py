"""From answers to the bytes of a table: CSV, JSON lines, Parquet.

Each sink writes rows that can be cut off behind any chunk; `finish` makes the table of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from topclass.batch.answers import Answered
from topclass.batch.failures import Failed
from topclass.batch.sinks.layout import Layout

__all__ = ["FORMATS", "Layout", "Sink", "choose", "format_of"]

FORMATS = ("csv", "jsonl", "parquet")
_ENDINGS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}


class Sink(Protocol):
    """Writes one format."""

    def header(self) -> bytes:
        """What stands before the first row."""

    def rows(self, answered: Answered) -> bytes:
        """The rows of one chunk."""

    def finish(self, written: Path, into: Path) -> bool:
        """Make the table `into` of the bytes that are written; False where these are the table already."""


def format_of(path: Path | None, given: str | None) -> str:
    """The format: as given, else by the name's ending, else CSV."""
    if given is not None:
        return given
    return _ENDINGS.get(path.suffix.lower(), "csv") if path else "csv"


def choose(name: str, layout: Layout) -> Sink:
    """The sink of a format; Failed where what it needs is not installed."""
    if name == "parquet":
        from topclass.batch.sinks.parquet import Parquet

        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise Failed("Parquet needs pyarrow, which is not installed: pip install 'topclass[parquet]'") from None
        return Parquet(layout)
    from topclass.batch.sinks.text import Csv, JsonLines

    return Csv(layout) if name == "csv" else JsonLines(layout)
