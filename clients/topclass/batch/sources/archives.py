"""Pictures in zip and tar archives, in the order in which they lie there; nothing is unpacked to disk."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from topclass.batch.chunk import Chunk
from topclass.batch.failures import Failed
from topclass.batch.manifest import PICTURE_ENDINGS, File
from topclass.batch.sources.files import Group

if TYPE_CHECKING:
    from topclass.batch.sources import Reading

_LARGEST = 512 << 20  # bytes of one picture: what claims more is a bomb, or no picture


def _wanted(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return name.lower().endswith(PICTURE_ENDINGS) and not hidden


def count(file: File, how: Reading) -> int | None:  # noqa: ARG001
    """How many pictures a zip holds; a tar must be read to know."""
    if not file.path.lower().endswith(".zip"):
        return None
    try:
        with zipfile.ZipFile(file.path) as archive:
            found = sum(not entry.is_dir() and _wanted(entry.filename) for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise Failed(f"{file.path} is not a zip archive, or cannot be read: {error}") from None
    if not found:
        raise Failed(f"{file.path} holds no pictures")
    return found


def chunks(file: File, how: Reading, skip: int) -> Generator[Chunk, None, int]:
    """The pictures behind the first `skip`; returns how many of these were not there."""
    group = Group(how)
    members = _zip(file.path, skip) if file.path.lower().endswith(".zip") else _tar(file.path, skip)
    seen = 0
    for name, size, data in members:
        seen += 1
        if data is None:
            continue
        if not group.fits(size):
            yield from group.take()
        group.add(f"{file.path}/{name}", size, data)
    if not seen:
        raise Failed(f"{file.path} holds no pictures")
    yield from group.take()
    return max(0, skip - seen)


_Member = tuple[str, int, bytes | str | None]


def _zip(path: str, skip: int) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        names = [entry for entry in archive.infolist() if not entry.is_dir() and _wanted(entry.filename)]
        for number, entry in enumerate(names):
            if number < skip:
                yield entry.filename, 0, None
                continue
            try:
                data: bytes | str = _too_large(entry.file_size) or archive.read(entry)
            except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
                data = f"cannot be read from the archive: {error}"  # RuntimeError: it wants a password
            yield entry.filename, entry.file_size, data


def _tar(path: str, skip: int) -> Iterator[_Member]:
    number = 0
    try:
        with tarfile.open(path, "r|*") as archive:
            for entry in archive:
                if not entry.isfile() or not _wanted(entry.name):
                    continue
                number += 1
                if number <= skip:
                    yield entry.name, 0, None
                    continue
                stream = archive.extractfile(entry)
                refused = _too_large(entry.size)
                yield entry.name, entry.size, refused or (stream.read() if stream else "cannot be read")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise Failed(f"{path} is not a tar archive, or is damaged after {number:,} pictures: {error}") from None


def _too_large(size: int) -> str:
    return f"has {size:,} bytes; at most {_LARGEST:,} are read" if size > _LARGEST else ""
