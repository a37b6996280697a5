"""The one place where a call gets its status, its log line and its time. Handlers raise; this tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from server.errors import ServingError, Unavailable
from server.metrics import Metrics

log = logging.getLogger("server.access")
# Seconds by which a caller's deadline may pass before ours: the way of its request. It then cancels as any that leaves.
HEAD_START = 0.1


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


Unary = Callable[[bytes, Call], Awaitable[bytes]]
Tell = Callable[[ServingError], Awaitable[None]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


class Interceptor:
    """Wraps handlers of bytes for grpc.aio, and counts the calls in progress, of other transports too."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        self.in_progress = 0
        self.refusing = False
        self._idle = asyncio.Event()

    async def drain(self) -> None:
        """Refuses every new call from now on; returns when those in progress are finished."""
        self.refusing = True
        while self.in_progress:
            self._idle.clear()
            await self._idle.wait()

    def unary(self, method: str, handler: Unary) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of one message."""

        async def answer(message: bytes, context: Any) -> bytes:
            call = _call(method, context)
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
        self.in_progress += 1
        try:
            if self.refusing:
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
            self.in_progress -= 1
            self._idle.set()
            if self._metrics and not (of_many and status in ("OK", "CANCELLED")):
                if status == "CANCELLED" and time.monotonic() >= call.deadline - HEAD_START:
                    status = "DEADLINE_EXCEEDED"  # that is how grpcio ends it
                self._metrics.request(call.method, call.model, call.version, status, started)
            _access(call, status, started)


def _call(method: str, context: Any) -> Call:
    remaining = context.time_remaining()
    return Call(method, math.inf if remaining is None else time.monotonic() + remaining)


async def _abort(context: Any, fault: ServingError) -> None:
    metadata = []
    if fault.row is not None:
        metadata.append(("topclass-row", str(fault.row)))
    if fault.retry_after_ms:
        metadata.append(("grpc-retry-pushback-ms", str(fault.retry_after_ms)))
    try:
        await context.abort(fault.code, str(fault), tuple(metadata))
    except grpc.aio.AbortError:
        raise  # that is how abort ends
    except Exception as error:
        if context.done():  # the caller left, or its deadline passed, while it was being told
            raise asyncio.CancelledError from error
        raise


def _access(call: Call, status: str, started: float) -> None:
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s %.3f ms", call.method, status, (time.perf_counter() - started) * 1e3)
