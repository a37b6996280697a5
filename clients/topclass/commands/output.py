"""Where the table goes: a file that is kept until it is complete, or a stream that cannot take anything back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from topclass.batch.failures import Failed


def is_kept(path: Path) -> bool:
    """False for /dev/null, a pipe and their like: there is nothing to rename."""
    return not path.exists() or path.is_file()


@contextmanager
def device(path: Path | None) -> Iterator[IO[bytes]]:
    """Standard output if that is None, or what is no file."""
    if path is None:
        yield sys.stdout.buffer
    else:
        with path.open("wb") as stream:
            yield stream


def check_writable(path: Path, inputs: list[Path]) -> None:
    """Failed, before anything is sent, where the table could not be written or would replace an input."""
    if path.is_dir():
        raise Failed(f"{path} is a folder; -o takes the name of a file")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise Failed(f"there is no folder {folder} to write {path.name} into")
    if is_kept(path) and not os.access(folder, os.W_OK):
        raise Failed(f"{path} cannot be written: no permission for its folder")
    if path.is_file() and any(other.exists() and path.samefile(other) for other in inputs):
        raise Failed(f"{path} is one of the inputs; it would be replaced by the table")
