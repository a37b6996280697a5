"""Where a client connects, and how: what the sync and the asyncio client have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

# A scheme that grpc resolves (dns:///, unix:, ipv4:, ipv6:, …), or host:port.
_ADDRESS = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds):.+|(\[[0-9a-fA-F:.%]+\]|[^:/\s]+):\d{1,5}")

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),  # the server limits what is sent; the answer belongs to the caller
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # the retries are ours: they know what is safe and keep to one deadline
    # Finds a dead peer behind a silent network in 80 s; servers allow a ping a minute while calls are in progress.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # After a failed connection grpc refuses calls until its own pause is over: let it be no longer than ours.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


@dataclass(frozen=True)
class Target:
    """An address, and how to reach it; `credentials` are None where the connection is not encrypted."""

    address: str
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, address: str, root_certificates: bytes | str | Path | None, token: str | None) -> Target:
        """The target; ValueError for an address that is none, OSError where the certificates cannot be read."""
        if not _ADDRESS.fullmatch(address):
            raise ValueError(f"the address is {address!r}; expected HOST:PORT, such as 127.0.0.1:8001")
        if token and not (token.isascii() and token.isprintable()):  # a line break at the end of a file, mostly
            raise ValueError("the token holds a character that cannot be sent; expected printable ASCII, in one line")
        if isinstance(root_certificates, (str, Path)):
            root_certificates = Path(root_certificates).read_bytes()
        return cls(
            address=address,
            credentials=grpc.ssl_channel_credentials(root_certificates) if root_certificates else None,
            metadata=(("authorization", f"Bearer {token}"),) if token else (),
        )
