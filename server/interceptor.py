"""The one place where a call gets its status, its log line, its time and its trace. Handlers raise; this tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import grpc

from server.errors import QueueFull, ServingError, Unavailable
from server.logs import AccessLog
from server.metrics import Metrics, names
from server.tracing import CARRIED, Trace, Tracing

log = logging.getLogger("server.access")
REQUEST_ID = "x-request-id"
# What a caller may choose: no spaces, quotes or line ends, so that it can stand anywhere.
_GOOD_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_WANTED = {REQUEST_ID, *CARRIED}
# Seconds by which a caller's deadline may pass before ours: the way of its request. It then cancels as any that leaves.
HEAD_START = 0.1
DRAIN_LOOK_SECONDS = 0.005


@dataclass
class Call:
    """What a handler may know of its call, whatever transport brought it."""

    method: str
    deadline: float = math.inf  # of time.monotonic()
    rows: int = 0
    model: str = ""  # what answers it, as the repository names it; empty while that is not known
    version: str = ""
    carried: dict[str, str] = field(default_factory=dict)  # of its metadata or headers, what `carried` picks
    trace: Trace | None = None

    @cached_property
    def request_id(self) -> str:
        """The caller's own name for it, where that is one; else one that is made here."""
        given = self.carried.get(REQUEST_ID, "")
        return given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)

    def message(self) -> Call:
        """A call for one message of it, which is a stream; of the same request id."""
        call = Call(self.method, self.deadline, carried={REQUEST_ID: self.request_id})
        if self.trace is not None:
            call.trace = self.trace.message(self.method)
        return call

    def end(self, status: str) -> None:
        """Ends its trace, which there is."""
        if self.trace is not None:
            self.trace.end(status, self.told())

    def told(self) -> dict[str, str]:
        """What log line and trace tell of it."""
        protocol, _ = names(self.method)
        told = {"protocol": protocol, "model": self.model, "version": self.version, "request_id": self.request_id}
        return {key: value for key, value in told.items() if value}


