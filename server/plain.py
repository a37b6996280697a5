"""Plain requests: one tensor of raw bytes, and no wish but for the answer's form. Known again by their frame.

Callers send the same message over and over with other elements in it. So a message is taken apart once; the bytes
around its elements, the frame, are remembered, and a message of the same length with the same frame can only say the
same. That is compared, not assumed, and takes a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from server import checks
from server.config import Config
from server.errors import InvalidInput
from server.lanes import Answer
from server.repository import Repository
from server.versions import Served

FRAMES, FRAMES_OF_A_LENGTH = 256, 4  # remembered for each method; who numbers his requests makes one of each
Write = Callable[[Sequence[Answer], Served], list[bytes]]
Find = Callable[[Repository], Served]


@dataclass(frozen=True, eq=False)
class Plain:
    """What a plain request says beside its elements, which are message[start:stop].

    find: the version that it asks for, or a ServingError. write: the replies to several requests of this frame.
    input: what the model's input must be called, if that was said.
    """

    start: int
    stop: int
    dtype: np.dtype
    shape: tuple[int, ...]
    find: Find
    write: Write
    input: str = ""

    def fits(self, served: Served, config: Config) -> bool:
        """True if it is what the model takes, and no more than the server takes; floats are yet to be looked at."""
        spec = served.model.input
        return (
            self.dtype == spec.dtype
            and self.shape[1:] == spec.row
            and 0 < self.shape[0] <= config.max_request_rows
            and self.input in ("", spec.name)
        )

    def rows(self, message: bytes) -> np.ndarray:
        """The elements as rows [n, …], without a copy."""
        count = (self.stop - self.start) // self.dtype.itemsize
        return np.frombuffer(message, self.dtype, count, self.start).reshape(self.shape)


Read = Callable[[bytes], Plain | None]


def shape_of(sizes: Sequence[int], dtype: np.dtype, size: int) -> tuple[int, ...] | None:
    """The shape, if it is one and so many bytes fill it."""
    try:
        fits = checks.elements(sizes) * dtype.itemsize == size
    except InvalidInput:
        return None
    return tuple(sizes) if fits else None


class Frames:
    """The frames of one method that came lately. For one thread."""

    def __init__(self, read: Read):
        """read: takes a message apart; None where it is not plain, or no message: that is told by who parses it."""
        self._read = read
        self._known: dict[int, list[tuple[bytes, bytes, Plain]]] = {}

    def find(self, message: bytes) -> Plain | None:
        """What the message says, if it is plain."""
        known = self._known.get(len(message))
        if known is not None:
            for head, tail, plain in known:
                if message.startswith(head) and message.endswith(tail):
                    return plain
        found = self._read(message)
        if found is not None:
            self._remember(message, found)
        return found

    def _remember(self, message: bytes, plain: Plain) -> None:
        if len(self._known) >= FRAMES and len(message) not in self._known:
            self._known.clear()
        known = self._known.setdefault(len(message), [])
        known.insert(0, (message[: plain.start], message[plain.stop :], plain))
        del known[FRAMES_OF_A_LENGTH:]
