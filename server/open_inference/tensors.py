"""A ModelInferRequest's one input as an array: raw, typed, or of JSON. Arrays and messages only; computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from server import checks
from server.config import Config
from server.errors import InvalidInput
from server.model import InputSpec
from server.open_inference import elements, shared_memory
from server.open_inference.shared_memory import Regions
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.protobuf import BYTES, fields
from server.service import parse
from server.wire import LARGE

DATATYPES: dict[str, np.dtype] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype(np.float32).newbyteorder("<")}
# What an input's data came in beside the message: bytes, or the lists of a JSON document.
Given = memoryview | list[Any]
_MOST_FIELDS, _MOST_BESIDE = 1000, 1 << 20  # of a large request: fields, and bytes that are no elements
_FEW = 64  # fields of a plain request
_INPUTS, _CONTENTS, _RAW_INPUT_CONTENTS = 5, 5, 7


def read_request(message: bytes) -> tuple[pb.ModelInferRequest, list[memoryview]]:
    """The request and its raw inputs, of a large message as views of it; the request's own may be empty.

    InvalidInput where the bytes are no ModelInferRequest, or hold far more beside the elements than one input needs.
    """
    if len(message) < LARGE:
        request = parse(pb.ModelInferRequest, message)
        return request, [memoryview(raw) for raw in request.raw_input_contents]
    try:
        rest, raw = _split(message)
    except ValueError as error:
        raise InvalidInput(f"the message is not a {pb.ModelInferRequest.DESCRIPTOR.full_name}: {error}") from error
    return parse(pb.ModelInferRequest, rest), raw


def find_raw(message: bytes) -> tuple[pb.ModelInferRequest, int, int] | None:
    """A request without its one raw input, and where that is; None for a message of any other form."""
    try:
        found = [f for f in fields(message, most=_FEW) if f.number == _RAW_INPUT_CONTENTS]
        if len(found) != 1 or found[0].kind != BYTES:
            return None
        request = pb.ModelInferRequest.FromString(message[: found[0].start] + message[found[0].stop :])
    except (ValueError, DecodeError):
        return None
    if any(tensor.contents.ByteSize() or tensor.parameters for tensor in request.inputs):
        return None
    return request, found[0].content, found[0].stop


def _split(message: bytes) -> tuple[bytes, list[memoryview]]:
    """A message without its raw inputs, and these.

    ValueError where it is no message, or has so much else that parsing it would take many times its size in memory:
    a message object for every two bytes.
    """
    view, rest, raw = memoryview(message), list[memoryview](), list[memoryview]()
    room, beside = _MOST_FIELDS, 0
    for field in fields(message, most=_MOST_FIELDS):
        if field.number == _RAW_INPUT_CONTENTS and field.kind == BYTES:
            raw.append(view[field.content : field.stop])
            continue
        rest.append(view[field.start : field.stop])
        beside += field.stop - field.start
        if field.number == _INPUTS and field.kind == BYTES:
            inner = list(fields(message, field.content, field.stop, most=room))
            room -= len(inner)
            beside -= sum(part.stop - part.start for part in inner if part.number == _CONTENTS)
    if beside > _MOST_BESIDE:
        raise ValueError(f"it has {beside} bytes beside the elements of its input; the most is {_MOST_BESIDE}")
    return b"".join(rest), raw


def datatype(dtype: np.dtype) -> str:
    """What the protocol calls a dtype."""
    return next(name for name, known in DATATYPES.items() if known == dtype)


async def rows(
    request: pb.ModelInferRequest, given: Sequence[Given], spec: InputSpec, config: Config, regions: Regions | None
) -> np.ndarray:
    """The batch [n, …], not yet compared with what the model takes; InvalidInput where the request is not whole.

    given: what came beside the message for each of its inputs, in their order; empty where they are in it, or in
    shared memory. regions: what is registered there; None: this server has no shared memory.
    """
    tensor = _only_input(request, spec)
    place = shared_memory.place(tensor.parameters, regions)
    typed = bool(tensor.contents.ByteSize())
    if place and (typed or given):
        raise InvalidInput(
            "the input lies in shared memory, and the request holds elements too; it may lie in one place"
        )
    if typed and given:
        raise InvalidInput("the request holds both raw_input_contents and typed contents; it may hold one of them")
    if tensor.datatype not in DATATYPES:
        raise InvalidInput(f"the input is {tensor.datatype[:64]!r}; the model takes {datatype(spec.dtype)}: {spec}")
    if len(given) > 1:
        raise InvalidInput(f"the request has 1 input and {len(given)} raw_input_contents; it must have one of each")
    if place and regions:
        checks.fits(place.size, DATATYPES[tensor.datatype], tensor.shape)  # before anything is copied
        array = await _array(tensor, memoryview(await regions.read(place)))
    else:
        array = await _array(tensor, given[0] if given else memoryview(b""))
    checks.count(config, len(array))
    return array


async def _array(tensor: pb.ModelInferRequest.InferInputTensor, given: Given) -> np.ndarray:
    dtype, shape = DATATYPES[tensor.datatype], list(tensor.shape)
    if tensor.contents.ByteSize():
        return await elements.typed(tensor, dtype)
    if isinstance(given, list) and given:
        return await elements.listed(given, dtype, shape)
    return checks.shaped(given if isinstance(given, memoryview) else b"", dtype, shape)


def _only_input(request: pb.ModelInferRequest, spec: InputSpec) -> pb.ModelInferRequest.InferInputTensor:
    takes = f"the model takes one, {spec.name!r}: {spec}"
    if len(request.inputs) != 1:
        raise InvalidInput(f"the request has {len(request.inputs)} inputs; {takes}")
    [tensor] = request.inputs
    if tensor.name != spec.name:
        raise InvalidInput(f"the request has an input {tensor.name[:64]!r}; {takes}")
    return tensor