def carried(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Of metadata or headers, what a call is told by: its request id and its caller's trace."""
    return {key: str(value) for key, value in pairs if key in _WANTED}


def told(error: Exception, call: Call) -> ServingError:
    """The fault that the caller may see: ours in full; of any other only a request id, the trace goes to the log."""
    if isinstance(error, ServingError):
        return error
    log.error("%s: internal error, request id %s", call.method, call.request_id, exc_info=error)
    return ServingError(f"internal error; the server's log has it under request id {call.request_id}")


AtOnce = Callable[[bytes, Call], bytes | None]
Unary = Callable[[bytes, Call], Awaitable[bytes]]
Tell = Callable[[ServingError], Awaitable[None]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


class Interceptor:
    """Wraps handlers of bytes for a transport, and counts the calls in progress, which other threads have too."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
        access: AccessLog | None = None,
        most: int = 4096,
    ) -> None:
        """most: calls in progress; more are refused."""
        self._metrics, self._tracing, self._access = metrics, tracing, access or AccessLog(0)
        self._most, self._methods = most, set[str]()
        self.in_progress = 0
        self.refusing = False
        self._lock = threading.Lock()

    async def drain(self) -> None:
        """Refuses every new call from now on; returns when those in progress are finished."""
        with self._lock:
            self.refusing = True
        while self.in_progress:  # noqa: ASYNC110 - other threads finish calls too
            await asyncio.sleep(DRAIN_LOOK_SECONDS)

    def begin(self, calls: int = 1) -> int:
        """How many of so many calls may begin; they count as in progress until `end`. From any thread."""
        with self._lock:
            taken = 0 if self.refusing else max(0, min(calls, self._most - self.in_progress))
            self.in_progress += taken
        return taken

    def end(self, calls: int = 1) -> None:
        """So many calls have their status."""
        with self._lock:
            self.in_progress -= calls

    def ended(self, call: Call, status: str, started: Sequence[float]) -> None:
        """Tells metrics and log of calls that have the same status; started: of time.perf_counter(), of each."""
        if self._metrics:
            self._metrics.requests(call.method, call.model, call.version, status, started)
        now = time.perf_counter()
        for each in started:
            self._access.ended(status, now - each, call.method, call.told)

    def unary(self, method: str, handler: Unary, at_once: AtOnce | None = None) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of one message. at_once: answers what needs no waiting; None for what does, or is wrong."""

        self._methods.add(method)

        async def answer(message: bytes, context: Any) -> bytes:
            call = _call(method, context)
            if at_once and self._tracing is None and not self.refusing:
                started = time.perf_counter()
                reply = at_once(message, call)
                if reply is not None:
                    self.ended(call, "OK", [started])
                    return reply
            async with self.watched(call, partial(_abort, context, call)):
                return await handler(message, call)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(answer)

    def stream(self, method: str, handler: Stream) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of a stream of messages in both directions."""

        self._methods.add(method)

        async def answer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = _call(method, context)
            async with self.watched(call, partial(_abort, context, call), of_many=True):
                async for reply in handler(messages, call):
                    yield reply

        return grpc.stream_stream_rpc_method_handler(answer)

    @contextlib.asynccontextmanager
    async def watched(self, call: Call, tell: Tell, of_many: bool = False) -> AsyncIterator[None]:
        """Around one call of any transport: refuses it, or counts it, gives a fault its status, writes the log line.

        tell: sends a fault to the caller. of_many: its messages are counted one by one, by who answers them; the call
        as such only where it is refused.
        """
        started = time.perf_counter()
        status = "CANCELLED"
        with self._lock:
            self.in_progress += 1
            refusing, too_many = self.refusing, self.in_progress > self._most
        if self._tracing is not None:
            call.trace = self._tracing.begin(call.method, call.carried)
        try:
            if refusing:
                raise Unavailable("the server is stopping; try again, there or elsewhere")
            if too_many:
                raise QueueFull(
                    f"{self._most} calls are in progress, the most that this server takes; try again",
                    retry_after_ms=1000,
                )
            yield
            status = "OK"
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            fault = told(error, call)
            status = fault.code.name
            try:
                await tell(fault)
            finally:
                del fault  # its trace leads here: a cycle that would keep the request in memory for long
        finally:
            self.end()
            counts = not (of_many and status in ("OK", "CANCELLED"))
            if status == "CANCELLED" and time.monotonic() >= call.deadline - HEAD_START:
                status = "DEADLINE_EXCEEDED"  # that is how grpcio ends it
            if self._metrics and counts:
                self._metrics.request(call.method, call.model, call.version, status, started)
            if call.trace is not None:
                call.end(status)
            self._access.ended(status, time.perf_counter() - started, call.method, call.told)

    def refused(self, method: str, status: str) -> None:
        """A call was refused before its handler. What has no such name is told without one: callers make names up."""
        call = Call(method if method in self._methods or not names(method)[1] else "")
        if self._metrics:
            self._metrics.request(call.method, "", "", status, time.perf_counter())
        self._access.ended(status, 0.0, call.method, call.told)


def _call(method: str, context: Any) -> Call:
    remaining = context.time_remaining()
    deadline = math.inf if remaining is None else time.monotonic() + remaining
    call = Call(method, deadline, carried=carried(context.invocation_metadata() or ()))
    context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
    return call


def trailers(fault: ServingError, call: Call) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of a call that ends with a fault."""
    metadata = [(REQUEST_ID, call.request_id)]
    if fault.row is not None:
        metadata.append(("topclass-row", str(fault.row)))
    if fault.retry_after_ms:
        metadata.append(("grpc-retry-pushback-ms", str(fault.retry_after_ms)))
    return tuple(metadata)


async def _abort(context: Any, call: Call, fault: ServingError) -> None:
    try:
        await context.abort(fault.code, str(fault), trailers(fault, call))
    except grpc.aio.AbortError:
        raise  # that is how abort ends
    except Exception as error:
        if context.done():  # the caller left, or its deadline passed, while it was being told
            raise asyncio.CancelledError from error
        raise
