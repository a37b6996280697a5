"""TCP ports that are taken before anyone listens on them."""

from __future__ import annotations

import socket

from server.config import Config
from server.errors import StartError

BACKLOG = 128


def bound(config: Config, port: int, *, shared: bool = False, listening: bool = True) -> socket.socket:
    """A socket that has the port of config.host; StartError where it cannot be had.

    port: 0 for any free one. shared: other sockets of the same user may have it too (SO_REUSEPORT). listening: only
    who listens keeps strangers out.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            config.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(where)
            if listening:
                taken.listen(BACKLOG)
        except BaseException:
            taken.close()
            raise
    except OSError as error:
        raise StartError(
            f"cannot listen on {config.address(port)}: is the port in use, or the address not this machine's?"
        ) from error
    return taken
