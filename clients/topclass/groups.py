"""Single pictures and rows, put together to requests, and taken apart again into one outcome for each."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from topclass import calls, wire
from topclass.calls import Call, Caller, Deadline, LabelStore
from topclass.errors import InvalidInput, Overloaded, TopclassError
from topclass.results import Prediction, Result

Item: TypeAlias = NDArray[Any] | str | Path | bytes
"""One picture [H, W] or [H, W, C], one row of numbers [F], or one picture file: its path or its bytes."""

Failure: TypeAlias = TopclassError | TypeError | OSError

_MOST_BYTES = 16 << 20  # of one request: well under the 128 MiB that a server takes
SLOW = 0.005  # seconds: a source that takes longer for one item is not waited for
_NUMBER = re.compile(r"\b(picture|row) \d+")  # the server counts within a request, which the caller never sees


@dataclass(frozen=True)
class Many:
    """What predict_many asks, whichever client carries it out; without a `batch_size` each item is a batch."""

    caller: Caller
    store: LabelStore
    query: wire.Query
    deadline: Callable[[], Deadline]
    batch_size: int | None

    def jobs(self, items: Iterable[Any]) -> Iterator[Call[list[Any]]]:
        """One call for each request, as the items come."""
        groups = ([item] for item in items) if self.batch_size is None else grouped(items, self.batch_size)
        return (self.job(group) for group in groups)

    def job(self, group: Sequence[Any]) -> Call[list[Any]]:
        """The call for items that go in one request: an outcome for each."""
        if self.batch_size is None:
            return self._batch(group[0])
        return predict_items(self.caller, self.store, group, self.query, self.deadline)

    def _batch(self, inputs: wire.Inputs) -> Call[list[Any]]:
        try:
            return [(yield from calls.predict(self.caller, self.store, inputs, self.query, self.deadline()))]
        except (TopclassError, TypeError, OSError) as error:
            return [error]

    @staticmethod
    def answers(outcomes: Iterable[Any], raising: bool) -> Iterator[Any]:
        """The outcomes; the first that is an error is raised if it shall be."""
        for outcome in outcomes:
            if raising and isinstance(outcome, Exception):
                raise outcome
            yield outcome


def grouped(items: Iterable[Item], size: int, clock: Callable[[], float] = time.monotonic) -> Iterator[list[Item]]:
    """Neighbours that can go in one request, at most `size` together, and fewer where the next one is slow to come."""
    group: list[Item] = []
    broken: Exception | None = None
    source = iter(items)
    while True:
        before = clock()
        try:
            item = next(source)
        except StopIteration:
            break
        except Exception as error:  # what came before it goes first
            broken = error
            break
        slow = clock() - before > SLOW
        if group and not _fits(group[0], len(group), item, size):
            yield group
            group = []
        group.append(item)
        if slow or len(group) == size:
            yield group
            group = []
    if group:
        yield group
    if broken is not None:
        raise broken


def taken(waiting: Sequence[Item], size: int) -> int:
    """How many of the first that wait can go in one request."""
    count = 1
    while count < len(waiting) and _fits(waiting[0], count, waiting[count], size):
        count += 1
    return count


def _fits(first: Item, count: int, item: Item, size: int) -> bool:
    if count >= size or _bytes(first) * (count + 1) > _MOST_BYTES:
        return False
    if isinstance(first, np.ndarray) and isinstance(item, np.ndarray):
        return first.dtype == item.dtype and first.shape == item.shape
    return not isinstance(first, np.ndarray) and not isinstance(item, np.ndarray)


def _bytes(item: Item) -> int:
    if isinstance(item, np.ndarray):
        return item.nbytes
    return len(item) if isinstance(item, bytes) else 0


def predict_items(
    caller: Caller,
    store: LabelStore,
    items: Sequence[Item],
    query: wire.Query,
    deadline: Callable[[], Deadline],
) -> Call[list[Prediction | Failure]]:
    """Classify single items in one request, or in as few as it takes to tell the good from the bad.

    One that the server refuses by its number is set aside and the rest is asked again; a request that is too large
    is cut in two.
    """
    found = [loaded(item) for item in items]
    outcomes: list[Any] = list(found)  # where an item could not be read, the reason
    kept = [index for index, item in enumerate(found) if not isinstance(item, Exception)]

    def ask(part: list[int]) -> Call[Result]:
        return calls.predict(caller, store, _batch([found[index] for index in part]), query, deadline())

    def settle(part: Sequence[int], outcome: Iterable[Any]) -> None:
        for index, one in zip(part, outcome, strict=True):
            outcomes[index] = one

    parts = [kept] if kept else []
    while parts:
        part = parts.pop()
        try:
            settle(part, (yield from ask(part)))
        except InvalidInput as error:
            if error.row is not None and error.row < len(part):
                settle([part.pop(error.row)], [_alone(error)])
                parts += [part] if part else []
                continue
            # Either each of them is wrong, and in the same way, or they are too many. One alone tells.
            try:
                settle(part[:1], (yield from ask(part[:1])))
            except TopclassError as same:
                settle(part, [same] * len(part))
            else:
                parts += _halves(part[1:])
        except Overloaded as error:
            if error.retry_after is None and len(part) > 1:  # the message is larger than the server takes
                parts += _halves(part)
            else:
                settle(part, [error] * len(part))
        except TopclassError as error:
            settle(part, [error] * len(part))
    return outcomes


def _halves(part: list[int]) -> list[list[int]]:
    middle = len(part) // 2
    return [half for half in (part[middle:], part[:middle]) if half]


def _alone(error: InvalidInput) -> InvalidInput:
    """The error of one row of a request, as that of an item: without its number."""
    error.row = None
    error.message = _NUMBER.sub(r"the \1", error.message)
    error.args = (error.message,)
    return error


def loaded(item: Any) -> NDArray[Any] | bytes | TypeError | OSError:
    """The item as it is sent, or why it cannot be; what was loaded before stays as it is."""
    try:
        if isinstance(item, np.ndarray):
            wire.stacked([item])
            return item
        if isinstance(item, (TypeError, OSError)):
            return item
        if isinstance(item, (bytearray, memoryview)):
            return bytes(item)
        if isinstance(item, (str, Path, bytes)):
            return wire.read_pictures([item])[0]
        raise TypeError(
            f"an item is a {type(item).__name__}; expected a numpy array of one picture or row, or a picture file "
            "(a path or bytes)"
        )
    except (TypeError, OSError) as error:
        return error


def _batch(items: Sequence[Any]) -> wire.Prepared:
    return wire.stacked(items) if isinstance(items[0], np.ndarray) else list(items)
