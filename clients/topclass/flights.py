"""Several calls in progress at once, carried out step by step by the one thread that waits for them."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import grpc

from topclass.calls import Call, Pause, Send

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Flight(Generic[T]):
    """One call: where it is, and how it ended."""

    steps: Call[T]
    future: grpc.Future[bytes] | None = None
    done: bool = False
    result: T | None = None
    error: Exception | None = None

    def outcome(self) -> T:
        """What the call returned, or raised; only when it is done."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # set when done without an error


class Flights:
    """The calls of one window. `send` begins a step of a call; retries and pauses go on while anyone waits."""

    def __init__(self, send: Callable[[Send], grpc.Future[bytes]]):
        self._send = send
        self._landed: SimpleQueue[Flight[Any] | None] = SimpleQueue()
        self._paused: list[tuple[float, int, Flight[Any]]] = []
        self._flights: set[Flight[Any]] = set()
        self._numbers = count()
        self._away = 0.0

    def start(self, steps: Call[T]) -> Flight[T]:
        """Begin a call. What it raises before anything is sent, its outcome raises."""
        flight = Flight(steps)
        self._flights.add(flight)
        self._advance(flight, lambda: next(steps))
        return flight

    def clock(self) -> float:
        """Seconds, for the deadlines of these calls: the time in which nobody could try them again does not count."""
        return time.monotonic() - self._away

    def excuse(self, seconds: float) -> None:
        """Whoever waits for the calls was busy with other things for so long."""
        self._away += seconds

    def look(self) -> None:
        """Go on with the calls that had their answer, or have paused enough, without waiting."""
        while not self._landed.empty():
            self._land(self._landed.get())
        self._resume()

    def wait(self, flight: Flight[T]) -> T:
        """Go on with all calls until this one is done; its outcome."""
        while not flight.done:
            timeout = max(0.0, self._paused[0][0] - time.monotonic()) if self._paused else None
            with contextlib.suppress(Empty):
                self._land(self._landed.get(timeout=timeout))
            self._resume()
        return flight.outcome()

    def wake(self) -> None:
        """From another thread: end all pauses now."""
        self._landed.put(None)

    def cancel(self) -> None:
        """Cancel all that is in progress; nothing of it is left behind."""
        for flight in self._flights:
            flight.steps.close()
            if flight.future is not None:
                flight.future.cancel()
        self._flights.clear()
        self._paused.clear()

    def _land(self, flight: Flight[Any] | None) -> None:
        if flight is None:
            self._paused = [(0.0, number, paused) for _, number, paused in self._paused]
        elif flight in self._flights and flight.future is not None:
            future, flight.future = flight.future, None
            try:
                answer = future.result()
            except grpc.RpcError as error:
                failed = error  # the name of an except clause ends with it
                self._advance(flight, lambda: flight.steps.throw(failed))
            else:
                self._advance(flight, lambda: flight.steps.send(answer))

    def _resume(self) -> None:
        while self._paused and self._paused[0][0] <= time.monotonic():
            flight = heapq.heappop(self._paused)[2]
            self._advance(flight, lambda flight=flight: flight.steps.send(b""))  # type: ignore[misc]

    def _advance(self, flight: Flight[T], move: Callable[[], Send | Pause]) -> None:
        try:
            step = move()
            if isinstance(step, Pause):
                heapq.heappush(self._paused, (time.monotonic() + step.seconds, next(self._numbers), flight))
                return
            flight.future = self._send(step)
            flight.future.add_done_callback(lambda _: self._landed.put(flight))
            return
        except StopIteration as end:
            flight.result = end.value
        except Exception as error:
            flight.error = error
        flight.done = True
        self._flights.discard(flight)
