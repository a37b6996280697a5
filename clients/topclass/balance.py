"""Which of several servers gets the next call: each in its turn, but for those that were away a moment ago."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

_FIRST_REST, _LONGEST_REST = 0.25, 5.0  # seconds


class Balance:
    """Addresses of servers that give the same answers. Threads may share it.

    One that fails is left alone for a while, longer each time, and then gets one call of those that come by: if it
    answers, it is back. While all are away, the one that may be back first is asked.
    """

    def __init__(self, addresses: Sequence[str], clock: Callable[[], float] = time.monotonic):
        self.addresses = tuple(addresses)
        self._clock = clock
        self._until = [0.0] * len(self.addresses)
        self._failures = [0] * len(self.addresses)
        self._turn = 0
        self._lock = threading.Lock()

    def pick(self) -> int:
        """The number of the address that gets the next call."""
        count = len(self.addresses)
        if count == 1:
            return 0
        with self._lock:
            now = self._clock()
            order = [(self._turn + step) % count for step in range(count)]
            place = next((p for p in order if self._until[p] <= now), None)
            if place is None:
                return min(order, key=self._until.__getitem__)
            if self._failures[place]:  # a trial: nobody else tries before it is known how this one ends
                self._until[place] = now + self._rest(place)
            self._turn = (place + 1) % count
            return place

    def failed(self, place: int) -> None:
        """The server there did not answer, or said that it is stopping."""
        with self._lock:
            self._failures[place] += 1
            self._until[place] = self._clock() + self._rest(place)

    def answered(self, place: int) -> None:
        """It did."""
        if self._failures[place]:
            with self._lock:
                self._failures[place], self._until[place] = 0, 0.0

    @property
    def elsewhere(self) -> bool:
        """True if some server is not thought to be away."""
        now = self._clock()
        return len(self._until) > 1 and any(until <= now for until in self._until)

    def _rest(self, place: int) -> float:
        return min(_FIRST_REST * 2.0 ** min(self._failures[place] - 1, 10), _LONGEST_REST)
