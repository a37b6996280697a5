"""Parameters of requests: numbers and flags, of the kinds that clients send them in."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from server.errors import InvalidInput
from server.open_inference.stubs import grpc_service_pb2 as pb

PRIORITIES = 10  # 1 goes first; topclass.v1 counts them from 0
Parameters = Mapping[str, pb.InferParameter]


def whole(parameters: Parameters, name: str) -> int:
    """A whole number, 0 where it is not given; InvalidInput where it is something else."""
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):  # clients send priority as the one, timeout as the other
        raise InvalidInput(f"the parameter {name!r} is a {kind or 'value of no kind'}; it must be an int64_param")
    value: int = getattr(parameters[name], kind)
    return value


def flag(parameters: Parameters, name: str) -> bool:
    """True or false, which it is where it is not given; InvalidInput where it is something else."""
    if name not in parameters:
        return False
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind != "bool_param":
        raise InvalidInput(f"the parameter {name!r} is a {kind or 'value of no kind'}; it must be a bool_param")
    return parameters[name].bool_param


def text(parameters: Parameters, name: str) -> str:
    """A text, empty where it is not given; InvalidInput where it is something else."""
    if name not in parameters:
        return ""
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind != "string_param":
        raise InvalidInput(f"the parameter {name!r} is a {kind or 'value of no kind'}; it must be a string_param")
    return parameters[name].string_param


def priority(parameters: Parameters) -> int:
    """The lane's priority, 0 first. The protocol counts from 1, and 0 is the default, which is 1."""
    given = whole(parameters, "priority")
    if not 0 <= given <= PRIORITIES:
        raise InvalidInput(
            f"the priority is {given}; it must be from 1, which goes first, to {PRIORITIES}; 0, the default, is 1"
        )
    return max(given - 1, 0)


def deadline(parameters: Parameters) -> float:
    """When a request of now has waited too long: of time.monotonic(), infinite where no timeout is given."""
    microseconds = whole(parameters, "timeout")
    if microseconds < 0:
        raise InvalidInput(f"the timeout is {microseconds} µs; it must be 1 or more, or 0 for none")
    return time.monotonic() + microseconds / 1e6 if microseconds else math.inf
