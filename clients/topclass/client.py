"""The client for threads: numpy in, numpy out. The rules of a call are in calls.py; here they are carried out."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import grpc

from topclass import calls
from topclass.balance import Balance
from topclass.calls import Call, Caller, Deadline, LabelStore, Pause, Send
from topclass.flights import Flight, Flights
from topclass.groups import SLOW, Item, Many
from topclass.results import ModelDetails, ModelInfo, Prediction, Result
from topclass.target import Target
from topclass.windows import check_many
from topclass.wire import Inputs, Query

T = TypeVar("T")


class Client:
    """Calls a topclass server. Threads may share it; a process that forks must make its own after the fork.

    `timeout` is in seconds and covers a whole call, its retries included; each method can have its own. A call is
    tried again, at most `retries` times, only where the server is unavailable or says that it is full and when to
    come back. `root_certificates` (PEM, as bytes or as a path) turn TLS on; `token` is sent with every call, in the
    clear without TLS. Every error of a call is a TopclassError.

    `address` may be a list of servers that serve the same models, or a name like dns:///models.example:8001 that stands
    for several: calls go to each in turn, one that is away is left and taken again. `channels` are the connections to
    each address; more than one pays only where a single connection is the limit.
    """

    def __init__(
        self,
        address: str | Sequence[str] = "127.0.0.1:8001",
        *,
        channels: int = 1,
        timeout: float = 30.0,
        retries: int = 5,
        root_certificates: bytes | str | Path | None = None,
        token: str | None = None,
    ):
        target = Target.of(address, channels, root_certificates, token)
        self._timeout = timeout
        self._metadata = target.metadata
        self._caller = Caller(Balance(target.addresses), retries)
        self._store = LabelStore()
        self._closed = threading.Event()
        self._windows: set[Flights] = set()
        self._turns = itertools.count()
        self._channels = [[_connect(target, each) for _ in range(channels)] for each in target.addresses]
        self._methods: list[list[dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]]]
        self._methods = [
            [{name: channel.unary_unary(name) for name in calls.METHODS} for channel in row] for row in self._channels
        ]

    def predict(
        self,
        inputs: Inputs,
        model: str = "",
        *,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Result:
        """Classify one batch.

        `inputs` are an array, uint8 pictures [N, H, W] or [N, H, W, C] or rows of numbers [N, F] (float64 is rounded
        to float32), or a list of picture files, each a path or bytes; the server decodes them. An empty `model` is
        the only one served; version 0 is the one that answers by default, and an `alias` such as "previous" names
        one instead. A `sha256` pins the model file: ModelChanged if another would
        answer. `top_k` ranks so many classes of each row; `probabilities=False` leaves the matrix out.
        `priority` 0 goes first in the server's queue, 9 last: bulk work leaves the fast lane to others by a higher one.
        Raises TypeError for inputs that cannot be sent, OSError for files that cannot be read, TopclassError else.
        """
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        return self._run(calls.predict(self._caller, self._store, inputs, query, self._deadline(timeout)))

    @overload
    def predict_many(
        self,
        items: Iterable[Inputs],
        model: str = "",
        *,
        batch_size: None = None,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise"] = "raise",
    ) -> Generator[Result, None, None]: ...

    @overload
    def predict_many(
        self,
        items: Iterable[Item],
        model: str = "",
        *,
        batch_size: int,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise"] = "raise",
    ) -> Generator[Prediction, None, None]: ...

    @overload
    def predict_many(
        self,
        items: Iterable[Any],
        model: str = "",
        *,
        batch_size: int | None = None,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise", "return"],
    ) -> Generator[Any, None, None]: ...

    def predict_many(
        self,
        items: Iterable[Any],
        model: str = "",
        *,
        batch_size: int | None = None,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise", "return"] = "raise",
    ) -> Generator[Any, None, None]:
        """Classify as many as come, at most `window` requests at once; the answers come in the order of the items.

        Each item is a batch, as for predict, and each answer a Result. With a `batch_size` each item is one picture
        [H, W] or [H, W, C], one row [F] or one picture file, each answer a Prediction, and neighbours travel
        together, at most so many in one request, fewer where the source is slow. An item is taken only when there is
        room for it; `timeout` is that of each request. An error is raised where its answer would have come, or with
        on_error="return" stands there itself: a TopclassError, a TypeError or an OSError. Closing the iterator
        cancels what is in progress.
        """
        check_many(window, batch_size, on_error)
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        flights = Flights(self._begin)
        seconds = self._deadline(timeout).timeout
        many = Many(self._caller, self._store, query, lambda: Deadline(seconds, flights.clock), batch_size)
        return self._in_order(flights, many, items, window, on_error == "raise")

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every version of every model that the server knows, the broken ones too."""
        return self._run(calls.models(self._caller, self._deadline(timeout)))

    def model(self, name: str = "", version: int = 0, *, timeout: float | None = None) -> ModelDetails:
        """One model: its labels, what it takes, its card. Empty: the only one served; 0: the version that answers."""
        return self._run(calls.model(self._caller, name, version, self._deadline(timeout)))

    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """What the server says of itself: "serving", "not serving" or "unknown". TopclassError if it says nothing."""
        return self._run(calls.health(self._caller, service, self._deadline(timeout)))

    def healthy(self, service: str = "", *, timeout: float | None = None) -> bool:
        """True if the server is serving; False if it says otherwise, or does not answer."""
        return self._run(calls.healthy(self._caller, service, self._deadline(timeout)))

    def wait_ready(self, timeout: float | None = None, service: str = "") -> None:
        """Return once the server is serving; Unavailable, with its last answer, if that takes over `timeout` s."""
        return self._run(calls.wait_ready(self._caller, service, self._deadline(timeout)))

    def close(self) -> None:
        """Close the connections; calls in progress, in other threads, are cancelled."""
        self._closed.set()
        for channel in itertools.chain.from_iterable(self._channels):
            channel.close()
        for flights in list(self._windows):
            flights.wake()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _in_order(
        self, flights: Flights, many: Many, items: Iterable[Any], window: int, raising: bool
    ) -> Generator[Any, None, None]:
        pending: deque[Flight[list[Any]]] = deque()
        broken: Exception | None = None
        self._windows.add(flights)
        try:
            source = iter(many.jobs(items))
            while True:
                left = time.monotonic()
                try:
                    job = next(source, None)
                except Exception as error:  # what was taken before is answered first
                    job, broken = None, error
                took = time.monotonic() - left
                flights.excuse(took)
                if job is not None:
                    pending.append(flights.start(job))
                    flights.look()
                # Answers wait until the window is full again, unless the source is what everyone waits for.
                while pending and (job is None or len(pending) >= window or (took > SLOW and pending[0].done)):
                    outcomes = flights.wait(pending[0])
                    left = time.monotonic()
                    yield from many.answers(outcomes, raising)
                    flights.excuse(time.monotonic() - left)
                    pending.popleft()
                if job is None:
                    break
            if broken is not None:
                raise broken
        finally:
            self._windows.discard(flights)
            flights.cancel()

    def _run(self, steps: Call[T]) -> T:
        """Carry out the steps of a call, one after the other, and return what it returns."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Send | Pause) -> bytes:
        if isinstance(step, Pause):
            self._closed.wait(step.seconds)
            return b""
        answer: bytes = self._method(step)(step.request, timeout=step.timeout, metadata=self._metadata)
        return answer

    def _begin(self, step: Send) -> grpc.Future[bytes]:
        return self._method(step).future(step.request, timeout=step.timeout, metadata=self._metadata)

    def _method(self, step: Send) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        if self._closed.is_set():
            raise ValueError("this client is closed")
        row = self._methods[step.place]
        return row[next(self._turns) % len(row)][step.method]


def _connect(target: Target, address: str) -> grpc.Channel:
    if target.credentials:
        return grpc.secure_channel(address, target.credentials, options=target.options(address))
    return grpc.insecure_channel(address, options=target.options(address))
