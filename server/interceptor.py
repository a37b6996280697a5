"""The one place where a call gets its status, its log line and its time. Handlers raise; this tells."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from server.errors import ServingError, Unavailable

log = logging.getLogger("server.access")


@dataclass
class Call:
    """What a handler may know of its call, whatever transport brought it."""

    method: str
    deadline: float = math.inf  # of time.monotonic()
    rows: int = 0


@dataclass
class Gate:
    """Whether new calls are let in. Closed while the server drains."""

    open: bool = True

    def check(self) -> None:
        """Unavailable once closed."""
        if not self.open:
            raise Unavailable("the server is stopping; try again, there or elsewhere")


def told(error: Exception, call: Call) -> ServingError:
    """The fault that the caller may see: ours in full; of any other only a request id, the trace goes to the log."""
    if isinstance(error, ServingError):
        return error
    request_id = secrets.token_hex(8)
    log.error("%s: internal error, request id %s", call.method, request_id, exc_info=error)
    return ServingError(f"internal error; the server's log has it under request id {request_id}")


Unary = Callable[[bytes, Call], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


class Interceptor:
    """Wraps handlers of bytes for grpc.aio."""

    def __init__(self, gate: Gate):
        self._gate = gate

    def unary(self, method: str, handler: Unary) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of one message."""

        async def answer(message: bytes, context: Any) -> bytes:
            call = _call(method, context)
            started = time.perf_counter()
            status = "CANCELLED"
            try:
                self._gate.check()
                reply = await handler(message, call)
                status = "OK"
                return reply
            except asyncio.CancelledError:
                raise
            except Exception as error:
                fault = told(error, call)
                status = fault.code.name
                await _abort(context, fault)
                raise AssertionError("abort raises") from error
            finally:
                _access(call, status, started)

        return grpc.unary_unary_rpc_method_handler(answer)

    def stream(self, method: str, handler: Stream) -> grpc.RpcMethodHandler[bytes, bytes]:
        """A handler of a stream of messages in both directions."""

        async def answer(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            call = _call(method, context)
            started = time.perf_counter()
            status = "CANCELLED"
            try:
                self._gate.check()
                async for reply in handler(messages, call):
                    yield reply
                status = "OK"
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except Exception as error:
                fault = told(error, call)
                status = fault.code.name
                await _abort(context, fault)
            finally:
                _access(call, status, started)

        return grpc.stream_stream_rpc_method_handler(answer)


def _call(method: str, context: Any) -> Call:
    remaining = context.time_remaining()
    return Call(method, math.inf if remaining is None else time.monotonic() + remaining)


async def _abort(context: Any, fault: ServingError) -> None:
    metadata = []
    if fault.row is not None:
        metadata.append(("topclass-row", str(fault.row)))
    if fault.retry_after_ms:
        metadata.append(("grpc-retry-pushback-ms", str(fault.retry_after_ms)))
    await context.abort(fault.code, str(fault), tuple(metadata))


def _access(call: Call, status: str, started: float) -> None:
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s %.3f ms", call.method, status, (time.perf_counter() - started) * 1e3)
