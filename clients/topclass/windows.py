"""A bounded number of things in progress at once, their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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


def check_many(window: int, batch_size: int | None, on_error: str) -> None:
    """ValueError for what predict_many cannot be told."""
    check_window(window)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch_size is {batch_size}; it must be at least 1, or None where the items are batches")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")
