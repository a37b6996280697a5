"""One mistake, one status, the same words: over topclass.v1, over the Open Inference Protocol on gRPC and HTTP, and
over classify."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from server.http.faults import STATUS
from server.open_inference.stubs import grpc_service_pb2 as v2
from tests import models
from tests.conftest import LiveServer
from tests.server import open_inference, web
from tests.server.test_neighbours import Hold, until
from tests.server.test_predict import encoded, pictures
from topclass.v1 import inference_pb2 as v1

Serve = Callable[..., LiveServer]
CODE = grpc.StatusCode
INVALID = CODE.INVALID_ARGUMENT
DTYPES = {"UINT8": (1, np.uint8), "FP32": (2, np.float32)}


@dataclass(frozen=True)
class Tensor:
    """A request with a tensor, right unless told otherwise, that every protocol can be asked with."""

    model: str = "pets"
    version: str = ""
    datatype: str = "UINT8"
    shape: tuple[int, ...] = (2, 4, 4)
    values: np.ndarray = field(default_factory=lambda: pictures(2))
    name: str = "image"
    parameters: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)

    def own(self) -> v1.PredictRequest | None:
        """For topclass.v1, where it can say that."""
        known = self.datatype in DTYPES and self.name == "image" and not (self.parameters or self.output)
        if not known or min(self.shape, default=0) < 0 or not (self.version or "0").isdecimal() or self.version == "0":
            return None
        dtype, kind = DTYPES[self.datatype]
        tensor = v1.Tensor(dtype=dtype, shape=self.shape, data=self.values.astype(kind).tobytes())  # type: ignore[arg-type]
        return v1.PredictRequest(model=self.model, version=int(self.version or 0), tensor=tensor)

    def grpc(self, typed: bool) -> v2.ModelInferRequest:
        """For the Open Inference Protocol over gRPC."""
        kind = DTYPES.get(self.datatype, DTYPES["UINT8"])[1]
        asked = open_inference.infer(self.values.astype(kind), typed, shape=self.shape, name=self.name)
        asked.inputs[0].datatype = self.datatype
        asked.model_name, asked.model_version = self.model, self.version
        for name, value in open_inference.params(**self.parameters).items():
            asked.parameters[name].CopyFrom(value)
        if self.output:
            asked.outputs.append(open_inference.output(**open_inference.params(**self.output)))
        return asked

    def http(self, typed: bool) -> tuple[str, bytes, dict[str, str]]:
        """For the Open Inference Protocol over HTTP: path, body and headers."""
        kind = DTYPES.get(self.datatype, DTYPES["UINT8"])[1]
        raw = self.values.astype(kind)
        tensor: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": self.shape}
        tensor |= {"data": raw.ravel().tolist()} if typed else {"parameters": {"binary_data_size": raw.nbytes}}
        document: dict[str, Any] = {"inputs": [tensor], "parameters": self.parameters}
        if self.output:
            document["outputs"] = [{"name": "probabilities", "parameters": self.output}]
        path = f"/v2/models/{self.model}{f'/versions/{self.version}' if self.version else ''}/infer"
        if typed:
            return path, json.dumps(document).encode(), {}
        return path, *web.behind(document, raw.tobytes())


# What is wrong, its status, its words, and whether these are about bytes: then elements are counted in other words.
TABLE = np.zeros((3, 5), np.float32)
TABLE[1, 2] = np.nan
HUGE = np.where(np.arange(15).reshape(3, 5) > 9, np.float32(3e38), 0)
TENSORS = {
    "wrong shape": (Tensor(shape=(2, 2, 8)), INVALID, "shape [2, 2, 8]; the model takes uint8 [N, 4, 4]"),
    "wrong dtype": (Tensor(datatype="FP32"), INVALID, "is float32; the model takes uint8 [N, 4, 4]"),
    "unknown dtype": (Tensor(datatype="INT64"), INVALID, "'INT64'; the model takes UINT8: uint8"),
    "wrong name": (Tensor(name="x"), INVALID, "an input 'x'; the model takes one, 'image'"),
    "too few": (Tensor(shape=(3, 4, 4)), INVALID, "of shape [3, 4, 4] takes 48"),
    "none": (Tensor(values=pictures(0)), INVALID, "holds 0 bytes; uint8 of shape [2, 4, 4] takes 32"),
    "enormous shape": (Tensor(shape=(2**31,) * 5), INVALID, f"takes {2**155}"),
    "empty, with enormous rows": (
        Tensor(shape=(0, *(2**31,) * 5), values=pictures(0)), INVALID, "no array has shape [0, 2147483648",
    ),
    "empty batch": (Tensor(shape=(0, 4, 4), values=pictures(0)), INVALID, "the batch is empty"),
    "too many rows": (
        Tensor(shape=(9, 4, 4), values=pictures(9)), INVALID, "has 9 rows; the server takes at most 8",
    ),
    "no shape": (Tensor(shape=()), INVALID, "the tensor has no shape"),
    "negative shape": (Tensor(shape=(-2, -4, 4)), INVALID, "[-2, -4, 4]; no dimension may be negative"),
    "33 dimensions": (Tensor(shape=(1,) * 33), INVALID, "the tensor has 33 dimensions; the most is 32"),
    "unknown model": (Tensor(model="cars"), CODE.NOT_FOUND, "no model 'cars'; this server has pets, table"),
    "unknown version": (Tensor(version="9"), CODE.NOT_FOUND, "model 'pets' has no version 9; it has 1"),
    "a version in words": (Tensor(version="v1"), INVALID, "the version is 'v1'; it must be a whole number"),
    "version 0": (Tensor(version="0"), INVALID, "the version is '0'"),
    "not finite": (
        Tensor("table", "", "FP32", (3, 5), TABLE), INVALID, "row 1 holds a value that is not finite",
    ),
    "overflows": (
        Tensor("table", "", "FP32", (3, 5), HUGE), INVALID, "row 2 gives no finite probabilities",
    ),
    "priority": (Tensor(parameters={"priority": 11}), INVALID, "the priority is 11; it must be from 1"),
    "priority in words": (
        Tensor(parameters={"priority": "high"}), INVALID, "'priority' is a string_param; it must be an int",
    ),
    "negative timeout": (Tensor(parameters={"timeout": -1}), INVALID, "the timeout is -1 µs"),
    "too late": (Tensor(parameters={"timeout": 1}), CODE.DEADLINE_EXCEEDED, "the deadline passed while the request"),
    "no classes": (Tensor(output={"classification": 0}), INVALID, "'classification' is 0; it must be 1"),
    "shared memory": (
        Tensor(output={"shared_memory_region": "r"}), CODE.UNIMPLEMENTED, "this server has no shared memory",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What a caller was told: a status of gRPC, and words."""

    code: grpc.StatusCode
    words: str


