"""What can go wrong with a call, each a class of its own; `str()` of each is a sentence for people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc

# How grpc itself words "there was nobody to talk to", as opposed to a server that says that it is not ready.
_NO_CONNECTION = re.compile(
    r"failed to connect|connection refused|DNS resolution failed|name resolution|socket closed|connection reset"
    r"|handshake|GOAWAY|transport|no route to host|recvmsg|broken pipe",
    re.IGNORECASE,
)
_PREFIXES = re.compile(r"((UNKNOWN|UNAVAILABLE): |ipv[46]:\S+: |unix:\S+: |Failed to connect to remote host: )+")


class TopclassError(Exception):
    """A call failed. `code` is the gRPC status, `message` what the server (or grpc) said of it."""

    def __init__(self, text: str, message: str = "", code: grpc.StatusCode = grpc.StatusCode.UNKNOWN):
        super().__init__(text)
        self.message = message or text
        self.code = code


class InvalidInput(TopclassError):
    """The request is wrong; repeating it will not help. `row` is the index of the guilty row, where one is."""

    row: int | None = None


class NotFound(TopclassError):
    """The server has no such model, or no such version of it."""


class ModelChanged(TopclassError):
    """The `sha256` that was asked for is not the file that would answer."""


class Overloaded(TopclassError):
    """The server's queue is full (`retry_after` seconds, where it says so), or the message is too large for it."""

    retry_after: float | None = None


class DeadlineExceeded(TopclassError):
    """No answer came within the timeout."""


class Unavailable(TopclassError):
    """Nobody answers at the address, or the server there is not ready or is stopping."""


class Unauthenticated(TopclassError):
    """The server wants a token and got none, or another one."""


class ServerFault(TopclassError):
    """The server's own mistake; its log has more."""


_CLASSES: dict[grpc.StatusCode, type[TopclassError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: ModelChanged,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.INTERNAL: ServerFault,
    grpc.StatusCode.UNKNOWN: ServerFault,
    grpc.StatusCode.DATA_LOSS: ServerFault,
}


def error_from_rpc(error: grpc.RpcError, address: str, timeout: float) -> TopclassError:
    """The error that this failed call to `address`, with `timeout` seconds in all, is."""
    # Both kinds of call, sync and asyncio, raise errors with these three methods; the types know only one.
    code: grpc.StatusCode = error.code()
    message = error.details() or code.name.replace("_", " ").lower()
    trailers = _trailers(error)
    fault = _CLASSES.get(code, TopclassError)(_sentence(code, message, address, timeout), message, code)
    if isinstance(fault, InvalidInput):
        fault.row = _whole_number(trailers.get("topclass-row"))
    if isinstance(fault, Overloaded):
        pushback = trailers.get("grpc-retry-pushback-ms") or trailers.get("topclass-retry-pushback-ms")
        milliseconds = _whole_number(pushback)
        fault.retry_after = None if milliseconds is None else milliseconds / 1000
    return fault


def with_attempts(fault: TopclassError, attempts: int, seconds: float) -> TopclassError:
    """The same fault, saying how often and how long it was tried."""
    if attempts > 1:
        fault.args = (f"{fault.args[0]} (tried {attempts} times in {seconds:.1f} s)",)
    return fault


def _trailers(error: grpc.RpcError) -> dict[str, str]:
    metadata: Any = error.trailing_metadata()  # pairs, in two different types for the two kinds of call
    pairs: Iterable[tuple[str, str | bytes]] = metadata or ()
    return {key: value for key, value in pairs if isinstance(value, str)}


def _sentence(code: grpc.StatusCode, message: str, address: str, timeout: float) -> str:
    if code is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION.search(message):
        return (
            f"no answer from a topclass server at {address}: {_cause(message)}. "
            "Is it running, and is this its gRPC address?"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer from {address} within {timeout:g} s"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return f"the server at {address} does not know this call: {message}. Is it a topclass server?"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return f"{address}: {message}"
    return message


def _cause(message: str) -> str:
    """The end of grpc's chain of explanations: "Connection refused"."""
    last = message.rsplit("; last error: ", 1)[-1]
    return _PREFIXES.sub("", last, count=1).rstrip(".")


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None
