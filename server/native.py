"""The native transport: HTTP/2 by pygrpc-native, outside the interpreter lock. The only file that knows that package.

It takes the methods that must be fast. All others, streams, health and reflection it hands to the grpcio transport, on
a Unix socket that only this user can reach.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc.aio import AbortError

from server.config import Config
from server.errors import ServingError, StartError
from server.express import Arrival, Express
from server.interceptor import Call, Interceptor, trailers
from server.transport import GrpcTransport, Handlers, half_close

try:
    import pygrpc_native
except ImportError:  # the server is fine without it, and says so: see server/transports.py
    AVAILABLE = False
else:
    AVAILABLE = True

log = logging.getLogger(__name__)
MOST_EVENTS = 256  # taken at once
IO_THREADS = 1  # a second one only takes turns with the first, where the callers' processes want the other cores
Metadata = Sequence[tuple[str, str | bytes]]


class NativeTransport:
    """The same as GrpcTransport, for a server without TLS and tokens."""

    tokens = None

    def __init__(
        self,
        config: Config,
        services: Mapping[str, Handlers],
        files: Sequence[FileDescriptor],
        express: Express,
        calls: Interceptor,
        fast: Sequence[tuple[str, str]],
    ):
        """fast: service and method of those that are taken here; the rest is as for GrpcTransport."""
        self.port = 0
        self._config, self._express, self._calls = config, express, calls
        self._behind = GrpcTransport(config, services, files, calls.refused)
        self._names = [method for _, method in fast]
        self._handlers: dict[str, Any] = {method: services[service][method].unary_unary for service, method in fast}
        self._paths = [f"/{service}/{method}" for service, method in fast]
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._waiting, self._lock = 0, threading.Lock()  # arrived, and not yet counted by their handler

    @property
    def ready(self) -> bool:
        """What grpc.health.v1 answers."""
        return self._behind.ready

    async def listen(self) -> None:
        """Binds and serves; StartError where the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        self._folder = tempfile.mkdtemp(prefix="topclass-grpc-")  # which only this user may enter
        path = f"{self._folder}/grpcio"
        try:
            await self._behind.listen(f"unix:{path}")
            self._front = self._open(path)
        except BaseException:
            await self._behind.end()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.port = self._front.bound_port
        self._express.answers_to(_Replies(self._front))
        self._front.start()
        self._thread = threading.Thread(target=self._receive, name="receiver", daemon=True)
        self._thread.start()

    def _open(self, behind: str) -> Any:
        address = self.address(self._config.grpc_port)
        try:
            front = pygrpc_native.NativeGrpcFront(
                address,
                [(path, False) for path in self._paths],
                io_threads=IO_THREADS,
                call_details=True,
                keepalive_permit_without_calls=False,  # as grpcio does
                max_concurrent_streams=self._config.max_streams,
                reuse_port=self._config.lifeline >= 0,  # only among siblings, as the other transport
            )
        except (OSError, ValueError) as error:
            raise StartError(
                f"cannot listen on {address}: is the port in use, or the address not this machine's?"
            ) from error
        front.set_fallback(behind)
        return front

    def address(self, port: int | None = None) -> str:
        """host:port, with brackets around an IPv6 address."""
        return self._config.address(self.port if port is None else port)

    async def tell_health(self, ready: bool) -> None:
        """See GrpcTransport."""
        await self._behind.tell_health(ready)

    async def say_goodbye(self) -> None:
        """See GrpcTransport."""
        await self._behind.say_goodbye()

    async def close(self) -> None:
        """See GrpcTransport: no caller sees anything but answers and UNAVAILABLE."""
        logging.getLogger("pygrpc_native").setLevel(logging.ERROR)  # it would warn that it can accept no more
        await half_close(self.port)
        await self._loop.run_in_executor(None, self._front.close)
        await self._loop.run_in_executor(None, self._thread.join)
        for task in list(self._tasks.values()):  # those that the drain did not wait for
            task.cancel()
        await self._behind.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- on the receiving thread ----

    def _receive(self) -> None:
        while (events := self._front.recv_batch_details(MOST_EVENTS)) is not None:
            try:
                self._take(events)
            except Exception:  # the thread must not end because of one burst
                log.exception("a burst of %d events failed", len(events))
                for event in events:
                    self._front.fail(event[1], grpc.StatusCode.INTERNAL.value[0], "internal error")

    def _take(self, events: Sequence[Any]) -> None:
        now, started = time.monotonic(), time.perf_counter()
        gone = {call_id for kind, call_id, *_ in events if kind == pygrpc_native.EVENT_CANCEL}
        arrivals = []
        for kind, call_id, method, message, _, details in events:
            if kind == pygrpc_native.EVENT_CANCEL or call_id in gone:
                continue
            if len(message) > self._config.max_message_bytes:
                self._too_large(call_id, len(message))
                continue
            metadata, _, remaining = details
            deadline = math.inf if remaining is None else now + remaining
            arrivals.append(Arrival(call_id, self._names[method], message, deadline, metadata, started))
        left = self._express.take(arrivals)
        leaving = [call_id for call_id in gone if not self._express.leave(call_id)]
        if left:
            left = self._with_room(left)
        if left or leaving:
            try:
                self._loop.call_soon_threadsafe(self._hand_over, left, leaving)
            except RuntimeError:  # the loop is closed, without a stop
                self._front.close()

    def _too_large(self, call_id: int, size: int) -> None:
        words = f"SERVER: Received message larger than max ({size} vs. {self._config.max_message_bytes})"
        self._front.fail(call_id, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], words)

    def _with_room(self, arrivals: list[Arrival]) -> list[Arrival]:
        """As grpcio: one call more than the limit is refused before any handler."""
        with self._lock:
            room = max(0, self._config.max_calls - self._calls.in_progress - self._waiting)
            self._waiting += min(room, len(arrivals))
        for arrival in arrivals[room:]:
            self._front.fail(
                arrival.call_id, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "Concurrent RPC limit exceeded!"
            )
        return arrivals[:room]

    # ---- on the event loop ----

    def _hand_over(self, arrivals: Sequence[Arrival], leaving: Sequence[int]) -> None:
        for arrival in arrivals:
            task = self._loop.create_task(self._handle(arrival))
            self._tasks[arrival.call_id] = task
        for call_id in leaving:
            if call_id in self._tasks:
                self._tasks[call_id].cancel()

    async def _handle(self, arrival: Arrival) -> None:
        context = Context(self._front, arrival)
        with self._lock:
            self._waiting -= 1
        try:
            reply = await self._handlers[arrival.method](arrival.message, context)
            self._front.respond(arrival.call_id, reply, None, told(context.trailing))
        except AbortError:
            pass  # it is told
        except Exception:
            log.exception("%s failed outside its handler", arrival.method)
            self._front.fail(arrival.call_id, grpc.StatusCode.INTERNAL.value[0], "internal error")
        finally:
            context.over = True
            self._tasks.pop(arrival.call_id, None)