def over_grpc(call: Callable[[], object]) -> Told:
    """What a call over gRPC is told."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return Told(caught.value.code(), caught.value.details())


def over_http(server: LiveServer, path: str, body: bytes, headers: dict[str, str]) -> Told:
    """What a request over HTTP is told; its status must be the table's."""
    reply = web.ask(server, path, body, headers)
    code = next(code for code, status in STATUS.items() if status == reply.status)
    return Told(code, reply.error)


def told(server: LiveServer, mistake: Tensor, typed: bool) -> Iterator[Told]:
    """What each protocol says of a request with a tensor, its elements one by one or as bytes."""
    own = mistake.own()
    if own is not None and not typed:
        yield over_grpc(lambda: server.stub.Predict(own))
    yield over_grpc(lambda: open_inference.call(server, "ModelInfer", mistake.grpc(typed)))
    yield over_http(server, *mistake.http(typed))


@pytest.fixture
def strict(repository: Path, serve: Serve) -> LiveServer:
    """A server of `pets` and of a `table` of floats, with small limits."""
    models.put(repository, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT, scale=1e10))
    return serve(models=repository, http_port=0, max_request_rows=8, max_image_pixels=100, max_request_pixels=300)


@pytest.mark.parametrize("typed", [False, True], ids=["bytes", "elements"])
@pytest.mark.parametrize("case", TENSORS)
def test_a_wrong_tensor_is_told_the_same_over_every_protocol(strict: LiveServer, case: str, typed: bool) -> None:
    """Status and words are those of every other protocol, for tensors as bytes and for elements one by one."""
    mistake, code, words = TENSORS[case]
    first, *others = told(strict, mistake, typed)
    assert first.code is code
    assert words in first.words
    assert others
    assert {first} == {*others}


