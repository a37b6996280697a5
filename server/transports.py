"""Which transport a server gets, and why: `native` where it keeps every promise, else `grpcio`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from google.protobuf.descriptor import FileDescriptor

from server import native
from server.config import Config
from server.errors import StartError
from server.express import Express
from server.interceptor import Interceptor
from server.native import NativeTransport
from server.transport import GrpcTransport, Handlers, is_loopback

log = logging.getLogger(__name__)
# Of docs/operate.md, by pygrpc-native 0.5.0. While there is one, who wants it must say so by name.
BROKEN_PROMISES = (
    "ends connections in a rolling restart",
    "cannot send grpc-retry-pushback-ms",
    "holds a message in memory before it knows its size",
)
Transport = GrpcTransport | NativeTransport


def choose(
    config: Config,
    services: Mapping[str, Handlers],
    files: Sequence[FileDescriptor],
    express: Express,
    calls: Interceptor,
    fast: Sequence[tuple[str, str]],
) -> Transport:
    """The transport that `config.transport` says, not yet listening; StartError where it cannot be had."""
    name, why = chosen(config)
    log.info("transport %s%s", name, f": {why}" if why else "")
    if name == "grpcio":
        return GrpcTransport(config, services, files, calls.refused)
    if not is_loopback(config.host):
        log.warning(
            "the native transport holds a message in memory before it knows its size: let only callers that you trust "
            "reach %s, or use --transport grpcio, which refuses what is over --max-message-bytes unread",
            config.host,
        )
    return NativeTransport(config, services, files, express, calls, fast)


def chosen(config: Config) -> tuple[str, str]:
    """`grpcio` or `native`, and why, if there was a choice; StartError where `native` was asked for and cannot be."""
    cannot = _why_not_native(config)
    if config.transport == "native" and cannot:
        raise StartError(f"--transport native was asked for, but {cannot}; use --transport auto or grpcio")
    if config.transport != "auto":
        return config.transport, ""
    if not cannot and BROKEN_PROMISES:
        cannot = f"native {', '.join(BROKEN_PROMISES)}; where you can live with that, use --transport native"
    return ("grpcio", cannot) if cannot else ("native", "it is the faster, and keeps every promise here")


def _why_not_native(config: Config) -> str:
    if not native.AVAILABLE:
        return "pygrpc-native is not installed (server/requirements.txt)"
    if config.tls_certificate:
        return "native has no TLS"
    if config.token_file:
        return "native checks no tokens"
    return ""
