"""Every bad request gets its status and words that say what was given and what was wanted."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from tests import models
from tests.conftest import LiveServer
from tests.server.test_neighbours import PUSHBACK
from tests.server.test_predict import encoded, pictures, tensor
from topclass.v1 import inference_pb2 as pb

GOOD = pictures(2)


def refused(server: LiveServer, request: pb.PredictRequest, **how: float) -> grpc.RpcError:
    """The error that a request gets."""
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(request, **how)
    return caught.value


def raw(dtype: int = 1, shape: tuple[int, ...] = (1, 4, 4), data: bytes = bytes(16)) -> pb.PredictRequest:
    """A request with a tensor made by hand."""
    return pb.PredictRequest(tensor=pb.Tensor(dtype=dtype, shape=shape, data=data))  # type: ignore[arg-type]


CASES = {
    "wrong shape": (raw(shape=(1, 2, 8)), "shape [1, 2, 8]; the model takes uint8 [N, 4, 4]"),
    "no batch dimension": (raw(shape=(4, 4)), "shape [4, 4]; the model takes uint8 [N, 4, 4]"),
    "wrong dtype": (raw(2, (1, 4, 4), bytes(64)), "is float32; the model takes uint8 [N, 4, 4]"),
    "no dtype": (raw(0), "dtype is 0; it must be 1 (uint8) or 2 (float32)"),
    "unknown dtype": (raw(77), "dtype is 77"),
    "too few bytes": (raw(data=bytes(15)), "holds 15 bytes; uint8 of shape [1, 4, 4] takes 16"),
    "too many bytes": (raw(data=bytes(17)), "holds 17 bytes; uint8 of shape [1, 4, 4] takes 16"),
    "no shape": (raw(shape=()), "has no shape"),
    "empty batch": (raw(shape=(0, 4, 4), data=b""), "the batch is empty"),
    "enormous shape": (raw(shape=(4294967295,) * 5), "takes 1461501635"),
    "empty, but enormous rows": (raw(shape=(0, *(4294967295,) * 4), data=b""), "no array has shape [0, 4294967295"),
    "a hundred dimensions": (raw(shape=(1,) * 100, data=b"1"), "the tensor has 100 dimensions; the most is 32"),
    "no input": (pb.PredictRequest(), "neither a tensor nor images"),
    "a priority that is none": (
        pb.PredictRequest(tensor=tensor(GOOD), priority=10),
        "the priority is 10; it must be from 0, which goes first, to 9",
    ),
    "no pictures": (pb.PredictRequest(images=pb.EncodedImages()), "the batch is empty"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_request_is_told_what_is_wrong(server: LiveServer, case: str) -> None:
    """INVALID_ARGUMENT with words that name what was given and what was wanted."""
    request, words = CASES[case]
    error = refused(server, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.details()


def test_an_unknown_model_is_told_which_there_are(server: LiveServer) -> None:
    """NOT_FOUND names the models that are served."""
    error = refused(server, pb.PredictRequest(model="cars", tensor=tensor(GOOD)))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no model 'cars'; this server has pets")


def test_an_unknown_version_is_told_which_there_are(server: LiveServer) -> None:
    """NOT_FOUND names the versions that are served."""
    error = refused(server, pb.PredictRequest(model="pets", version=9, tensor=tensor(GOOD)))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "model 'pets' has no version 9; it has 1"


def test_no_name_among_several_models_is_told_which_there_are(server: LiveServer) -> None:
    """INVALID_ARGUMENT lists the names when a request names none and there are several."""
    models.put(server.models, "birds", 1, models.classifier())
    server.refresh()
    error = refused(server, pb.PredictRequest(tensor=tensor(GOOD)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "this server has several: birds, pets" in error.details()


def test_another_sha256_than_the_pinned_one_never_answers(server: LiveServer) -> None:
    """FAILED_PRECONDITION names both hashes."""
    error = refused(server, pb.PredictRequest(model_sha256="f" * 64, tensor=tensor(GOOD)))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "f" * 64 in error.details()
    assert server.stub.GetModel(pb.GetModelRequest()).model.sha256 in error.details()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_row_of_a_value_that_is_not_finite_is_named(server: LiveServer, value: float) -> None:
    """INVALID_ARGUMENT names the row, in words and in the trailing metadata."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    server.refresh()
    rows = np.zeros((7, 5), np.float32)
    rows[4, 2] = value
    error = refused(server, pb.PredictRequest(model="table", tensor=tensor(rows)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "row 4 holds a value that is not finite"
    assert ("topclass-row", "4") in error.trailing_metadata()


def test_values_that_overflow_the_model_are_the_callers_fault(server: LiveServer) -> None:
    """A finite row whose probabilities are not finite is refused by name, and is not answered with a class."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT, scale=1e10))
    server.refresh()
    rows = np.zeros((3, 5), np.float32)
    rows[2] = 3e38
    error = refused(server, pb.PredictRequest(model="table", tensor=tensor(rows)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "row 2 gives no finite probabilities" in error.details()
    assert len(server.stub.Predict(pb.PredictRequest(model="table", tensor=tensor(rows[:2]))).predictions) == 2


PICTURES = {
    "no picture": (b"this is no picture", "cannot be decoded"),
    "an empty file": (b"", "is empty"),
    "half a picture": (encoded(np.zeros((64, 64), np.uint8))[:60], "cannot be decoded"),
    "a format that is not allowed": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "cannot be decoded"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_the_index_of_a_picture_that_is_none_is_named(server: LiveServer, case: str) -> None:
    """INVALID_ARGUMENT names the index, in words and in the trailing metadata."""
    file, words = PICTURES[case]
    error = refused(server, pb.PredictRequest(images=pb.EncodedImages(images=[encoded(GOOD[0]), file])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"picture 1 {words}" in error.details()
    assert ("topclass-row", "1") in error.trailing_metadata()


def test_a_decompression_bomb_is_refused_before_it_is_decoded(repository, serve: Callable[..., LiveServer]) -> None:
    """A small file of many pixels is refused by its size in pixels; one at the limit is decoded."""
    server = serve(models=repository, max_image_pixels=10_000)
    buffer = io.BytesIO()
    Image.new("1", (101, 100)).save(buffer, "PNG")
    error = refused(server, pb.PredictRequest(images=pb.EncodedImages(images=[buffer.getvalue()])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "picture 0 has 101 x 100 pixels; the server decodes at most 10000"
    at_limit = encoded(np.zeros((100, 100), np.uint8))
    assert len(server.stub.Predict(pb.PredictRequest(images=pb.EncodedImages(images=[at_limit]))).predictions) == 1


def test_the_pixels_of_all_pictures_of_a_request_are_bounded(repository, serve: Callable[..., LiveServer]) -> None:
    """A picture more than the request's limit is refused by its index; at the limit all are decoded."""
    server = serve(models=repository, max_request_pixels=300)
    file = encoded(np.zeros((10, 10), np.uint8))
    assert len(server.stub.Predict(pb.PredictRequest(images=pb.EncodedImages(images=[file] * 3))).predictions) == 3
    error = refused(server, pb.PredictRequest(images=pb.EncodedImages(images=[file] * 4)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "picture 3 is one too many: a request may have 300 pixels in all"


def test_a_decoder_stops_when_the_deadline_passes(server: LiveServer) -> None:
    """DEADLINE_EXCEEDED, and the decoder is free for others long before it would have decoded them all."""
    file = encoded(np.zeros((2000, 2000), np.uint8))
    many = pb.PredictRequest(images=pb.EncodedImages(images=[file] * 60))
    alone = time.perf_counter()
    server.stub.Predict(many)
    alone = time.perf_counter() - alone
    for _ in range(4):
        assert refused(server, many, timeout=0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    start = time.perf_counter()
    server.stub.Predict(pb.PredictRequest(images=pb.EncodedImages(images=[encoded(GOOD[0])])))
    assert time.perf_counter() - start < alone / 2


def test_pictures_are_refused_by_a_model_of_tables(server: LiveServer) -> None:
    """INVALID_ARGUMENT says what the model takes."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    server.refresh()
    error = refused(server, pb.PredictRequest(model="table", images=pb.EncodedImages(images=[encoded(GOOD[0])])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the request holds pictures; the model takes float32 [N, 5]"


def test_one_row_over_the_limit_is_refused_and_the_limit_itself_is_served(
    repository, serve: Callable[..., LiveServer]
) -> None:
    """max_request_rows is the last size that is answered."""
    server = serve(models=repository, max_request_rows=10)
    assert len(server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(10)))).predictions) == 10
    error = refused(server, pb.PredictRequest(tensor=tensor(pictures(11))))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the batch has 11 rows; the server takes at most 10"


def test_a_message_over_the_limit_is_refused(repository, serve: Callable[..., LiveServer]) -> None:
    """RESOURCE_EXHAUSTED says the limit."""
    server = serve(models=repository, max_message_bytes=2000)
    assert len(server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(100)))).predictions) == 100
    error = refused(server, pb.PredictRequest(tensor=tensor(pictures(200))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2000" in error.details()


def test_more_bytes_of_pictures_than_the_queue_holds_are_refused(
    repository, serve: Callable[..., LiveServer], transport: str
) -> None:
    """RESOURCE_EXHAUSTED with a pushback at the first byte over the limit; at the limit they are decoded."""
    file = encoded(GOOD[0])
    server = serve(models=repository, max_queue_bytes=2 * len(file))
    at_limit = pb.PredictRequest(images=pb.EncodedImages(images=[file, file]))
    assert len(server.stub.Predict(at_limit).predictions) == 2
    error = refused(server, pb.PredictRequest(images=pb.EncodedImages(images=[file, file + b"x"])))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "bytes of pictures wait to be decoded" in error.details()
    assert (PUSHBACK[transport], "100") in error.trailing_metadata()


@pytest.mark.parametrize("method", ["Predict", "GetModel", "ListModels"])
def test_rubbish_bytes_are_a_callers_mistake(server: LiveServer, method: str) -> None:
    """INVALID_ARGUMENT for bytes that are no message, not an internal error."""
    call = server.channel.unary_unary(f"/topclass.v1.InferenceService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"the message is not a topclass.v1.{method}Request" in caught.value.details()


def test_a_fault_of_ours_tells_no_secrets(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    """INTERNAL carries a request id and nothing of the exception; the log has both."""
    [served] = server.app.repository.ready()
    served.lane.compute = lambda _: 1 / 0
    error = refused(server, pb.PredictRequest(tensor=tensor(GOOD)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "division" not in error.details()
    request_id = error.details().split()[-1]
    assert request_id in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_unknown_method_is_unimplemented(server: LiveServer) -> None:
    """UNIMPLEMENTED for a method that is not there."""
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.unary_unary("/topclass.v1.InferenceService/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
