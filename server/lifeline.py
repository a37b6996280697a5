"""A server process's end of the socket to its supervisor, without whom it does not go on."""

from __future__ import annotations

import asyncio
import contextlib
import socket


class Lifeline:
    """A process's end of the socket to its supervisor."""

    def __init__(self, descriptor: int):
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)

    def tell_ready(self) -> None:
        """Says that this process answers."""
        with contextlib.suppress(OSError):  # the supervisor is gone; `lost` says so too
            self._socket.send(b"r")

    async def lost(self) -> None:
        """Returns when the supervisor wants this process to stop, or is dead."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_recv(self._socket, 1)