def test_a_full_queue_is_told_the_same_over_every_protocol(repository: Path, serve: Serve) -> None:
    """RESOURCE_EXHAUSTED is 429, in the same words, with Retry-After."""
    server = serve(models=repository, http_port=0, max_queue_bytes=31)
    first, *others = told(server, Tensor(), False)
    assert first.code is CODE.RESOURCE_EXHAUSTED
    assert "the queue is full: 0 rows wait, and 2 more would exceed" in first.words
    assert {first} == {*others}
    assert web.ask(server, *Tensor().http(True)).headers["retry-after"] == "1"


def test_no_model_yet_is_told_the_same_over_every_protocol(tmp_path: Path, serve: Serve) -> None:
    """UNAVAILABLE is 503, in the same words, with Retry-After."""
    (tmp_path / "models").mkdir()
    server = serve(http_port=0)
    first, *others = told(server, Tensor(), False)
    assert first.code is CODE.UNAVAILABLE
    assert "no model yet" in first.words
    assert {first, over_http(server, "/v1/models/pets:classify", *web.form(b"x"))} == {*others}
    assert web.ask(server, *Tensor().http(True)).headers["retry-after"] == "1"


def test_a_fault_of_ours_tells_no_secrets_over_any_protocol(
    repository: Path, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """INTERNAL is 500, and the words hold a request id of their own and nothing else, which the log has."""
    server = serve(models=repository, http_port=0)
    [served] = server.app.repository.ready()
    served.lane.compute = lambda _: 1 / 0
    found = [
        *told(server, Tensor(), False),
        over_http(server, "/v1/models/pets:classify", *web.form(encoded(pictures(1)[0]))),
    ]
    assert {replace(each, words=re.sub("[0-9a-f]{16}$", "…", each.words)) for each in found} == {
        Told(CODE.INTERNAL, "internal error; the server's log has it under request id …")
    }
    assert all(each.words.split()[-1] in caplog.text for each in found)


GOOD = encoded(pictures(1)[0])


def large() -> bytes:
    """A small file of more pixels than the server decodes."""
    buffer = io.BytesIO()
    Image.new("1", (11, 10)).save(buffer, "PNG")
    return buffer.getvalue()


# Files, what else is asked, the status and the words.
PICTURES: dict[str, tuple[list[bytes], dict[str, Any], grpc.StatusCode, str]] = {
    "no picture": ([GOOD, b"this is none"], {}, INVALID, "picture 1 cannot be decoded: it is no whole PNG"),
    "an empty file": ([GOOD, b""], {}, INVALID, "picture 1 is empty"),
    "half a picture": ([GOOD[: len(GOOD) // 2]], {}, INVALID, "picture 0 cannot be decoded"),
    "a bomb": ([GOOD, large()], {}, INVALID, "picture 1 has 11 x 10 pixels; the server decodes at most 100"),
    "too many pixels": (
        [encoded(np.zeros((10, 10), np.uint8))] * 4, {}, INVALID, "picture 3 is one too many: a request may",
    ),
    "pictures to a table": ([GOOD], {"model": "table"}, INVALID, "holds pictures; the model takes float32"),
    "unknown model": ([GOOD], {"model": "cars"}, CODE.NOT_FOUND, "no model 'cars'; this server has pets, table"),
    "unknown version": ([GOOD], {"version": 9}, CODE.NOT_FOUND, "model 'pets' has no version 9; it has 1"),
    "unknown alias": ([GOOD], {"alias": "best"}, CODE.NOT_FOUND, "model 'pets' has no alias 'best'; it has none"),
    "version and alias": (
        [GOOD], {"version": 1, "alias": "best"}, INVALID, "names version 1 and alias 'best'; it may name one",
    ),
    "another file": ([GOOD], {"model_sha256": "f" * 64}, CODE.FAILED_PRECONDITION, "was asked for; 'pets' version 1"),
    "priority": ([GOOD], {"priority": 10}, INVALID, "the priority is 10; it must be from 0, which goes"),
}  # fmt: skip


@pytest.mark.parametrize("case", PICTURES)
def test_a_wrong_picture_is_told_the_same_over_grpc_and_http(strict: LiveServer, case: str) -> None:
    """Status and words of classify are those of topclass.v1, for files of a form, base64, and one as the body."""
    files, said, code, words = PICTURES[case]
    request = v1.PredictRequest(images=v1.EncodedImages(images=files), **{"model": "pets", **said})
    first = over_grpc(lambda: strict.stub.Predict(request))
    assert first.code is code
    assert words in first.words
    query = "&".join(f"{name.removeprefix('model_')}={value}" for name, value in said.items() if name != "model")
    path = f"/v1/models/{request.model}:classify?{query}"
    listed = json.dumps([base64.b64encode(file).decode() for file in files]).encode()
    found = {over_http(strict, path, *web.form(*files)), over_http(strict, path, listed, web.JSON)}
    if len(files) == 1:
        found.add(over_http(strict, path, files[0], {"content-type": "image/png"}))
    assert found == {first}


def test_no_pictures_and_too_many_are_told_the_same(strict: LiveServer) -> None:
    """An empty list or form is an empty batch; nine pictures are as many too many as nine rows."""
    empty = over_grpc(lambda: strict.stub.Predict(v1.PredictRequest(images=v1.EncodedImages())))
    nine = over_grpc(
        lambda: strict.stub.Predict(v1.PredictRequest(model="pets", images=v1.EncodedImages(images=[GOOD] * 9)))
    )
    path = "/v1/models/pets:classify"
    assert "the batch has 9 rows; the server takes at most 8" in nine.words
    assert over_http(strict, path, b"[]", web.JSON) == over_http(strict, path, b'{"images": []}', web.JSON)
    assert over_http(strict, path, b"[]", web.JSON).words == "the batch is empty"
    assert over_http(strict, path, b"--xx--\r\n", web.form()[1]).words == "the batch is empty"
    assert over_http(strict, path, json.dumps(["x"] * 9).encode(), web.JSON) == nine
    assert (
        over_http(strict, path, *web.form(*[GOOD] * 9)).words
        == "the body has more than 8 files, the most that this server takes"
    )
    assert empty.code is INVALID


ABSENT = {
    "SystemSharedMemoryStatus": "/v2/systemsharedmemory/status",
    "SystemSharedMemoryRegister": "/v2/systemsharedmemory/region/x/register",
    "CudaSharedMemoryUnregister": "/v2/cudasharedmemory/region/x/unregister",
    "TraceSetting": "/v2/models/pets/trace/setting",
    "LogSettings": "/v2/logging",
}


@pytest.mark.parametrize("method", ABSENT)
def test_what_is_absent_is_told_the_same_over_grpc_and_http(strict: LiveServer, method: str) -> None:
    """UNIMPLEMENTED is 501, in the same words."""
    call = strict.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    body = None if method == "SystemSharedMemoryStatus" else b"{}"
    reply = web.ask(strict, ABSENT[method], body)
    assert reply.status == 501
    assert over_grpc(lambda: call(b"")) == Told(CODE.UNIMPLEMENTED, reply.error)


def test_a_stopping_server_is_told_the_same(repository: Path, serve: Serve) -> None:
    """While calls in progress are finished, new ones get UNAVAILABLE, over HTTP 503, in the same words."""
    server = serve(models=repository, http_port=0)
    hold = Hold(server)
    call = server.stub.Predict.future(Tensor().own())
    assert hold.entered.wait(10)
    stopping = server.stop_async()
    until(lambda: server.app.calls.refusing)
    found = {*told(server, Tensor(), False), over_http(server, "/v1/models/pets:classify", *web.form(GOOD))}
    hold.go.set()
    stopping.result(30)
    assert found == {Told(CODE.UNAVAILABLE, "the server is stopping; try again, there or elsewhere")}
    assert len(call.result(10).predictions) == 2
