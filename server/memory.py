"""Gives freed memory back to the system: the C library keeps it, and a model may be large."""

from __future__ import annotations

import ctypes
import threading

SETTLE_SECONDS = 0.5  # the model that is let go is freed just after we hear of it, and others may follow
_scheduled = threading.Lock()  # held from a request until it is done: several at once are one


def give_back() -> None:
    """Has the memory freed up to now, and in the next half second, given back; returns at once."""
    if _scheduled.acquire(blocking=False):
        timer = threading.Timer(SETTLE_SECONDS, _trim)
        timer.daemon = True
        timer.start()


def _trim() -> None:
    _scheduled.release()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; others give back by themselves, or cannot
    if trim:
        trim(0)
