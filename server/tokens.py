"""Bearer tokens: who sends none of them in `authorization` gets UNAUTHENTICATED, whatever the method."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from server.errors import StartError
from server.watched import Watched

log = logging.getLogger(__name__)
HEALTH = "/grpc.health.v1.Health/"
# Never which part was wrong: that the header was there, or that a token was nearly right.
WORDS = "this server wants a token: send the metadata 'authorization: Bearer TOKEN' with one that it knows"
Refused = Callable[[str, str], None]  # is told the method and the status of a call that nobody may make


def tell_nobody(_method: str, _status: str) -> None:
    """Where calls that are refused are not counted."""


class Tokens:
    """The tokens of a file: one a line, `#` begins a comment line. Read again when the file changes."""

    def __init__(self, path: Path):
        """StartError where the file cannot be read or holds no token."""
        self._watched = Watched([path], lambda: _read(path), self._failed)

    def know(self, values: Iterable[str]) -> bool:
        """True if these values of `authorization` are one, `Bearer` and a known token. Takes as long for all."""
        [value, *others] = [*values] or [""]
        scheme, _, token = value.partition(" ")
        sent, known = _digest(token.strip()), False
        for digest in self._watched.value():
            known |= hmac.compare_digest(sent, digest)
        return known and not others and scheme.lower() == "bearer"

    @staticmethod
    def _failed(error: Exception) -> None:
        log.error("tokens: the file changed, and the tokens from before stay in force: %s", error)


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Stands before every method of a grpc.aio server."""

    def __init__(self, tokens: Tokens, open_health: bool, refused: Refused):
        """refused: is told the name of the method and the status."""
        self._tokens, self._open_health, self._refused = tokens, open_health, refused

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The method's own handler for who may call it, and a refusal for who may not."""
        if self._open_health and handler_call_details.method.startswith(HEALTH):
            return await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata or ()
        if self._tokens.know(str(value) for key, value in metadata if key == "authorization"):
            return await continuation(handler_call_details)
        self._refused(str(handler_call_details.method).rpartition("/")[2], grpc.StatusCode.UNAUTHENTICATED.name)
        return _REFUSAL


async def _refuse(_messages: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, WORDS)


# Fits a method of any kind: it ends before a message is read.
_REFUSAL: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(_refuse)


def _read(path: Path) -> list[bytes]:
    """The digests of the tokens. No fault says what a line holds."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise StartError(f"cannot read the token file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartError(f"the token file {path} is not text in UTF-8") from error
    digests = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if not token.isascii() or not token.isprintable() or " " in token:
            raise StartError(
                f"line {number} of the token file {path} is no token: it has a space or is not plain ASCII"
            )
        digests.append(_digest(token))
    if not digests:
        raise StartError(
            f"the token file {path} holds no token; write one a line, such as `openssl rand -hex 32` gives"
        )
    log.info("tokens: %d in %s", len(digests), path)
    return digests


def _digest(token: str) -> bytes:
    """Of one length for all, so that comparing tells nothing of a token's own."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
