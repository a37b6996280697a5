"""Small files that are read again when they change: certificates and tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
LOOK_SECONDS = 1.0
Signature = tuple[tuple[int, ...] | None, ...]


class Watched(Generic[T]):
    """What some files hold. `value` looks at them again at most every second; threads may share it."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], failed: Callable[[Exception], None]):
        """read: gives the value or raises; what it raises now, this raises. failed: is told what it raises later."""
        self._paths, self._read, self._failed = paths, read, failed
        self._lock = threading.Lock()
        self._signature = _signature(paths)  # before reading: a change meanwhile is seen at the next look
        self._value = read()
        self._looked = time.monotonic()

    def value(self) -> T:
        """The newest value that could be read. Files that are gone or wrong change nothing."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._look()
            return self._value

    def _look(self) -> None:
        signature = _signature(self._paths)
        if signature != self._signature:
            self._signature = signature
            try:
                self._value = self._read()
            except Exception as error:
                self._failed(error)
        self._looked = time.monotonic()


def _signature(paths: Sequence[Path]) -> Signature:
    return tuple(_status(path) for path in paths)


def _status(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