def told(trailing: Metadata) -> Metadata:
    """What this package lets us send: names that begin with grpc- are its own, so ours take another beginning."""
    return tuple((key.replace("grpc-", "topclass-", 1) if key.startswith("grpc-") else key, v) for key, v in trailing)


class _Replies:
    """The front, as what is answered needs it."""

    def __init__(self, front: Any):
        self._front, self.respond = front, front.respond

    def refuse(self, call_id: int, fault: ServingError, call: Call) -> None:
        """Ends a call with the status, the words and the trailing metadata of a fault."""
        self._front.fail(call_id, fault.code.value[0], str(fault), told(trailers(fault, call)))


class Context:
    """What the interceptor wants of grpc.aio's context."""

    def __init__(self, front: Any, arrival: Arrival):
        self._front, self._arrival, self.over = front, arrival, False
        self.trailing: Metadata = ()

    def time_remaining(self) -> float | None:
        """Seconds before the deadline; None without one."""
        deadline = self._arrival.deadline
        return None if deadline == math.inf else max(0.0, deadline - time.monotonic())

    def invocation_metadata(self) -> Metadata:
        """What the caller sent beside the message."""
        return self._arrival.metadata

    def set_trailing_metadata(self, trailing: Metadata) -> None:
        """What follows the answer."""
        self.trailing = trailing

    def done(self) -> bool:
        """True when the call has its status."""
        return self.over

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> None:
        """Ends the call with a status; raises AbortError, as grpc.aio does."""
        self._front.fail(self._arrival.call_id, code.value[0], details, told(trailing))
        raise AbortError("told")
