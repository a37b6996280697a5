"""Where a client connects, and how: what the sync and the asyncio client have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

# A scheme that grpc resolves (dns:///, unix:, ipv4:, ipv6:, …), or host:port.
_ADDRESS = re.compile(r"(dns|unix|unix-abstract|ipv4|ipv6|vsock|xds):.+|(\[[0-9a-fA-F:.%]+\]|[^:/\s]+):\d{1,5}")
_MOST_CHANNELS = 64

_OPTIONS: list[tuple[str, Any]] = [
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
# A name may stand for many servers: calls go to all of them in turn, one that is away is left and taken again.
_ROUND_ROBIN: list[tuple[str, Any]] = [
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.dns_min_time_between_resolutions_ms", 10_000),
]
# With others to go to, a connection that is not made in 3 s counts as failed; grpc itself waits 20 s.
_IMPATIENT: list[tuple[str, Any]] = [("grpc.min_reconnect_backoff_ms", 3_000)]
# Channels of equal options share one connection unless they are told not to.
_OWN_CONNECTION: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Target:
    """Addresses, and how to reach them; `credentials` are None where the connection is not encrypted."""

    addresses: tuple[str, ...]
    channels: int
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls,
        address: str | Sequence[str],
        channels: int,
        root_certificates: bytes | str | Path | None,
        token: str | None,
    ) -> Target:
        """The target; ValueError for an address that is none, OSError where the certificates cannot be read."""
        addresses = (address,) if isinstance(address, str) else tuple(address)
        if not addresses:
            raise ValueError("there is no address; expected HOST:PORT, such as 127.0.0.1:8001, or several in a list")
        for each in addresses:
            if not isinstance(each, str) or not _ADDRESS.fullmatch(each):
                raise ValueError(f"the address is {each!r}; expected HOST:PORT, such as 127.0.0.1:8001")
        if len(set(addresses)) < len(addresses):
            twice = next(each for each in addresses if addresses.count(each) > 1)
            raise ValueError(f"the address {twice} is there twice; for several connections to it say channels=2")
        if not 1 <= channels <= _MOST_CHANNELS:
            raise ValueError(f"channels is {channels}; it must be from 1 to {_MOST_CHANNELS}")
        if token and not (token.isascii() and token.isprintable()):  # a line break at the end of a file, mostly
            raise ValueError("the token holds a character that cannot be sent; expected printable ASCII, in one line")
        if isinstance(root_certificates, (str, Path)):
            root_certificates = Path(root_certificates).read_bytes()
        return cls(
            addresses=addresses,
            channels=channels,
            credentials=grpc.ssl_channel_credentials(root_certificates) if root_certificates else None,
            metadata=(("authorization", f"Bearer {token}"),) if token else (),
        )

    def options(self, address: str) -> list[tuple[str, Any]]:
        """What a channel to this address is made with."""
        return [
            *_OPTIONS,
            *(_ROUND_ROBIN if address.startswith("dns:") else []),
            *(_IMPATIENT if len(self.addresses) > 1 else []),
            *(_OWN_CONNECTION if self.channels > 1 else []),
        ]
