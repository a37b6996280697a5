"""Whether calls come together. grpc.aio brings them one in each turn of the event loop, however many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

QUIET_TURNS = 16  # of the loop without an arrival: then all that was on its way is here
PROBE = 64  # of calls that came alone, one is made to wait so long, to see whether others come
ALONE = 4  # batches of one in a row, and calls come alone again
MOST_TURNS = 256  # that the first of a crowd waits; about a millisecond


class Crowd:
    """What calls of the last moments tell of the next. Of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._many = False
        self._calls = self._lonely = 0  # calls that came alone; batches of one in a row
        self._arrived = 0

    def is_expected(self) -> bool:
        """True if it pays to wait for others. Asked once for each call that could be computed where it arrives."""
        self._calls += 1
        return self._many or self._calls % PROBE == 0

    def gather(self, kick: Callable[[], None]) -> None:
        """Calls `kick` when no more arrive."""
        self._loop.call_soon(self._look, kick, self._arrived, 0, 0)

    def arrived(self) -> None:
        """One more."""
        self._arrived += 1

    def came(self, requests: int) -> None:
        """So many were gathered."""
        self._lonely = 0 if requests > 1 else self._lonely + 1
        self._many = requests > 1 or (self._many and self._lonely < ALONE)

    def _look(self, kick: Callable[[], None], before: int, quiet: int, turns: int) -> None:
        quiet = quiet + 1 if self._arrived == before else 0
        if quiet >= QUIET_TURNS or turns >= MOST_TURNS:
            kick()
        else:
            self._loop.call_soon(self._look, kick, self._arrived, quiet, turns + 1)
