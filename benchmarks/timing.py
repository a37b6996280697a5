"""What a piece of work costs, in processor time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def best(work: Callable[[], Any], seconds: float = 0.1) -> float:
    """Microseconds of this thread's processor time, in the fastest of 15 rounds: all else only makes it slower."""
    work()
    start = time.thread_time()
    work()
    times = max(1, int(seconds / 15 / max(time.thread_time() - start, 1e-6)))
    best = float("inf")
    for _ in range(15):
        start = time.thread_time()
        for _ in range(times):
            work()
        best = min(best, (time.thread_time() - start) / times)
    return best * 1e6
