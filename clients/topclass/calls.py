"""What a call does, step by step, without doing any of it: retries, deadlines, labels. Both clients drive these.

A call is a generator. It yields a Send or a Pause, is sent the bytes of the answer (or has the RpcError thrown in),
and returns its result. So the rules are written once, for threads and for asyncio, and no test needs to wait.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from topclass import wire
from topclass.balance import Balance
from topclass.errors import (
    DeadlineExceeded,
    Overloaded,
    ServerFault,
    TopclassError,
    Unavailable,
    error_from_rpc,
    with_attempts,
)
from topclass.results import ModelDetails, ModelInfo, Result

_SERVICE = "/topclass.v1.InferenceService/"
PREDICT, GET_MODEL, LIST_MODELS = _SERVICE + "Predict", _SERVICE + "GetModel", _SERVICE + "ListModels"
HEALTH = "/grpc.health.v1.Health/Check"
METHODS = (PREDICT, GET_MODEL, LIST_MODELS, HEALTH)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds
_HEALTH_PAUSE = 0.1  # seconds between two questions whether the server is ready
_MOST_LABEL_SETS = 64  # model files whose labels are remembered; a client that lives through more swaps asks again


@dataclass(frozen=True, slots=True)
class Send:
    """Send `request` to `method` of one of the servers; the answer must come within `timeout` seconds."""

    method: str
    request: bytes
    timeout: float
    place: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


T = TypeVar("T")
Call: TypeAlias = Generator[Send | Pause, bytes, T]


class Deadline:
    """One moment by which a whole call, its retries included, must be done."""

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic):
        if not timeout > 0:
            raise ValueError(f"the timeout is {timeout} s; it must be more than 0")
        self.timeout, self._clock, self._start = timeout, clock, clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._clock() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left."""
        return self.timeout - self.elapsed


@dataclass(frozen=True)
class Caller:
    """To whom calls go, and how often one is tried again."""

    balance: Balance
    retries: int
    jitter: Callable[[float, float], float] = random.uniform

    def call(self, method: str, request: bytes, deadline: Deadline) -> Call[bytes]:
        """Send, and again where that is safe and may help: the server is away, or full and says when to come back."""
        for attempt in count():
            place = self.balance.pick()
            try:
                answer = yield Send(method, request, max(deadline.remaining, 0.001), place)
            except grpc.RpcError as error:
                fault = error_from_rpc(error, self.balance.addresses[place], deadline.timeout)
                if isinstance(fault, Unavailable):
                    self.balance.failed(place)
                elif not isinstance(fault, DeadlineExceeded):
                    self.balance.answered(place)
                pause = self._pause(fault, attempt)
                if pause is None or pause >= deadline.remaining:
                    raise with_attempts(fault, attempt + 1, deadline.elapsed) from None
            else:
                self.balance.answered(place)
                return answer
            if pause:
                yield Pause(pause)
        raise AssertionError("count() has no end")

    def _pause(self, fault: TopclassError, attempt: int) -> float | None:
        """Seconds to wait before another try; None: do not try again."""
        if attempt >= self.retries:
            return None
        # Full jitter: callers that failed together must not come back together.
        pause = self.jitter(0, min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE))
        if isinstance(fault, Overloaded) and fault.retry_after is not None:
            return fault.retry_after + pause
        if isinstance(fault, Unavailable):
            return 0 if self.balance.elsewhere else pause
        return None

    def read(self, reader: Callable[[bytes], T], data: bytes) -> T:
        """What the reader makes of an answer; ServerFault where it is not what it must be."""
        try:
            return reader(data)
        except (ValueError, DecodeError) as error:
            names = ", ".join(self.balance.addresses)
            text = f"{names}: the answer cannot be read: {error}. Is it a topclass server of this version?"
            raise ServerFault(text, str(error), grpc.StatusCode.INTERNAL) from error


