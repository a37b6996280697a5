"""What waits for one model: requests on their way, in queues by priority and size, and who goes next."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from server.batching import Batcher

INLINE_SECONDS = 300e-6  # what is predicted to take less is computed by who brings it, if nothing else runs
TURNS = 4  # pieces of a queue before the next gets one: small before large, and one priority before the next
Compute = Callable[[np.ndarray], np.ndarray]
Predict = Callable[[int], float]  # the seconds that so many rows take
Tell = Callable[[list["Ticket"]], None]


@dataclass(frozen=True)
class Answer:
    """What became of a request's rows: float32 [n, C], or [n, C + 1] with a score, and where the time went."""

    rows: np.ndarray
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


class Ticket:
    """One request's rows [n, …] on their way through the queue, and who is told when they are done.

    Either `future`, on the event loop; or `tell`, on the thread that finished it, with all that a batch finished.
    """

    __slots__ = (
        "arrived", "batch_rows", "compute_seconds", "deadline", "done", "error", "future", "left",
        "out", "rows", "started", "taken", "tell", "trace", "waiting",
    )  # fmt: skip

    def __init__(
        self, rows: np.ndarray, deadline: float, future: asyncio.Future[Answer] | None = None, tell: Tell | None = None
    ):
        self.rows, self.deadline, self.future, self.tell = rows, deadline, future, tell
        self.left = False  # the caller of one without a future is gone
        self.out: np.ndarray | None = None
        self.error: Exception | None = None
        self.arrived, self.started = time.monotonic(), 0.0
        self.taken = self.done = self.batch_rows = 0
        self.compute_seconds = 0.0
        self.trace: object | None = None  # of the request, where it has one; for who is told of batches
        self.waiting = True  # its untaken rows count as waiting

    def gone(self) -> bool:
        """True if nobody waits for it any more, or it failed already."""
        return self.error is not None or self.left or (self.future is not None and self.future.done())

    def answer(self) -> Answer:
        """The answer of a ticket whose rows are all done."""
        assert self.out is not None
        return Answer(self.out, self.started - self.arrived, self.compute_seconds, self.batch_rows)


Part = tuple[Ticket, int, int]  # rows start to stop of a ticket
# Told of each batch, on its worker: whose rows it held, the answers [n, any], its seconds, and whom it finished.
Observe = Callable[[Sequence[Part], np.ndarray, float, Sequence[Ticket]], None]


def each_of(observers: Sequence[Observe]) -> Observe | None:
    """One that tells all of them; None where there is none."""
    if len(observers) < 2:
        return observers[0] if observers else None

    def computed(parts: Sequence[Part], out: np.ndarray, seconds: float, finished: Sequence[Ticket]) -> None:
        for observe in observers:
            observe(parts, out, seconds, finished)

    return computed


@dataclass(frozen=True)
class Piece:
    """Parts of some tickets: what a worker computes at once."""

    lane: Lane
    parts: list[Part]


class Queue:
    """The waiting requests of one priority and kind, small or large, and the turns it had before the next queue."""

    __slots__ = ("tickets", "turns")

    def __init__(self) -> None:
        self.tickets: deque[Ticket] = deque()
        self.turns = 0


