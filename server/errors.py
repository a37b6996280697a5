"""Faults, each a class that knows its gRPC status. A caller's mistake is told in our words; our mistake is not."""

from __future__ import annotations

import grpc

MOST_BYTES = 2000  # of a fault's words: gRPC sends each byte as up to three, and drops calls with 8 KB of metadata


class ServingError(Exception):
    """A fault whose words may be sent to the caller. Words of enormous length, which quote a request, are cut."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, row: int | None = None, retry_after_ms: int = 0):
        super().__init__(_clipped(message))
        self.row = row  # the guilty row of the batch, if there is one
        self.retry_after_ms = retry_after_ms  # 0: not said


def _clipped(message: str) -> str:
    if message.isascii() and len(message) <= MOST_BYTES:
        return message
    encoded = message.encode("utf-8", "replace")  # half a surrogate pair cannot be sent
    return encoded[:MOST_BYTES].decode("utf-8", "ignore") + ("…" if len(encoded) > MOST_BYTES else "")


class InvalidInput(ServingError):
    """The request is wrong; repeating it will not help."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class UnknownModel(ServingError):
    """No such model, or no such version of it."""

    code = grpc.StatusCode.NOT_FOUND


class UnknownRegion(ServingError):
    """No shared memory region of that name, or no such memory."""

    code = grpc.StatusCode.NOT_FOUND


class RegionExists(ServingError):
    """A shared memory region of that name is registered already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Unsupported(ServingError):
    """A part of a protocol that this server does not have."""

    code = grpc.StatusCode.UNIMPLEMENTED


class OtherModel(ServingError):
    """The caller pinned a sha256, and another file would answer."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class NotAllowed(ServingError):
    """This server was not started to do that."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class CannotLoad(ServingError):
    """A version that LoadModel asked for was refused; the words say why."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class QueueFull(ServingError):
    """More rows wait than the server may hold."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class TooLarge(ServingError):
    """A request has more bytes than the server takes."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class TooSlow(ServingError):
    """A request took too long to arrive."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class DeadlinePassed(ServingError):
    """The deadline passed while the request waited; it was not computed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(ServingError):
    """Not ready yet, or draining, or this version could not be loaded."""

    code = grpc.StatusCode.UNAVAILABLE


class StartError(Exception):
    """The server cannot start, and these words say why and what cures it. The process exits with 1."""


class ConfigError(StartError):
    """A setting is wrong or unknown. The process exits with 2."""


class DeviceUnavailable(StartError):
    """The device that was asked for cannot be used."""


class ModelRefused(Exception):
    """A model file that must not be served, and why: one line, however the file wrote what is quoted of it."""

    def __init__(self, reason: str):
        super().__init__(_clipped(" ".join(reason.split())))


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
