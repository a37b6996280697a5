"""Bodies of /v2/…/infer to the protocol's messages and back: JSON, and tensors behind it by the binary extension."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.responses import Response

from server.errors import InvalidInput
from server.http import documents
from server.http.documents import Documents, field, plain, what
from server.open_inference import parameters, shared_memory
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.open_inference.tensors import DATATYPES, Given

HEADER_LENGTH = "inference-header-content-length"
_MOST = 1000  # tensors or parameters of a request: far more than any model has
_LARGE = 64 << 10  # bytes of an answer
_INT64, _UINT64 = 1 << 63, 1 << 64


@dataclass(frozen=True)
class Asked:
    """A request, what came beside its message, and whether its answer's tensors come as JSON or as bytes."""

    request: pb.ModelInferRequest
    given: list[Given]
    binary: bool


async def read(body: bytearray, length: str | None, reader: Documents, model: str, version: str) -> Asked:
    """What a body asks for; InvalidInput names what is wrong. length: of its JSON, as the header says; None: all."""
    if length is None:
        head, rest = memoryview(body), memoryview(b"")
    else:
        if not length.isascii() or not length.isdigit() or int(length[:20]) > len(body):
            raise InvalidInput(
                f"the header {HEADER_LENGTH} is {length[:64]!r}; it must be the length of the JSON at the start of the "
                f"body, which has {len(body)} bytes"
            )
        head, rest = memoryview(body)[: int(length)], memoryview(body)[int(length) :]
    document = an_object(await reader.read(head), "the body")
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=field(document, "id", str, ""))
    _put(request.parameters, document)
    given, at = list[Given](), 0
    for each in _tensors(document, "inputs"):
        tensor = request.inputs.add(name=field(each, "name", str, ""), datatype=field(each, "datatype", str, ""))
        tensor.shape.extend(_shape(field(each, "shape", list, [])))
        _put(tensor.parameters, each)
        if "binary_data_size" in tensor.parameters:
            size = parameters.whole(tensor.parameters, "binary_data_size")
            if "data" in each:
                raise InvalidInput(f"the input {tensor.name[:64]!r} has data and binary_data_size; it may have one")
            if not 0 <= size <= len(rest) - at:
                raise InvalidInput(
                    f"the input {tensor.name[:64]!r} has binary_data_size {size}; the body has {len(rest) - at} "
                    "bytes for it"
                )
            given.append(rest[at : at + size])
            at += size
        elif "data" in each:
            given.append(field(each, "data", list, []))
    if at != len(rest):
        raise InvalidInput(f"the body has {len(rest)} bytes after its JSON; the inputs' binary_data_size make up {at}")
    binary = parameters.flag(request.parameters, "binary_data_output")
    for each in _tensors(document, "outputs"):
        output = request.outputs.add(name=field(each, "name", str, ""))
        _put(output.parameters, each)
        if "binary_data" in output.parameters:
            binary = parameters.flag(output.parameters, "binary_data")
    return Asked(request, given, binary)


def of_bytes(body: bytearray, metadata: pb.ModelMetadataResponse, version: str) -> Asked:
    """A body that is the bytes of a model's one input and nothing else: as many rows as it holds."""
    [spec] = metadata.inputs
    rows = len(body) // (math.prod(spec.shape[1:]) * DATATYPES[spec.datatype].itemsize)
    request = pb.ModelInferRequest(model_name=metadata.name, model_version=version)
    request.inputs.add(name=spec.name, datatype=spec.datatype, shape=[rows, *spec.shape[1:]])
    return Asked(request, [memoryview(body)], True)


def an_object(value: Any, name: str) -> dict[str, Any]:
    """The value, an object; InvalidInput where it is something else."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} is {what(value)}; it must be an object")
    return value


def _tensors(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = field(document, name, list, [])
    if len(found) > _MOST:
        raise InvalidInput(f"{name!r} has {len(found)} tensors; the most is {_MOST}")
    return [an_object(each, f"{name}[{index}]") for index, each in enumerate(found)]


def _shape(dimensions: list[Any]) -> list[int]:
    for each in dimensions:
        if type(each) is not int or not -_INT64 <= each < _INT64:
            what_is = each if type(each) in (int, float) else what(each)
            raise InvalidInput(f"the tensor's shape holds {what_is}; its dimensions are whole numbers")
    return dimensions


def _put(into: Any, owner: dict[str, Any]) -> None:
    """The parameters of a request or of a tensor, each of the kind that gRPC has for it."""
    found = field(owner, "parameters", dict, {})
    if len(found) > _MOST:
        raise InvalidInput(f"there are {len(found)} parameters; the most is {_MOST}")
    for name, value in found.items():
        if type(value) is bool:
            into[name].bool_param = value
        elif type(value) is int and -_INT64 <= value < _INT64:
            into[name].int64_param = value
        elif type(value) is int and 0 < value < _UINT64:
            into[name].uint64_param = value
        elif type(value) in (int, float):
            into[name].double_param = value
        elif type(value) is str:
            into[name].string_param = value
        else:
            raise InvalidInput(
                f"the parameter {name[:64]!r} is {what(value)}; it must be a number, text, true or false"
            )


async def write(response: pb.ModelInferResponse, binary: bool) -> Response:
    """The answer, its tensors as JSON or behind it as bytes; a large one is written in a thread."""
    if response.ByteSize() < _LARGE:
        return _written(response, binary)
    return await asyncio.to_thread(_written, response, binary)


def _written(response: pb.ModelInferResponse, binary: bool) -> Response:
    raws = iter(response.raw_output_contents)
    outputs, behind = list[dict[str, Any]](), list[bytes]()
    for output in response.outputs:
        said: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        raw = next(raws, None)
        if shared_memory.REGION in output.parameters:
            pass  # Triton says no more of it, and its C++ client takes any parameters for those of binary data
        elif raw is not None and binary:
            said["parameters"] = {"binary_data_size": len(raw)}
            behind.append(raw)
        else:
            said["data"] = _elements(output, raw)
        outputs.append(said)
    document: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        document["id"] = response.id
    document |= {"parameters": {name: plain(value) for name, value in sorted(response.parameters.items())}}
    document["outputs"] = outputs
    head = documents.write(document)
    if not behind:
        return Response(head, media_type=documents.JSON)
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join((head, *behind)), headers=headers, media_type="application/octet-stream")


def _elements(output: pb.ModelInferResponse.InferOutputTensor, raw: bytes | None) -> Any:
    """The elements for a JSON document: numbers, or text of what the protocol calls BYTES."""
    if output.datatype == "BYTES":
        return [text.decode() for text in (output.contents.bytes_contents if raw is None else _texts(raw))]
    if raw is None:
        return np.array(output.contents.fp32_contents, np.float32)
    return np.frombuffer(raw, DATATYPES[output.datatype])


def _texts(raw: bytes) -> list[bytes]:
    found, at = list[bytes](), 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        found.append(raw[start:at])
    return found


def parameter_map(document: dict[str, Any]) -> Mapping[str, pb.ModelRepositoryParameter]:
    """The parameters of a request to load or unload."""
    found = field(document, "parameters", dict, {})
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    out = {}
    for name, value in found.items():
        if type(value) not in kinds or (type(value) is int and not -_INT64 <= value < _INT64):
            raise InvalidInput(
                f"the parameter {name[:64]!r} is {what(value)}; it must be a number, text, true or false"
            )
        out[name] = pb.ModelRepositoryParameter(**{kinds[type(value)]: value})
    return out
