"""Picture files, read when their chunk is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from topclass.batch.chunk import MOST_BYTES, Chunk
from topclass.batch.manifest import File

if TYPE_CHECKING:
    from topclass.batch.sources import Reading


class Group:
    """Pictures gathered to chunks: `picture_rows` of them, or MOST_BYTES."""

    def __init__(self, how: Reading):
        self._how = how
        self._clear()

    def _clear(self) -> None:
        self._names: list[str] = []
        self._inputs: list[bytes] = []
        self._errors: dict[int, str] = {}
        self._size = 0

    def fits(self, size: int) -> bool:
        """True if a picture of so many bytes may be added."""
        full = len(self._names) == self._how.picture_rows or self._size + size > MOST_BYTES
        return not self._names or not full

    def add(self, name: str, size: int, data: bytes | str) -> None:
        """One more picture: its bytes, or in words why there are none."""
        if isinstance(data, str):
            self._errors[len(self._names)] = data
        else:
            self._inputs.append(data)
        self._names.append(name)
        self._size += size

    def take(self) -> Iterator[Chunk]:
        """The chunk, if there is anything in it."""
        if self._names:
            labels = [folder_of(name) for name in self._names] if self._how.folders else None
            yield Chunk(self._names, self._inputs, self._errors, labels)
        self._clear()


def folder_of(name: str) -> str:
    """The name of the folder that a picture lies in: its label."""
    return PurePosixPath(name).parent.name


def chunks(listed: Iterable[File], how: Reading) -> Iterator[Chunk]:
    """At most `picture_rows` of them, or MOST_BYTES, at a time."""
    group = Group(how)
    for file in listed:
        if not group.fits(file.size):
            yield from group.take()
        try:
            data: bytes | str = Path(file.path).read_bytes()
        except OSError as error:
            data = f"cannot be read: {error.strerror}"
        group.add(file.path, file.size, data)
    yield from group.take()
