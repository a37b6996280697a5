"""A bounded number of things in progress at once, their results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import grpc

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_order(
    work: Callable[[Item], Done], items: Iterable[Item], window: int, cancel: Callable[[], None]
) -> Generator[Done, None, None]:
    """`work(item)` of each item, in the order of the items, at most `window` at once, in threads.

    An item is taken only when there is room for it, so memory holds `window` of them. What `work` raises is raised
    where its result would have come. Whoever leaves early, by an error or by closing this generator, has `cancel`
    called, which must make the work in progress end.
    """
    check_window(window)
    pool = ThreadPoolExecutor(window, thread_name_prefix="topclass")
    pending: deque[Future[Done]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) == window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BaseException:
        cancel()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def check_window(window: int) -> None:
    """ValueError unless at least one thing may be in progress."""
    if window < 1:
        raise ValueError(f"the window is {window}; it must be at least 1")


class LiveCalls:
    """The calls in progress of one window, so that they can be cancelled together."""

    def __init__(self) -> None:
        self._calls: set[grpc.Future[bytes]] = set()
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def wait_for(self, call: grpc.Future[bytes]) -> bytes:
        """The call's answer; grpc.RpcError or grpc.FutureCancelledError where there is none."""
        with self._lock:
            self._calls.add(call)
        if self._cancelled.is_set():
            call.cancel()
        try:
            return call.result()
        finally:
            with self._lock:
                self._calls.discard(call)

    def pause(self, seconds: float) -> None:
        """Wait, but not after `cancel`."""
        self._cancelled.wait(seconds)

    def cancel(self) -> None:
        """Cancel what is in progress and whatever still begins."""
        self._cancelled.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()
