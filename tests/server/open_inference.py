"""For the tests of the Open Inference Protocol: its messages over a channel, and requests made in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import numpy as np

from server.open_inference.stubs import grpc_service_pb2 as pb
from tests.conftest import LiveServer

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def call(server: LiveServer, method: str, request: Any, **how: Any) -> Any:
    """One RPC, as a client of the field makes it."""
    found = SERVICE.methods_by_name[method]
    reply = getattr(pb, found.output_type.name)
    path = f"/inference.GRPCInferenceService/{method}"
    stub = server.channel.unary_unary(path, type(request).SerializeToString, reply.FromString)
    return stub(request, **how)


def stream(server: LiveServer, requests: Iterable[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
    """ModelStreamInfer."""
    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    stub = server.channel.stream_stream(
        path, pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )
    return stub(iter(requests))


def refused(server: LiveServer, method: str, request: Any) -> grpc.RpcError:
    """The error that a request gets."""
    try:
        call(server, method, request)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"{method} was answered")


def infer(rows: np.ndarray, typed: bool = False, **changes: Any) -> pb.ModelInferRequest:
    """A request with a batch for `pets`; changes: fields of the request, or of its input where it has them."""
    name = {"uint8": "UINT8", "float32": "FP32"}[rows.dtype.name]
    tensor: dict[str, Any] = {"name": "image", "datatype": name, "shape": rows.shape}
    tensor |= {key: changes.pop(key) for key in ("name", "datatype", "shape") if key in changes}
    if typed:
        contents = {"UINT8": "uint_contents", "FP32": "fp32_contents"}[name]
        tensor["contents"] = pb.InferTensorContents(**{contents: rows.ravel().tolist()})
    else:
        changes.setdefault("raw_input_contents", [rows.tobytes()])
    changes.setdefault("model_name", "pets")
    return pb.ModelInferRequest(**{"inputs": [pb.ModelInferRequest.InferInputTensor(**tensor)], **changes})


def output(**parameters: pb.InferParameter) -> pb.ModelInferRequest.InferRequestedOutputTensor:
    """The output that a model has, with parameters."""
    return pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities", parameters=parameters)


def probabilities(response: pb.ModelInferResponse) -> np.ndarray:
    """float32 [n, C] of a raw response."""
    [tensor], [raw] = response.outputs, response.raw_output_contents
    assert (tensor.name, tensor.datatype) == ("probabilities", "FP32")
    return np.frombuffer(raw, "<f4").reshape(tensor.shape)


def texts(response: pb.ModelInferResponse) -> list[str]:
    """The elements of a raw BYTES response."""
    [raw], found = response.raw_output_contents, []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return found


def number(value: int, signed: bool = True) -> pb.InferParameter:
    """A whole number as a parameter."""
    return pb.InferParameter(int64_param=value) if signed else pb.InferParameter(uint64_param=value)


def params(**values: Any) -> dict[str, pb.InferParameter]:
    """Parameters from whole numbers, strings and flags."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    return {name: pb.InferParameter(**{kinds[type(value)]: value}) for name, value in values.items()}
