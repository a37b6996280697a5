"""Answers bursts of plain requests without a task for each: on the thread that received them, or on the workers.

What is not plain, and every fault but those of computing and of a full queue, is left to the ordinary handlers, which
know the words. Knows no transport: a burst comes with a way to answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from server.config import Config
from server.errors import InvalidInput, ServingError
from server.interceptor import REQUEST_ID, Call, Interceptor, told
from server.lanes import Ticket
from server.plain import Frames, Plain, Read
from server.repository import Repository
from server.versions import Served


class Arrival:
    """One call of one message, as a transport brought it. started: of time.perf_counter()."""

    __slots__ = ("call_id", "deadline", "message", "metadata", "method", "started")

    def __init__(
        self,
        call_id: int,
        method: str,
        message: bytes,
        deadline: float,
        metadata: Sequence[tuple[str, str | bytes]],
        started: float,
    ):
        self.call_id, self.method, self.message = call_id, method, message
        self.deadline, self.metadata, self.started = deadline, metadata, started

    def is_named(self) -> bool:
        """True if the caller gave it an id, which its answer must repeat."""
        return any(key == REQUEST_ID for key, _ in self.metadata)


class Replies(Protocol):
    """A transport's way to answer, from any thread; one whose caller is gone does nothing."""

    def respond(self, call_id: int, message: bytes) -> object:
        """The reply."""

    def refuse(self, call_id: int, fault: ServingError, call: Call) -> object:
        """A status, with what it says."""


class Ride(Ticket):
    """A ticket that knows its call."""

    __slots__ = ("arrival", "plain", "served")

    def __init__(self, arrival: Arrival, plain: Plain, served: Served, express: Express):
        super().__init__(plain.rows(arrival.message), arrival.deadline, tell=express.tell)
        self.arrival, self.plain, self.served = arrival, plain, served


class Express:
    """The fast lane of one server. `take` and `leave` are called by one thread; the workers call `tell`."""

    def __init__(self, repository: Repository, config: Config, calls: Interceptor, readers: Mapping[str, Read]):
        """readers: for each method that has plain requests, what takes its messages apart."""
        self._repository, self._config, self._calls = repository, config, calls
        # A call that is traced goes the long way, which has its spans.
        self._frames = {} if config.tracing else {method: Frames(read) for method, read in readers.items()}
        self._frames_here = {method: Frames(read) for method, read in readers.items()}  # of the event loop
        self._riding: dict[int, Ride] = {}
        self._lock = threading.Lock()
        self._replies: Replies
        self.tell = self._tell  # one bound method, which tickets are grouped by

    def answers_to(self, replies: Replies) -> None:
        """Before the first burst."""
        self._replies = replies

    def take(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """Answers what it can, at once or later; returns the others, untouched."""
        rides, left = dict[int, list[Ride]](), list[Arrival]()
        fitting = dict[Plain, Served | None]()  # one look-up for all requests of a frame
        for arrival in arrivals:
            frames = None if arrival.is_named() else self._frames.get(arrival.method)
            plain = frames.find(arrival.message) if frames else None
            served = None
            if plain is not None:
                if plain not in fitting:
                    fitting[plain] = self._served(plain)
                served = fitting[plain]
            if plain is None or served is None or (ride := self._ride(arrival, plain, served)) is None:
                left.append(arrival)
            else:
                rides.setdefault(id(served.lane), []).append(ride)
        for together in rides.values():
            left += self._set_out(together)
        return left

    def at_once(self, message: bytes, call: Call) -> bytes | None:
        """The reply to one plain request, computed here, where that is cheap and nothing else runs; else None.

        For the event loop, whose transport brings calls one by one: a future and a task would cost more than it.
        """
        plain = self._frames_here[call.method].find(message)
        served = self._served(plain) if plain else None
        if plain is None or served is None or call.deadline <= time.monotonic():
            return None
        try:
            rows = plain.rows(message)
            if plain.dtype.kind == "f":
                served.model.check(rows)
            ticket = Ticket(rows, call.deadline)
            if not served.lane.at_once(ticket):
                return None
            answer = ticket.answer()
            [reply] = plain.write([answer], served)
        except InvalidInput:  # the ordinary handler has the words
            return None
        call.model, call.version = served.name, str(served.version)
        served.statistics.answered_all([answer], time.monotonic() - ticket.arrived)
        return reply

    def leave(self, call_id: int) -> bool:
        """The caller is gone, or its deadline passed; True if the call was one of these."""
        with self._lock:
            ride = self._riding.pop(call_id, None)
        if ride is None:
            return False
        ride.served.lane.leave(ride)
        late = time.monotonic() >= ride.deadline
        self._count([ride], "DEADLINE_EXCEEDED" if late else "CANCELLED")
        self._calls.end(1)
        return True

    def _served(self, plain: Plain) -> Served | None:
        try:
            served = plain.find(self._repository)
        except Exception:  # the ordinary handler meets it again, and has the words
            return None
        return served if plain.fits(served, self._config) else None

    def _ride(self, arrival: Arrival, plain: Plain, served: Served) -> Ride | None:
        ride = Ride(arrival, plain, served, self)
        if plain.dtype.kind == "f":
            try:
                served.model.check(ride.rows)
            except InvalidInput:
                return None
        return ride

    def _set_out(self, rides: list[Ride]) -> list[Arrival]:
        """Queues them, or computes them here; returns those for which there is no place."""
        room = self._calls.begin(len(rides))
        rides, rest = rides[:room], rides[room:]
        if rides:
            with self._lock:
                self._riding.update((ride.arrival.call_id, ride) for ride in rides)
            rides[0].served.lane.post(rides)
        return [ride.arrival for ride in rest]

    def _tell(self, tickets: list[Ticket]) -> None:
        """Answers the calls whose tickets are finished, on the thread that finished them."""
        with self._lock:
            mine = [ride for ride in tickets if isinstance(ride, Ride) and ride.arrival.call_id in self._riding]
            for ride in mine:
                del self._riding[ride.arrival.call_id]
        groups: dict[int, list[Ride]] = {}
        for ride in mine:
            groups.setdefault(0 if ride.error else id(ride.plain), []).append(ride)
        for ride in groups.pop(0, ()):
            assert ride.error is not None
            self._refuse(ride, ride.error)
        for alike in groups.values():
            self._answer(alike)
        self._calls.end(len(mine))

    def _answer(self, rides: list[Ride]) -> None:
        """Of one frame and one version."""
        answers = [ride.answer() for ride in rides]
        try:
            replies = rides[0].plain.write(answers, rides[0].served)
        except Exception as error:
            if len(rides) == 1:
                self._refuse(rides[0], error)
            else:  # the rows of one cannot be told; the others can
                for ride in rides:
                    self._answer([ride])
            return
        respond = self._replies.respond
        for ride, reply in zip(rides, replies, strict=True):
            respond(ride.arrival.call_id, reply)
        rides[0].served.statistics.answered_all(answers, time.monotonic() - rides[0].arrived)
        self._count(rides, "OK")

    def _refuse(self, ride: Ride, error: Exception) -> None:
        call = Call(ride.arrival.method, ride.deadline)
        fault = told(error, call)
        self._replies.refuse(ride.arrival.call_id, fault, call)
        ride.served.statistics.failed(time.monotonic() - ride.arrived)
        self._count([ride], fault.code.name)

    def _count(self, rides: Sequence[Ride], status: str) -> None:
        first = rides[0]
        call = Call(first.arrival.method, model=first.served.name, version=str(first.served.version))
        self._calls.ended(call, status, [ride.arrival.started for ride in rides])
