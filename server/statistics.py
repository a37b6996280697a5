"""What became of a version's requests since it was loaded: how many, and how long they took."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np

from server.lanes import Answer, Compute

MOST_SIZES = 1024  # of batches that are told apart: as many as --max-batch-rows has, unless somebody raises it


class Statistics:
    """Counts that only grow, told by any thread."""

    def __init__(self) -> None:
        self.requests = self.rows = self.failures = self.batches = 0
        self.seconds = self.failure_seconds = self.queue_seconds = self.compute_seconds = 0.0
        self.moves, self.input_seconds, self.output_seconds = 0, 0.0, 0.0
        self._sizes: dict[int, tuple[int, float]] = {}  # rows of a batch → how many batches, and their seconds
        self.last = 0.0  # of time.time(), when a request was answered last
        self._lock = threading.Lock()

    def counted(self, compute: Compute) -> Compute:
        """The same function; each call of it is a batch."""

        def counting(rows: np.ndarray) -> np.ndarray:
            started = time.perf_counter()
            out = compute(rows)
            seconds = time.perf_counter() - started
            with self._lock:
                self.batches += 1
                count, before = self._sizes.get(len(rows), (0, 0.0))
                if count or len(self._sizes) < MOST_SIZES:
                    self._sizes[len(rows)] = count + 1, before + seconds
            return out

        return counting

    def answered(self, answer: Answer, seconds: float) -> None:
        """A request was answered, so long after it was queued."""
        self.answered_all([answer], seconds)

    def answered_all(self, answers: Sequence[Answer], seconds: float) -> None:
        """Requests that were queued together were answered, so long after that."""
        rows, waited = sum(len(a.rows) for a in answers), sum(a.queue_seconds for a in answers)
        computed = sum(a.compute_seconds for a in answers)
        with self._lock:
            self.requests += len(answers)
            self.rows += rows
            self.seconds += seconds * len(answers)
            self.queue_seconds += waited
            self.compute_seconds += computed
            self.last = time.time()

    def moved(self, input_seconds: float, output_seconds: float) -> None:
        """An answered request took so long to become an array, and its answer so long to become a message."""
        self.moves += 1
        self.seconds += input_seconds + output_seconds
        self.input_seconds += input_seconds
        self.output_seconds += output_seconds

    def sizes(self) -> list[tuple[int, tuple[int, float]]]:
        """Each size of batch in rows, the smallest first: how many batches, and how many seconds they took.

        Of the first MOST_SIZES that were seen.
        """
        with self._lock:
            return sorted(self._sizes.items())

    def failed(self, seconds: float) -> None:
        """A good request was not answered: the queue was full, it came too late, or it could not be computed."""
        with self._lock:
            self.failures += 1
            self.failure_seconds += seconds
