"""Which files a job reads, in which order, and as they were when it began: a list on disk, however long it is.

One line of JSON for each file: path, bytes, time of the last change. The job reads this list, not the folders again, so
that it cannot change below it; a run that goes on compares a new list with the old one.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from topclass.batch.failures import Failed

# What Pillow opens and what is a picture by its name; a file that is named itself may have any ending of these too.
SERVER_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
MORE_ENDINGS = (
    *(".tif", ".tiff", ".avif", ".apng", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".dib", ".ico", ".icns", ".pcx"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".dds", ".sgi", ".im", ".msp", ".xbm", ".xpm", ".qoi"),
)
PICTURE_ENDINGS = SERVER_ENDINGS + MORE_ENDINGS
ARRAY_ENDINGS = (".npy", ".npz")
IDX_ENDINGS = ("-ubyte", "-ubyte.gz", ".idx", ".idx.gz", ".idx1", ".idx3", ".idx1.gz", ".idx3.gz")
TEXT_ENDINGS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
COLUMN_ENDINGS = (".parquet", ".pq")
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
DATA_ENDINGS = ARRAY_ENDINGS + IDX_ENDINGS + TEXT_ENDINGS + COLUMN_ENDINGS + ARCHIVE_ENDINGS
STDIN = "-"
_SHOWN = 3  # changed files that are named
_WINDOW = 1000  # lines on both sides that are compared after the first difference


@dataclass(frozen=True)
class File:
    """One file of the job."""

    path: str
    size: int = 0
    changed: int = 0

    @property
    def is_picture(self) -> bool:
        """True if it is one row."""
        return self.path.lower().endswith(PICTURE_ENDINGS)

    def line(self) -> str:
        """Its line in the list."""
        return json.dumps([self.path, self.size, self.changed]) + "\n"


def find(arguments: Sequence[str]) -> Iterator[File]:
    """The files behind the arguments: folders are walked, patterns expanded, both in the order of the names.

    Failed where an argument stands for nothing, or for what cannot be read here.
    """
    for argument in arguments:
        if argument == STDIN:
            yield File(STDIN)
        elif Path(argument).is_dir():
            yield from _folder(argument)
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            yield from _pattern(argument)
        else:
            yield _file(argument)


def _pattern(pattern: str) -> Iterator[File]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # a Path would rewrite the names
    if not found:
        raise Failed(f"no file has a name like {pattern}")
    for path in found:
        if Path(path).is_dir():
            continue
        yield _file(path)


def _file(path: str) -> File:
    if not path.lower().endswith(PICTURE_ENDINGS + DATA_ENDINGS):
        raise Failed(
            f"{path} is neither a picture ({' '.join(SERVER_ENDINGS)} and others that Pillow reads) nor an array "
            f"({' '.join(ARRAY_ENDINGS)} .idx), a table (.csv .jsonl .parquet) or an archive (.zip .tar .tar.gz)"
        )
    return _stated(path)


def _stated(path: str) -> File:
    try:
        state = Path(path).stat()
    except OSError:
        return File(path)  # the row gets its error when it is read
    return File(path, state.st_size, state.st_mtime_ns)


def _folder(path: str) -> Iterator[File]:
    pictures = _walk(path)
    first = next(pictures, None)
    if first is None:
        raise Failed(f"the folder {path} holds no pictures ({' '.join(SERVER_ENDINGS)} and others that Pillow reads)")
    yield first
    yield from pictures


def _walk(folder: str) -> Iterator[File]:
    """Pictures in the order of their whole paths, though only one folder's names are held at a time."""
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in entries
            if not entry.name.startswith(".")
        )
    for name in names:
        path = os.path.join(folder, name)  # noqa: PTH118  # a Path would rewrite the folder's name as it was given
        if name.endswith("/"):
            yield from _walk(path.removesuffix("/"))
        elif name.lower().endswith(PICTURE_ENDINGS):
            yield _stated(path)


def write(files: Iterable[File], stream: IO[str]) -> None:
    """The list, one line for each file."""
    stream.writelines(file.line() for file in files)


def read(stream: Iterable[str]) -> Iterator[File]:
    """The files of a list."""
    return (File(*json.loads(line)) for line in stream)


def differences(before: Iterable[str], now: Iterable[str]) -> str:
    """In words what changed between two lists; empty if nothing did."""
    pairs = itertools.zip_longest(before, now)
    for one, other in pairs:
        if one == other:
            continue
        rest = [(one, other), *itertools.islice(pairs, _WINDOW)]
        return _named([File(*json.loads(a)) for a, _ in rest if a], [File(*json.loads(b)) for _, b in rest if b])
    return ""


def _named(before: list[File], now: list[File]) -> str:
    old, new = {file.path: file for file in before}, {file.path: file for file in now}
    # Behind the window the two lists may be shifted against each other: its end says nothing.
    if len(before) > _WINDOW or len(now) > _WINDOW:
        half = _WINDOW // 2
        before, now = before[:half], now[:half]
    words = [f"{file.path} is gone" for file in before if file.path not in new]
    words += [f"{file.path} is new" for file in now if file.path not in old]
    words += [f"{file.path} has changed" for file in now if old.get(file.path, file) != file]
    if not words:
        words = ["the files come in another order"]
    more = f", and {len(words) - _SHOWN:,} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
