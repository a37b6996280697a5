"""What predict_many can be told."""

from __future__ import annotations


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