class LabelStore:
    """The labels of the model files that answered, and which file answered last for each way to name one."""

    def __init__(self) -> None:
        self._labels: dict[str, tuple[str, ...]] = {}
        self._last: dict[tuple[str, int, str], str] = {}

    def known(self, query: wire.Query) -> bool:
        """True if the file that will probably answer is one whose labels are here."""
        return (query.sha256 or self._last.get((query.model, query.version, query.alias))) in self._labels

    def learn(self, query: wire.Query, reply: wire.Reply) -> tuple[str, ...] | None:
        """The labels of the file that answered; None if neither the reply nor the store has them."""
        labels = reply.labels or self._labels.get(reply.sha256)
        if labels is not None:
            # Each step is one operation on a dict, so that threads may share the store.
            self._labels[reply.sha256] = labels
            self._last[query.model, query.version, query.alias] = reply.sha256
            for sha256 in list(self._labels)[:-_MOST_LABEL_SETS]:
                self._labels.pop(sha256, None)
        return labels


def predict(
    caller: Caller, store: LabelStore, inputs: wire.Inputs | wire.Prepared, query: wire.Query, deadline: Deadline
) -> Call[Result]:
    """One Predict; labels and probabilities are always those of the same model file."""
    batch = inputs if isinstance(inputs, wire.Dense) else wire.prepared(inputs)
    asked = not store.known(query)
    data = yield from caller.call(PREDICT, wire.predict_request(batch, query, labels=asked), deadline)
    reply = caller.read(wire.read_reply, data)
    labels = store.learn(query, reply)
    if labels is None and not asked:
        # Another version went live since. Predict changes nothing on the server, so it may be sent again.
        data = yield from caller.call(PREDICT, wire.predict_request(batch, query, labels=True), deadline)
        reply = caller.read(wire.read_reply, data)
        labels = store.learn(query, reply)
    sent = batch.rows if isinstance(batch, wire.Dense) else len(batch)
    return caller.read(lambda _: reply.result(labels or (), sent), data)


def models(caller: Caller, deadline: Deadline) -> Call[list[ModelInfo]]:
    """One ListModels."""
    return caller.read(wire.read_models, (yield from caller.call(LIST_MODELS, b"", deadline)))


def model(caller: Caller, name: str, version: int, deadline: Deadline) -> Call[ModelDetails]:
    """One GetModel."""
    data = yield from caller.call(GET_MODEL, wire.model_request(name, version), deadline)
    return caller.read(wire.read_model, data)


def health(caller: Caller, service: str, deadline: Deadline) -> Call[str]:
    """One health check, without retries: "serving", "not serving", "service unknown" or "unknown"."""
    return wire.read_health(
        (yield from replace(caller, retries=0).call(HEALTH, wire.health_request(service), deadline))
    )


def healthy(caller: Caller, service: str, deadline: Deadline) -> Call[bool]:
    """True if the server says that it is serving; False if it does not, or nobody answers."""
    try:
        return (yield from health(caller, service, deadline)) == "serving"
    except (Unavailable, DeadlineExceeded):
        return False


def wait_ready(caller: Caller, service: str, deadline: Deadline) -> Call[None]:
    """Ask until the server is serving; Unavailable with the last answer when the time is over."""
    while True:
        try:
            status = yield from health(caller, service, deadline)
        except (Unavailable, DeadlineExceeded) as error:
            last: TopclassError = error
        else:
            if status == "serving":
                return
            last = Unavailable(
                f"the server at {', '.join(caller.balance.addresses)} is {status}", code=grpc.StatusCode.UNAVAILABLE
            )
        if deadline.remaining <= _HEALTH_PAUSE:
            raise _never_ready(last, deadline)
        yield Pause(_HEALTH_PAUSE)


def _never_ready(last: TopclassError, deadline: Deadline) -> Unavailable:
    return Unavailable(f"not ready after {deadline.timeout:g} s: {last}", last.message, grpc.StatusCode.UNAVAILABLE)
