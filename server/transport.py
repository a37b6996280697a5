"""The grpcio transport: handlers of bytes on a port. It knows HTTP/2's ways of stopping, and nothing of models."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from server import reflection
from server.config import Config
from server.errors import StartError
from server.tls import credentials
from server.tokens import Refused, TokenInterceptor, Tokens, tell_nobody

log = logging.getLogger(__name__)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Handlers = dict[str, "grpc.RpcMethodHandler[bytes, bytes]"]
_OPEN_FILES = Path("/proc/self/fd")
GOODBYE_SECONDS = 0.2  # for answers on their way, and for clients to see that the connection ends


class GrpcTransport:
    """A grpc.aio server with health and reflection. `listen`, then `close`."""

    def __init__(
        self,
        config: Config,
        services: Mapping[str, Handlers],
        files: Sequence[FileDescriptor] = (),
        refused: Refused = tell_nobody,
    ):
        """services: full service name → method name → handler; files: those of them that have a pool of their own.

        refused: is told of calls without a token.

        `ready` is what grpc.health.v1 answers; `tokens`, who may call, None: everybody. StartError where a file with
        secrets is wrong.
        """
        self.port = 0
        self._config, self._services, self._files = config, services, files
        self._health = health.aio.HealthServicer()
        self._secure = credentials(config)
        self.tokens = Tokens(config.token_file) if config.token_file else None
        self._guards = _guards(config, self.tokens, refused)
        self.ready = self._leaving = False

    async def listen(self, at: str = "") -> None:
        """Binds and serves; StartError where the address cannot be had. at: another address than the config's."""
        self._server = grpc.aio.server(
            interceptors=self._guards,
            # The interceptor refuses at half of this, and counts it; those whose message is on its way it cannot see.
            maximum_concurrent_rpcs=2 * self._config.max_calls,
            options=[
                ("grpc.max_receive_message_length", self._config.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", self._config.max_streams),
                ("grpc.http.overload_protection", 0),  # it refuses calls at random before the limit
                # Only among siblings: else a second server on the same port starts, and takes half the calls.
                ("grpc.so_reuseport", int(self._config.lifeline >= 0)),
            ],
        )
        for name, handlers in self._services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._config.reflection:
            reflection.enable(self._server, (*self._services, health.SERVICE_NAME), self._files)
        address = at or self.address(self._config.grpc_port)
        try:
            self.port = self._bind(address)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}: is the port in use, or the address not this machine's?"
            ) from error
        await self._server.start()

    def _bind(self, address: str) -> int:
        if self._secure:
            return self._server.add_secure_port(address, self._secure)
        return self._server.add_insecure_port(address)

    def address(self, port: int | None = None) -> str:
        """host:port, with brackets around an IPv6 address."""
        return self._config.address(self.port if port is None else port)

    async def tell_health(self, ready: bool) -> None:
        """Sets what grpc.health.v1 answers, for the server as a whole and for each service."""
        self.ready = ready and not self._leaving
        for name in ("", *self._services):
            await self._health.set(name, SERVING if ready else NOT_SERVING)

    async def say_goodbye(self) -> None:
        """NOT_SERVING from now on, whatever is told later."""
        self.ready, self._leaving = False, True
        await self._health.enter_graceful_shutdown()

    async def close(self) -> None:
        """Ends all connections so that no caller sees anything but answers and UNAVAILABLE.

        To be called when no call is in progress and new ones are refused. grpcio's own stop answers a call that
        arrives in its first moment with CANCELLED, which no client retries. Half-closed sockets deliver what was
        written, and a call that comes too late ends as UNAVAILABLE, on its client, by itself.
        """
        await half_close(self.port)
        await self.end()

    async def end(self) -> None:
        """Ends what is left, at once."""
        await self._server.stop(0)


async def half_close(port: int) -> None:
    """Ends this process's TCP connections on a local port, when what was written is delivered. See GrpcTransport."""
    listeners, connections = _sockets(port)
    _shut(listeners, socket.SHUT_RDWR)
    await asyncio.sleep(GOODBYE_SECONDS / 2)
    _shut(connections + _sockets(port)[1], socket.SHUT_WR)
    await asyncio.sleep(GOODBYE_SECONDS / 2)


def _guards(config: Config, tokens: Tokens | None, refused: Refused) -> list[TokenInterceptor]:
    if tokens is None:
        return []
    if not config.tls_certificate and not is_loopback(config.host):
        log.warning(
            "tokens cross the network in the clear: the server listens on %s without TLS; give --tls-certificate "
            "and --tls-key, or let only a proxy that has TLS reach it",
            config.host,
        )
    return [TokenInterceptor(tokens, config.open_health, refused)]


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sockets(port: int) -> tuple[list[socket.socket], list[socket.socket]]:
    """Duplicates of this process's TCP sockets on a local port: those that listen, and those connected. Linux only."""
    listeners, connections = list[socket.socket](), list[socket.socket]()
    for entry in list(_OPEN_FILES.iterdir()) if _OPEN_FILES.is_dir() else ():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if stat.S_ISSOCK(entry.stat().st_mode):
                found = socket.socket(fileno=os.dup(int(entry.name)))
                internet = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
                if internet and found.getsockname()[1] == port:
                    listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    (listeners if listening else connections).append(found)
                else:
                    found.close()
    return listeners, connections


def _shut(sockets: Sequence[socket.socket], how: int) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):  # the peer was faster
            each.shutdown(how)
        each.close()
