"""A bounded queue of rows and the workers that compute them. Knows arrays; knows neither gRPC nor ONNX.

No added delay: an idle worker takes what waits, at once; what arrives meanwhile is the next batch. Large requests
are computed in pieces of a few milliseconds, several workers at a time, and small requests go before the next piece.
What is cheap, when nothing else runs, is computed by the thread that brings it: waking another would cost more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from server import cpus
from server.crowd import Crowd
from server.errors import DeadlinePassed, QueueFull
from server.lanes import Answer, Compute, Lane, Observe, Part, Piece, Predict, Tell, Ticket

log = logging.getLogger(__name__)


class Batcher:
    """The workers, and what waits for them over all lanes. Made on one event loop; `post` and `leave` on any thread."""

    def __init__(self, *, workers: int, max_rows: int, max_bytes: int, window_seconds: float = 0, pin: bool = False):
        """workers: threads. max_rows, max_bytes: the most that may wait; more is refused with QueueFull.

        window_seconds: how long an idle worker lets the first arrival wait for others. pin: each worker stays on one
        processor, of those that this process may use.
        """
        self.workers = workers
        self._window = window_seconds
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._lanes: deque[Lane] = deque()  # those in which something waits, the next to serve first
        self._rows = self._bytes = 0  # waiting: submitted and not taken
        self._unfinished = 0  # tickets that are not resolved
        self._drained = asyncio.Event()
        self._drained.set()
        self._idle = self._running = 0  # workers that wait; pieces being computed, on whatever thread
        self._kicked, self._closed = False, False
        self._crowd, self._expects = Crowd(self._loop), False
        self._row_seconds = 1e-5  # of a worker, lately; for the advice when the queue is full
        self._threads = [
            threading.Thread(target=self._serve, args=(n if pin else None,), name=f"worker-{n}", daemon=True)
            for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def lane(
        self,
        compute: Compute,
        piece_rows: int,
        split_rows: int,
        observe: Observe | None = None,
        seconds: Predict | None = None,
    ) -> Lane:
        """A queue for one model. compute: rows [n, …] → float32 [n, any], called on any worker, several at once.

        piece_rows: the most that a worker takes at once. split_rows: requests over this are cut into pieces.
        observe: is told of each batch that was computed. seconds: predicts what rows take; without, all is left to
        the workers.
        """
        return Lane(self, compute, piece_rows, split_rows, observe, seconds)

    @property
    def waiting_rows(self) -> int:
        """Rows submitted and not yet taken by a worker."""
        return self._rows

    def submit(
        self, lane: Lane, rows: np.ndarray, deadline: float, priority: int, trace: object | None = None
    ) -> asyncio.Future[Answer]:
        """See Lane.submit."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        ticket = Ticket(rows, deadline, future)
        ticket.trace = trace
        with self._lock:
            self._put(lane, ticket, priority)
        future.add_done_callback(lambda _: self._resolved(ticket))
        self._unfinished += 1
        self._drained.clear()
        self._crowd.arrived()
        if not self._kicked:  # one wake-up for all that come in this turn of the loop, or in the window, or together
            self._kicked = True
            if self._window:
                self._loop.call_later(self._window, self._kick)
            elif self._expects and lane.is_cheap(len(rows)):
                self._crowd.gather(self._kick_crowd)
            else:
                self._loop.call_soon(self._kick)
        return future

    def post(self, lane: Lane, tickets: Sequence[Ticket]) -> None:
        """See Lane.post."""
        refused = list[Ticket]()
        with self._lock:
            mine = self._can_compute_now(lane, [ticket.rows for ticket in tickets])
            if mine:
                piece = self._as_piece(lane, tickets)
                self._running += 1
            else:
                for ticket in tickets:
                    try:
                        self._put(lane, ticket, priority=0)
                    except QueueFull as error:
                        ticket.error = error
                        refused.append(ticket)
                self._wake()
        if mine:
            self._finish(self._compute(piece))
            with self._lock:
                self._running -= 1
        elif refused:
            _tell(refused)

    def at_once(self, lane: Lane, ticket: Ticket) -> bool:
        """See Lane.at_once."""
        self._expects = self._crowd.is_expected()
        if self._expects:
            return False
        with self._lock:
            if not self._can_compute_now(lane, [ticket.rows]):
                return False
            piece = self._as_piece(lane, [ticket])
            self._running += 1
        self._compute(piece)
        with self._lock:
            self._running -= 1
        return ticket.error is None

    def leave(self, ticket: Ticket) -> None:
        """See Lane.leave."""
        with self._lock:
            ticket.left = True
            self._no_longer_waiting(ticket)

    async def drain(self) -> None:
        """Returns when every submitted ticket has its answer or its error."""
        await self._drained.wait()

    def close(self) -> None:
        """Stops the workers after the piece in hand. What still waits gets no answer: drain first."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join()

    def _put(self, lane: Lane, ticket: Ticket, priority: int) -> None:
        """Under the lock."""
        rows = ticket.rows
        if not self._has_room(len(rows), rows.nbytes):
            raise QueueFull(
                f"the queue is full: {self._rows} rows wait, and {len(rows)} more would exceed {self._max_rows} rows "
                f"or {self._max_bytes} bytes",
                retry_after_ms=self._retry_after_ms(),
            )
        self._rows += len(rows)
        self._bytes += rows.nbytes
        if not lane.waits():
            self._lanes.append(lane)
        lane.put(ticket, priority)

    def _kick_crowd(self) -> None:
        self._crowd.came(sum(lane.requests() for lane in self._lanes))
        self._kick()

    def _kick(self) -> None:
        self._kicked = False
        while piece := self._cheap_piece():
            _resolve(self._compute(piece))
            with self._lock:
                self._running -= 1
        with self._lock:
            self._wake()

    def _cheap_piece(self) -> Piece | None:
        """What waits, if it is to be computed at once on this thread; counted as running."""
        with self._lock:
            piece = None
            if not (self._running or self._window) and all(lane.is_cheap(self._rows) for lane in self._lanes):
                piece = self._next_piece()
            self._running += piece is not None
            return piece

    def _has_room(self, rows: int, size: int) -> bool:
        return self._rows + rows <= self._max_rows and self._bytes + size <= self._max_bytes

    def _can_compute_now(self, lane: Lane, batch: Sequence[np.ndarray]) -> bool:
        """True if it is cheap, nothing else runs, and the queue would have taken it. Under the lock."""
        if self._lanes or self._running or self._window:
            return False
        rows = sum(map(len, batch))
        return lane.is_cheap(rows) and self._has_room(rows, sum(each.nbytes for each in batch))

    def _as_piece(self, lane: Lane, tickets: Sequence[Ticket]) -> Piece:
        """All of them as one piece, which never waited."""
        for ticket in tickets:
            ticket.started, ticket.taken, ticket.waiting = ticket.arrived, len(ticket.rows), False
        return Piece(lane, [(ticket, 0, len(ticket.rows)) for ticket in tickets])

    def _wake(self) -> None:
        """As many idle workers as can help. Under the lock."""
        if self._idle and self._lanes:
            self._work.notify(self._idle if any(lane.has_large() for lane in self._lanes) else 1)

    def _resolved(self, ticket: Ticket) -> None:
        if ticket.waiting:
            with self._lock:
                self._no_longer_waiting(ticket)
        self._unfinished -= 1
        if not self._unfinished:
            self._drained.set()

    def _no_longer_waiting(self, ticket: Ticket) -> None:
        """Takes its untaken rows off the count, once: they were dropped, or a caller that left will never want them."""
        if ticket.waiting:
            ticket.waiting = False
            left = len(ticket.rows) - ticket.taken
            self._rows -= left
            self._bytes -= left * (ticket.rows.nbytes // len(ticket.rows))

    def _retry_after_ms(self) -> int:
        seconds = self._rows * self._row_seconds / len(self._threads)
        return int(min(max(seconds * 1000, 10), 5000))

    # ---- on the workers ----

    def _serve(self, pinned: int | None) -> None:
        if pinned is not None:
            cpus.pin_thread(pinned)
        busy = 0
        while True:
            with self._lock:
                self._running -= busy
                while not self._closed and (piece := self._next_piece()) is None:
                    self._idle += 1
                    self._work.wait()
                    self._idle -= 1
                if self._closed:
                    return
                busy = 1
                self._running += busy
                if self._lanes and self._idle:
                    self._work.notify()  # there is more than this worker took
            assert piece is not None
            finished = self._compute(piece)
            self._finish(finished)
            del piece, finished  # hold no rows while waiting

    def _next_piece(self) -> Piece | None:
        """The next lane's next piece; lanes take turns. Under the lock."""
        now = time.monotonic()
        while self._lanes:
            lane = self._lanes.popleft()
            piece = lane.take(now, self._drop)
            if lane.waits():
                self._lanes.append(lane)
            if piece:
                for ticket, start, stop in piece.parts:
                    self._take(ticket, start, stop, now)
                return piece
        return None

    def _drop(self, ticket: Ticket, now: float) -> bool:
        if not ticket.gone() and ticket.deadline < now:
            ticket.error = DeadlinePassed("the deadline passed while the request waited; it was not computed")
            self._call_loop([ticket])
        if ticket.gone():
            self._no_longer_waiting(ticket)
            return True
        return False

    def _take(self, ticket: Ticket, start: int, stop: int, now: float) -> None:
        if ticket.waiting:
            self._rows -= stop - start
            self._bytes -= (stop - start) * (ticket.rows.nbytes // len(ticket.rows))
        if start == 0:
            ticket.started = now
        ticket.taken = stop
        ticket.waiting = ticket.waiting and stop < len(ticket.rows)

    def _compute(self, piece: Piece) -> list[Ticket]:
        """Computes a piece; returns the tickets that are finished by it, well or not."""
        parts = piece.parts
        try:
            start = time.perf_counter()
            rows = [ticket.rows[first:last] for ticket, first, last in parts]
            out = piece.lane.compute(rows[0] if len(rows) == 1 else np.concatenate(rows))
            seconds = time.perf_counter() - start
            if len(out) != sum(map(len, rows)):
                raise RuntimeError(f"{sum(map(len, rows))} rows gave {len(out)} answers")
        except Exception as error:
            if len(parts) > 1:  # somebody's rows are to blame, not everybody's
                return [ticket for part in parts for ticket in self._compute(Piece(piece.lane, [part]))]
            parts[0][0].error = error
            return [parts[0][0]]
        with self._lock:
            self._row_seconds = 0.9 * self._row_seconds + 0.1 * seconds / len(out)
            finished = list(self._hand_back(parts, out, seconds))
        if piece.lane.observe:
            piece.lane.observe(parts, out, seconds, finished)
        return finished

    def _hand_back(self, parts: list[Part], out: np.ndarray, seconds: float) -> Iterable[Ticket]:
        """Gives each row to its owner. Under the lock, since other workers may hold pieces of the same ticket."""
        at = 0
        for ticket, first, last in parts:
            mine = out[at : at + last - first]
            at += last - first
            if last - first == len(ticket.rows):
                ticket.out = mine
            else:
                if ticket.out is None:
                    ticket.out = np.empty((len(ticket.rows), *out.shape[1:]), out.dtype)
                ticket.out[first:last] = mine
            ticket.done += last - first
            ticket.compute_seconds += seconds
            ticket.batch_rows = max(ticket.batch_rows, len(out))
            if ticket.done == len(ticket.rows):
                yield ticket

    def _finish(self, tickets: list[Ticket]) -> None:
        """Those without a future are told here, on this thread; the loop is woken once for all others."""
        told = [ticket for ticket in tickets if ticket.future is None]
        if told:
            _tell(told)
        if len(told) < len(tickets):
            self._call_loop([ticket for ticket in tickets if ticket.future is not None])

    def _call_loop(self, tickets: list[Ticket]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_resolve, tickets)


def _resolve(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        if ticket.future is None:
            _tell([ticket])
        elif ticket.future.done():
            continue
        elif ticket.error is not None:
            ticket.future.set_exception(ticket.error)
        else:
            ticket.future.set_result(ticket.answer())


def _tell(tickets: list[Ticket]) -> None:
    """Tells those whom nobody told yet, all of one batch at once."""
    by_whom: dict[Tell, list[Ticket]] = {}
    for ticket in tickets:
        if ticket.tell is not None and not ticket.left:
            by_whom.setdefault(ticket.tell, []).append(ticket)
    for tell, theirs in by_whom.items():
        try:
            tell(theirs)
        except Exception:  # a worker must not end because of one batch
            log.exception("telling %d callers their answers failed", len(theirs))
