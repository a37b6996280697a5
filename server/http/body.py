"""A request's body: read within its limits, and decompressed within the same."""

from __future__ import annotations

import asyncio
import time
import zlib
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive

from server.config import Config
from server.errors import InvalidInput, TooLarge, TooSlow

SLOWEST = 64 << 10  # bytes in a second
LINGER_SECONDS = 2  # in which a body that is too large is thrown away, so that its sender can read the answer
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class CallerLeftError(asyncio.CancelledError):
    """The caller closed the connection: nobody waits for an answer any more."""


@dataclass
class Body:
    """What came so far."""

    content: bytearray
    started: float


async def read(headers: Headers, receive: Receive, config: Config) -> bytearray:
    """The body as its sender meant it.

    TooLarge over max_message_bytes, compressed or not; TooSlow; InvalidInput where it cannot be decompressed;
    CallerLeftError where it ends in the middle.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in _WINDOW:
        raise InvalidInput(f"the body's content-encoding is {encoding[:64]!r}; it may be gzip or deflate, or none")
    most = config.max_message_bytes
    said = headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > most:
        if "expect" not in headers:
            await _throw_away(receive)
        raise _too_large(most)
    body, more = Body(bytearray(), time.monotonic()), True
    try:
        while more and len(body.content) <= most:
            more = await _more(receive, body, config.body_seconds)
    except TimeoutError as error:
        raise TooSlow(
            f"the body came too slowly: {len(body.content)} bytes in {time.monotonic() - body.started:.1f} s; it may "
            f"take {config.body_seconds:g} s, and a second more for each {SLOWEST} bytes"
        ) from error
    if len(body.content) > most:
        if more:
            await _throw_away(receive)
        raise _too_large(most)
    if encoding == "identity":
        return body.content
    return await asyncio.to_thread(_inflate, body.content, encoding, most)


async def _more(receive: Receive, body: Body, seconds: float) -> bool:
    """Adds the next bytes; whether there are more to come."""
    left = body.started + seconds + len(body.content) / SLOWEST - time.monotonic()
    async with asyncio.timeout(max(left, 0)):
        message = await receive()
    if message["type"] == "http.disconnect":
        raise CallerLeftError
    body.content += message.get("body", b"")
    return bool(message.get("more_body"))


async def _throw_away(receive: Receive) -> None:
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


def _inflate(content: bytearray, encoding: str, most: int) -> bytearray:
    stream = zlib.decompressobj(_WINDOW[encoding])
    try:
        plain = bytearray(stream.decompress(content, most + 1))
    except zlib.error as error:
        raise InvalidInput(f"the body is not {encoding}, as its content-encoding says: {error}") from error
    if len(plain) > most:
        raise _too_large(most)
    if not stream.eof or stream.unused_data:
        raise InvalidInput(f"the body is not one whole {encoding} stream, as its content-encoding says")
    return plain


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body has more than {most} bytes, the most that this server takes; send fewer rows at once")
