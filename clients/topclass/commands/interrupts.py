"""Ctrl-C and SIGTERM in the middle of a job: say what is kept, and be gone.

An exception that a signal raises in the middle of grpc's own code can leave a channel that never closes. Nothing has to
be closed: what is certain is on the disk, as after a kill, and the server sees the connection end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


@contextmanager
def ending_at_once(last_words: Callable[[], str]) -> Iterator[None]:
    """Until the block ends, both signals print the last words and end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        interrupted = number == signal.SIGINT
        words = ("\ntopclass: interrupted\n" if interrupted else "") + last_words()
        if sys.stderr.isatty():
            words = f"\r{_SHOW_CURSOR}" + words
        os.write(2, words.encode(errors="replace"))
        os._exit(EXIT_INTERRUPTED if interrupted else EXIT_TERMINATED)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
