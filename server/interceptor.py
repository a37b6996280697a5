"""The one place where a call gets its status, its log line and its time. Handlers raise; this tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from server.errors import ServingError, Unavailable
from server.metrics import Metrics

log = logging.getLogger("server.access")
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


def told(error: Exception, call: Call) -> ServingError:
    """The fault that the caller may see: ours in full; of any other only a request id, the trace goes to the log."""
    if isinstance(error, ServingError):
        return error
    request_id = secrets.token_hex(8)
    log.error("%s: internal error, request id %s", call.method, request_id, exc_info=error)
    return ServingError(f"internal error; the server's log has it under request id {request_id}")


AtOnce = Callable[[bytes, Call], bytes | None]
Unary = Callable[[bytes, Call], Awaitable[bytes]]
Tell = Callable[[ServingError], Awaitable[None]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


class Interceptor:
    """Wraps handlers of bytes for a transport, and counts the calls in progress, which other threads have too."""

    def __init__(self, metrics: Metrics | None = None, most: int = 4096) -> None:
        """most: calls in progress; `begin` takes no more."""
        self._metrics, self._most = metrics, most
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
        if log.isEnabledFor(logging.DEBUG):
            for each in started:
                _access(call, status, each)

    def unary(self, method: str, handler: Unary, at_once: AtOnce | None = None) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of one message. at_once: answers what needs no waiting; None for what does, or is wrong."""

        async def answer(message: bytes, context: Any) -> bytes:
            call = _call(method, context)
            if at_once and not self.refusing:
                started = time.perf_counter()
                reply = at_once(message, call)
                if reply is not None:
                    self.ended(call, "OK", [started])
                    return reply
            async with self.watched(call, partial(_abort, context)):
                return await handler(message, call)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(answer)

    def stream(self, method: str, handler: Stream) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of a stream of messages in both directions."""

        async def answer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = _call(method, context)
            async with self.watched(call, partial(_abort, context), of_many=True):
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
            refusing = self.refusing
        try:
            if refusing:
                raise Unavailable("the server is stopping; try again, there or elsewhere")
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
            if self._metrics and not (of_many and status in ("OK", "CANCELLED")):
                if status == "CANCELLED" and time.monotonic() >= call.deadline - HEAD_START:
                    status = "DEADLINE_EXCEEDED"  # that is how grpcio ends it
                self._metrics.request(call.method, call.model, call.version, status, started)
            _access(call, status, started)


def _call(method: str, context: Any) -> Call:
    remaining = context.time_remaining()
    return Call(method, math.inf if remaining is None else time.monotonic() + remaining)


def trailers(fault: ServingError) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of a fault."""
    metadata = []
    if fault.row is not None:
        metadata.append(("topclass-row", str(fault.row)))
    if fault.retry_after_ms:
        metadata.append(("grpc-retry-pushback-ms", str(fault.retry_after_ms)))
    return tuple(metadata)


async def _abort(context: Any, fault: ServingError) -> None:
    try:
        await context.abort(fault.code, str(fault), trailers(fault))
    except grpc.aio.AbortError:
        raise  # that is how abort ends
    except Exception as error:
        if context.done():  # the caller left, or its deadline passed, while it was being told
            raise asyncio.CancelledError from error
        raise


def _access(call: Call, status: str, started: float) -> None:
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s %.3f ms", call.method, status, (time.perf_counter() - started) * 1e3)
