"""Counting many things at once: what a request or a batch leaves to be counted costs it an append to a list."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import prometheus_client

log = logging.getLogger(__name__)
T = TypeVar("T")


class Histogram(prometheus_client.Histogram):
    """One that observes an array in one go; the library's own observes value by value, each under locks."""

    def observe_all(self, values: np.ndarray | Sequence[float]) -> None:
        """Observes each value [n]; those that are not finite are left out, as one of them would spoil the sum."""
        array = np.asarray(values, np.float64)
        array = array[np.isfinite(array)]
        if not len(array):
            return
        counts = np.bincount(np.searchsorted(self._upper_bounds, array))  # a bucket's bound belongs to it
        for bucket in np.flatnonzero(counts):
            self._buckets[bucket].inc(float(counts[bucket]))
        self._sum.inc(float(array.sum()))


class Tally(Generic[T]):
    """Keeps what is to be counted until there is enough of it, or someone asks. Any thread may add and flush."""

    def __init__(self, count: Callable[[list[T]], None], enough: int):
        """count: counts a list of things. enough: the weight at which the thread that adds counts, too."""
        self._count, self._enough = count, enough
        self._kept: list[T] = []
        self._weight = 0  # about: threads that add at once may lose some, which the next flush mends
        self._lock = threading.Lock()

    def add(self, thing: T, weight: int = 1) -> None:
        """Keeps one more thing."""
        self._kept.append(thing)
        self._weight += weight
        if self._weight >= self._enough:
            self.flush()

    def flush(self) -> None:
        """Counts what is kept. Never raises: what cannot be counted is lost, and the log says so."""
        with self._lock:
            self._weight = 0
            things = self._kept[:]  # one step of the interpreter, as the next: what is added meanwhile stays behind
            del self._kept[: len(things)]
            try:
                if things:
                    self._count(things)
            except Exception:
                log.exception("%d things could not be counted", len(things))
