"""The Open Inference Protocol over gRPC: every bad request gets its status and its words."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto

from server.open_inference.stubs import grpc_service_pb2 as pb
from tests import models
from tests.conftest import LiveServer
from tests.server import test_bad_input as own
from tests.server.open_inference import infer, number, output, params, refused, stream
from tests.server.test_fuzz import resident
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2

ROWS = pictures(2)


BAD = {
    "wrong shape": (infer(ROWS, shape=(2, 2, 8)), "the input has shape [2, 2, 8]; the model takes uint8 [N, 4, 4]"),
    "wrong known datatype": (infer(ROWS.astype(np.float32)), "the input is float32; the model takes uint8 [N, 4, 4]"),
    "wrong unknown datatype": (infer(ROWS, datatype="INT64"), "is 'INT64'; the model takes UINT8: uint8 [N, 4, 4]"),
    "no datatype": (infer(ROWS, datatype=""), "is ''; the model takes UINT8: uint8 [N, 4, 4]"),
    "wrong name": (infer(ROWS, name="x"), "an input 'x'; the model takes one, 'image': uint8 [N, 4, 4]"),
    "no input": (infer(ROWS, inputs=[]), "has 0 inputs; the model takes one, 'image'"),
    "two inputs": (infer(ROWS, inputs=[{"name": "image"}] * 2), "has 2 inputs; the model takes one, 'image'"),
    "byte size": (
        infer(ROWS, raw_input_contents=[bytes(31)]),
        "the tensor holds 31 bytes; uint8 of shape [2, 4, 4] takes 32",
    ),
    "no bytes": (infer(ROWS, raw_input_contents=[]), "the tensor holds 0 bytes; uint8 of shape [2, 4, 4] takes 32"),
    "too many raws": (infer(ROWS, raw_input_contents=[bytes(32)] * 2), "1 input and 2 raw_input_contents"),
    "raw and typed": (infer(ROWS, True, raw_input_contents=[bytes(32)]), "both raw_input_contents and typed contents"),
    "typed, wrong count": (infer(ROWS, True, shape=(3, 4, 4)), "holds 32 values; uint8 of shape [3, 4, 4] takes 48"),
    "typed, wrong list": (
        infer(ROWS.astype(np.float32), True, datatype="UINT8"),
        "the input is UINT8, whose contents are uint_contents; the request holds fp32_contents",
    ),
    "typed, out of range": (
        infer(ROWS, inputs=[{
            "name": "image", "datatype": "UINT8", "shape": (1, 4, 4), "contents": {"uint_contents": [300] * 16}
        }], raw_input_contents=[]),
        "the tensor holds 300; uint8 goes from 0 to 255",
    ),
    "no shape": (infer(ROWS, shape=()), "the tensor has no shape"),
    "negative shape": (infer(ROWS, shape=(-2, -4, 4)), "[-2, -4, 4]; no dimension may be negative"),
    "enormous shape": (infer(ROWS, shape=(2**62,) * 8), f"takes {2**496}"),
    "a hundred dimensions": (infer(ROWS, shape=(1,) * 100), "has 100 dimensions; the most is 32"),
    "empty batch": (infer(ROWS[:0]), "the batch is empty"),
    "unknown output": (infer(ROWS, outputs=[{"name": "x"}]), "output 'x'; the model gives one, 'probabilities'"),
    "an output twice": (infer(ROWS, outputs=[output()] * 2), "asks for 2 outputs; the model gives one"),
    "no classes": (infer(ROWS, outputs=[output(classification=number(0))]), "'classification' is 0; it must be 1"),
    "classes in words": (
        infer(ROWS, outputs=[output(classification=pb.InferParameter(string_param="3"))]),
        "'classification' is a string_param; it must be an int64_param",
    ),
    "priority": (infer(ROWS, parameters=params(priority=11)), "the priority is 11; it must be from 1"),
    "negative priority": (infer(ROWS, parameters=params(priority=-1)), "the priority is -1"),
    "negative timeout": (infer(ROWS, parameters=params(timeout=-1)), "the timeout is -1 µs"),
    "typed_output in words": (infer(ROWS, parameters=params(typed_output="yes")), "it must be a bool_param"),
    "a version in words": (infer(ROWS, model_version="v1"), "the version is 'v1'; it must be a whole number from 1"),
    "version 0": (infer(ROWS, model_version="0"), "the version is '0'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_request_is_told_what_is_wrong(server: LiveServer, case: str) -> None:
    """INVALID_ARGUMENT with words that name what was given and what was wanted; on a stream the same words."""
    request, words = BAD[case]
    error = refused(server, "ModelInfer", request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.details()
    [reply] = stream(server, [request])
    assert reply.error_message == error.details()


SAME = {
    "wrong shape": (infer(ROWS, shape=(2, 2, 8)), own.raw(shape=(2, 2, 8), data=bytes(32))),
    "wrong datatype": (infer(ROWS.astype(np.float32)), own.raw(2, (2, 4, 4), bytes(128))),
    "byte size": (infer(ROWS, raw_input_contents=[b""]), own.raw(shape=(2, 4, 4), data=b"")),
    "empty batch": (infer(ROWS[:0]), own.raw(shape=(0, 4, 4), data=b"")),
    "too many rows": (infer(pictures(9)), own.raw(shape=(9, 4, 4), data=bytes(144))),
    "no shape": (infer(ROWS, shape=()), own.raw(shape=())),
    "too many dimensions": (infer(ROWS, shape=(1,) * 33), own.raw(shape=(1,) * 33)),
    "unknown model": (
        infer(ROWS, model_name="cars"), inference_pb2.PredictRequest(model="cars", tensor=tensor(ROWS)),
    ),
    "unknown version": (infer(ROWS, model_version="9"), inference_pb2.PredictRequest(version=9, tensor=tensor(ROWS))),
    "no name": (infer(ROWS, model_name=""), inference_pb2.PredictRequest(tensor=tensor(ROWS))),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_a_mistake_is_told_the_same_over_both_protocols(
    repository: Path, serve: Callable[..., LiveServer], case: str
) -> None:
    """The same mistake gets the same status and the same words as from topclass.v1."""
    if case == "no name":
        models.put(repository, "birds", 1, models.classifier())
    server = serve(models=repository, max_request_rows=8)
    theirs, ours = SAME[case]
    if not ours.model and case not in ("no name",):
        ours.model = "pets"
    errors = refused(server, "ModelInfer", theirs), own.refused(server, ours)
    assert errors[0].code() is errors[1].code()
    assert errors[0].details() == errors[1].details()


def test_the_row_that_is_not_finite_is_named(server: LiveServer) -> None:
    """Words and trailing metadata name it, as topclass.v1 does, going in and coming out."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT, scale=1e10))
    server.refresh()
    for value, words in ((np.nan, "row 1 holds a value"), (3e38, "row 1 gives no finite probabilities")):
        rows = np.zeros((3, 5), np.float32)
        rows[1] = value
        error = refused(server, "ModelInfer", infer(rows, model_name="table"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in error.details()
        assert ("topclass-row", "1") in error.trailing_metadata()


def test_rubbish_is_the_callers_fault(server: LiveServer) -> None:
    """Bytes that are no message are INVALID_ARGUMENT, small or large, whatever the method."""
    for method in ("ServerLive", "ModelReady", "ModelConfig", "ModelInfer", "RepositoryModelLoad"):
        for size in (4, 100_000):
            with pytest.raises(grpc.RpcError) as caught:
                server.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff" * size)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"the message is not a inference.{method}Request" in caught.value.details()


MIB = 1 << 20
WORST = {
    "empty raw inputs": lambda size: b"\x3a\x00" * (size // 2),
    "empty inputs": lambda size: b"\x2a\x00" * (size // 2),
    "empty outputs": lambda size: b"\x32\x00" * (size // 2),
    "parameters": lambda size: infer(ROWS, parameters=params(**{f"p{n}": n for n in range(size // 64)})),
    "parameters of an input": lambda size: infer(
        ROWS, inputs=[{"name": "image", "parameters": params(**{f"p{n}": n for n in range(size // 64)})}]
    ),
    "a name": lambda size: infer(ROWS, model_name="\U0001f600" * (size // 4)),
    "groups in groups": lambda size: b"\x7b" * size,
    "dimensions": lambda size: infer(ROWS, shape=[2**62] * (size // 9)),
}


@pytest.mark.parametrize("case", WORST)
def test_the_worst_requests_cost_little_more_than_their_size(server: LiveServer, case: str) -> None:
    """Sixteen megabytes of the most expensive kind are refused within seconds, without hundreds of megabytes."""
    message = WORST[case](16 * MIB)
    data = message if isinstance(message, bytes) else message.SerializeToString()
    del message
    before, started = resident(), time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the message is not a inference.ModelInferRequest: " in caught.value.details()
    assert resident() - before < 200 * MIB
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("typed", [False, True])
def test_damaged_requests_are_answered_or_refused_as_the_callers_mistake(server: LiveServer, typed: bool) -> None:
    """Requests with a few bytes changed, small and large, never are an internal error."""
    generator = random.Random(0)
    callers = {getattr(grpc.StatusCode, name) for name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED")}
    for rows in (ROWS, pictures(2000)):
        good = infer(rows, typed, id="x", outputs=[output(classification=number(2))], parameters=params(priority=1))
        for _ in range(300):
            data = bytearray(good.SerializeToString())
            for _ in range(3):
                data[generator.randrange(min(len(data), 200))] = generator.randrange(256)
            call = server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(bytes(data))
            assert call.code() in callers, call.details()


ABSENT = ("CudaSharedMemoryStatus", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings")


@pytest.mark.parametrize("method", ABSENT)
def test_what_is_absent_says_so(server: LiveServer, method: str) -> None:
    """Memory of GPUs, trace and log settings are UNIMPLEMENTED, by name."""
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert f"this server has no {method}" in caught.value.details()