class Lane:
    """The queue of one model. It lives as long as someone holds it; in-flight rows of an unloaded model finish."""

    def __init__(
        self,
        batcher: Batcher,
        compute: Compute,
        piece_rows: int,
        split_rows: int,
        observe: Observe | None = None,
        seconds: Predict | None = None,
    ):
        self._batcher, self.compute, self.observe, self.seconds = batcher, compute, observe, seconds
        self.piece_rows, self.split_rows = piece_rows, min(split_rows, piece_rows)
        self._queues: dict[tuple[int, bool], Queue] = {}

    def submit(
        self, rows: np.ndarray, deadline: float = math.inf, priority: int = 0, trace: object | None = None
    ) -> asyncio.Future[Answer]:
        """Queues rows [n, …]; the future gives their Answer. Cancel it to drop what is not computed yet.

        deadline: of time.monotonic(), in seconds. priority: 0 goes first, then 1, and so on; whoever goes later
        still gets a turn after every few of those before. Raises QueueFull at once where the queue is full; the
        future raises DeadlinePassed for rows that were not computed in time, or what `compute` raised.
        """
        return self._batcher.submit(self, rows, deadline, priority, trace)

    def post(self, tickets: Sequence[Ticket]) -> None:
        """Queues tickets that are told, from any thread; where they are cheap and nothing else runs, computes them.

        A ticket that the queue has no room for is told at once.
        """
        self._batcher.post(self, tickets)

    def at_once(self, ticket: Ticket) -> bool:
        """Computes its rows on this thread, if that is cheap and nothing else runs; False, and nothing, if not so.

        False also where it could not be computed: `submit` says why.
        """
        return self._batcher.at_once(self, ticket)

    def leave(self, ticket: Ticket) -> None:
        """The caller of a posted ticket is gone: what is not computed yet never will be, and nobody is told."""
        self._batcher.leave(ticket)

    def is_cheap(self, rows: int) -> bool:
        """True if computing so many rows at once takes less than handing them to a worker is worth."""
        return self.seconds is not None and rows <= self.piece_rows and self.seconds(rows) < INLINE_SECONDS

    def waits(self) -> bool:
        """True if there is something to take."""
        return bool(self._queues)

    def requests(self) -> int:
        """How many wait."""
        return sum(len(queue.tickets) for queue in self._queues.values())

    def has_large(self) -> bool:
        """True if a request waits that several workers can share."""
        return any(large for _, large in self._queues)

    def put(self, ticket: Ticket, priority: int) -> None:
        """Queues a ticket. Called under the batcher's lock, as `take` is."""
        key = (priority, len(ticket.rows) > self.split_rows)
        if key not in self._queues:
            self._queues = dict(sorted((*self._queues.items(), (key, Queue()))))
        self._queues[key].tickets.append(ticket)

    def take(self, now: float, drop: Callable[[Ticket, float], bool]) -> Piece | None:
        """The next piece, or None where all that waited is dropped; `drop` says whether a ticket is gone or late."""
        key = self._whose_turn()
        queue = self._queues[key]
        parts = (self._take_large if key[1] else self._take_small)(queue.tickets, now, drop)
        if not queue.tickets:
            del self._queues[key]
        return Piece(self, parts) if parts else None

    def _whose_turn(self) -> tuple[int, bool]:
        """The first queue, but the one after it after every TURNS, and so on down the line."""
        *before, last = self._queues
        for key in before:
            queue = self._queues[key]
            if queue.turns < TURNS:
                queue.turns += 1
                return key
            queue.turns = 0
        return last

    def _take_small(self, tickets: deque[Ticket], now: float, drop: Callable[[Ticket, float], bool]) -> list[Part]:
        parts, room = [], self.piece_rows
        while tickets and len(tickets[0].rows) <= room:
            ticket = tickets.popleft()
            if not drop(ticket, now):
                room -= len(ticket.rows)
                parts.append((ticket, 0, len(ticket.rows)))
        return parts

    def _take_large(self, tickets: deque[Ticket], now: float, drop: Callable[[Ticket, float], bool]) -> list[Part]:
        while tickets:
            ticket = tickets.popleft()
            if drop(ticket, now):
                continue
            stop = min(ticket.taken + self._share(len(ticket.rows)), len(ticket.rows))
            if stop < len(ticket.rows):
                tickets.append(ticket)  # behind the others: large requests take turns
            return [(ticket, ticket.taken, stop)]
        return []

    def _share(self, rows: int) -> int:
        """Rows of one piece of a large request: a worker's fair share, but neither too small to pay nor too long."""
        return min(max(-(-rows // self._batcher.workers), self.split_rows), self.piece_rows)
