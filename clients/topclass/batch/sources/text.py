"""CSV and JSON lines, one record after the other, plain and gzipped.

CSV: the model's features by name if the header has them all, else every column but those of names and labels; with a
key, that column holds the path of a picture, seen from the file's folder. JSON lines: a list of numbers, nested as one
likes, or an object that has one under the key, or a picture file in base64.
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed
from topclass.batch.manifest import File
from topclass.batch.sources.records import BadRow, Record, Values, gathered

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

KEYS = ("inputs", "image", "x", "features")
_LONGEST_CELL = 1 << 28

Maker = Callable[[int], Record]


def count(file: File, how: Reading) -> None:  # noqa: ARG001
    """Only reading tells."""
    return


def chunks(file: File, how: Reading, skip: int) -> Generator[Chunk, None, int]:
    """The records behind the first `skip`; returns how many of these were not there."""
    open_it: Callable[..., Any] = gzip.open if file.path.lower().endswith(".gz") else open
    with open_it(file.path, "rb") as stream:
        kind = "csv" if ".csv" in file.path.lower()[-7:] else "jsonl"
        return (yield from from_stream(stream, file.path, kind, how, skip))


def from_stream(stream: IO[bytes], path: str, kind: str, how: Reading, skip: int) -> Generator[Chunk, None, int]:
    """The same of any stream of bytes, `kind` csv or jsonl."""
    # Bytes that are no UTF-8 cost their own record only.
    lines = io.TextIOWrapper(
        stream, encoding="utf-8-sig", errors="surrogateescape", newline="" if kind == "csv" else None
    )
    makers = (_csv if kind == "csv" else _jsonl)(lines, path, how)
    passed = 0
    try:
        for _ in range(skip):
            next(makers)
            passed += 1
    except StopIteration:
        return skip - passed
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Failed(f"{path} is damaged: {error}") from None
    try:
        yield from gathered((make(skip + number) for number, make in enumerate(makers)), how)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Failed(f"{path} is damaged: {error}") from None
    return 0


def _name(path: str, number: int, given: str | None) -> str:
    return f"{path}[{number}]" if given is None else given


# ---------------------------------------------------------------------------------------------------------------- CSV


def _csv(lines: IO[str], path: str, how: Reading) -> Iterator[Maker]:
    csv.field_size_limit(_LONGEST_CELL)
    cells = (row for row in csv.reader(lines) if row)
    try:
        first = next(cells, None)
        if first is None:
            return
        header = None if all(map(_is_number, first)) else first
        take = _picker(header, len(first), path, how)
        for row in cells if header else chain([first], cells):
            yield lambda number, row=row: take(number, row)  # type: ignore[misc]
    except csv.Error as error:
        raise Failed(f"{path} is no CSV file: {error}") from None


def _picker(header: list[str] | None, width: int, path: str, how: Reading) -> Callable[[int, list[str]], Record]:
    columns = {name: index for index, name in enumerate(header or ())}
    named = {name: _column(columns, name, path, bool(header)) for name in (how.key, how.id_key, how.label_key) if name}
    name_at, label_at = named.get(how.id_key or ""), named.get(how.label_key or "")
    if how.key:
        at = named[how.key]
        folder = Path(path).parent

        def values(row: list[str]) -> Values:
            return _picture(folder / row[at])
    else:
        places = _places(columns, width, {name_at, label_at}, path, how)

        def values(row: list[str]) -> Values:
            return [row[place] for place in places]

    def take(number: int, row: list[str]) -> Record:
        if len(row) != width:
            bad = BadRow(f"has {len(row)} cells, and the first line {width}")
            return Record(_name(path, number, None), bad)
        name = _name(path, number, None if name_at is None else row[name_at])
        try:
            found: Values | BadRow = values(row)
        except BadRow as error:
            found = error
        return Record(name, found, None if label_at is None else row[label_at])

    return take


def _places(columns: dict[str, int], width: int, others: set[int | None], path: str, how: Reading) -> list[int]:
    if how.features and all(name in columns for name in how.features):
        return [columns[name] for name in how.features]
    places = [place for place in range(width) if place not in others]
    wanted = math.prod(how.row)
    if len(places) != wanted:
        raise Failed(
            f"{path} has {len(places):,} columns of inputs, and the model takes {wanted:,}. Name the column of labels "
            "with --labels and that of names with --id; the model's features are found by their names"
        )
    return places


def _column(columns: dict[str, int], name: str, path: str, has_header: bool) -> int:
    if name in columns:
        return columns[name]
    held = f"it has: {', '.join(list(columns)[:20])}" if has_header else "its first line is no header"
    raise Failed(f"{path} has no column {name!r}; {held}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _picture(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadRow(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


# --------------------------------------------------------------------------------------------------------- JSON lines


def _jsonl(lines: Iterable[str], path: str, how: Reading) -> Iterator[Maker]:
    for line in lines:
        if not line.isspace():
            yield lambda number, line=line: _record(number, line, path, how)  # type: ignore[misc]


def _record(number: int, line: str, path: str, how: Reading) -> Record:
    name, label = _name(path, number, None), None
    try:
        found = json.loads(line)
        if isinstance(found, dict):
            name = _name(path, number, str(found[how.id_key]) if how.id_key in found else None)
            label = str(found[how.label_key]) if how.label_key in found else None
            found = _inputs(found, how)
        return Record(name, decoded(found), label)
    except RecursionError:
        return Record(name, BadRow("is nested too deeply"), label)
    except BadRow as error:
        return Record(name, error, label)
    except ValueError as error:
        return Record(name, BadRow(f"is no JSON: {error}"), label)


def _inputs(found: dict[str, Any], how: Reading) -> Any:
    if how.key is None and how.features and all(name in found for name in how.features):
        return [found[name] for name in how.features]
    for key in [how.key] if how.key else KEYS:
        if key in found:
            return found[key]
    held = ", ".join(list(found)[:20]) or "nothing"
    raise BadRow(f"has no {how.key or ' or '.join(KEYS)}; it has: {held}")


def decoded(found: Any) -> Values:
    """A list of numbers as it is, text as the picture file that it holds in base64."""
    if isinstance(found, list):
        return found
    if isinstance(found, str):
        try:
            return base64.b64decode(found, validate=True)
        except (binascii.Error, ValueError):
            raise BadRow("holds text that is no picture file in base64") from None
    raise BadRow(f"holds a {type(found).__name__}; expected a list of numbers, or a picture file in base64")
