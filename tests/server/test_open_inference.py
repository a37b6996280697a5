"""The Open Inference Protocol over gRPC, over a real channel: good answers."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool
from onnx import TensorProto

from server.open_inference.stubs import grpc_service_pb2 as pb
from server.statistics import MOST_SIZES, Statistics
from tests import models
from tests.conftest import LiveServer
from tests.server.open_inference import call, infer, number, output, params, probabilities, refused, stream, texts
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2

ROWS = pictures(2)


# ---- inference ----


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 31, 5000])
def test_a_batch_is_answered_raw_however_it_came(server: LiveServer, count: int, typed: bool) -> None:
    """Raw and typed batches of any size get raw probabilities, row by row, as numpy computes them."""
    rows = pictures(count)
    response = call(server, "ModelInfer", infer(rows, typed))
    np.testing.assert_allclose(probabilities(response), models.expected(rows), atol=1e-6)
    assert not response.outputs[0].HasField("contents")


@pytest.mark.parametrize("typed", [False, True])
def test_floats_come_through_unchanged(server: LiveServer, typed: bool) -> None:
    """FP32 goes to table models, raw and typed."""
    models.put(server.models, "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    server.refresh()
    rows = np.random.default_rng(3).normal(0, 100, (4, 5)).astype(np.float32)
    response = call(server, "ModelInfer", infer(rows, typed, model_name="table"))
    np.testing.assert_allclose(probabilities(response), models.expected(rows), atol=1e-6)


def test_a_typed_reply_is_there_for_who_asks(server: LiveServer) -> None:
    """parameters["typed_output"] = true puts the elements into contents, and no raw bytes beside them."""
    response = call(server, "ModelInfer", infer(ROWS, parameters=params(typed_output=True)))
    assert not response.raw_output_contents
    np.testing.assert_allclose(response.outputs[0].contents.fp32_contents, models.expected(ROWS).ravel(), atol=1e-6)


def test_a_reply_says_where_it_comes_from(server: LiveServer) -> None:
    """It names the model, the version that answered and the request's id, and in parameters the file and the time."""
    response = call(server, "ModelInfer", infer(ROWS, id="seven"))
    assert (response.model_name, response.model_version, response.id) == ("pets", "1", "seven")
    file = server.models / "pets/1/model.onnx"
    assert response.parameters["sha256"].string_param == hashlib.sha256(file.read_bytes()).hexdigest()
    assert response.parameters["provider"].string_param == "CPUExecutionProvider"
    assert response.parameters["compute_us"].int64_param > 0
    assert response.parameters["queue_us"].int64_param >= 0
    assert response.parameters["batch_rows"].int64_param >= 2


@pytest.mark.parametrize(("asked", "given"), [(1, 1), (2, 2), (99, 3)])
@pytest.mark.parametrize("typed", [False, True])
def test_classification_gives_the_most_probable_classes_as_text(
    server: LiveServer, asked: int, given: int, typed: bool
) -> None:
    """The output becomes BYTES [n, k] of value:index:label, the most probable first, at most all classes."""
    request = infer(ROWS, outputs=[output(classification=number(asked))], parameters=params(typed_output=typed))
    response = call(server, "ModelInfer", request)
    [tensor] = response.outputs
    assert (tensor.datatype, list(tensor.shape)) == ("BYTES", [2, given])
    found = [text.decode() for text in tensor.contents.bytes_contents] if typed else texts(response)
    wanted = [
        f"{row[index]:.6f}:{index}:{models.LABELS[index]}"
        for row in models.expected(ROWS)
        for index in np.argsort(-row)[:given]
    ]
    assert [text.split(":")[1:] for text in found] == [text.split(":")[1:] for text in wanted]
    values = [[float(text.split(":")[0]) for text in side] for side in (found, wanted)]
    np.testing.assert_allclose(*values, atol=2e-6)


def test_many_classes_as_text_are_written_too(server: LiveServer) -> None:
    """An answer that is written in a thread is like any other; one over the limit is refused before it is computed."""
    rows = pictures(5000)
    response = call(server, "ModelInfer", infer(rows, outputs=[output(classification=number(3))]))
    assert [text.split(":")[1] for text in texts(response)[::3]] == list(map(str, models.expected(rows).argmax(axis=1)))
    many = np.zeros((120_000, 4, 4), np.uint8)
    models.put(server.models, "wide", 1, models.classifier(classes=9))
    server.refresh()
    request = infer(many, model_name="wide", outputs=[output(classification=number(9))])
    error = refused(server, "ModelInfer", request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "9 classes of 120000 rows as text; the most is 1000000" in error.details()


def test_both_kinds_of_number_are_a_priority(server: LiveServer) -> None:
    """priority as int64 and as uint64, 0 to 10, is taken; so is a timeout that suffices."""
    for value, signed in itertools.product((0, 1, 10), (True, False)):
        parameters = {"priority": number(value, signed), "timeout": number(60_000_000)}
        assert call(server, "ModelInfer", infer(ROWS, parameters=parameters)).outputs


def test_priority_one_and_none_go_before_ten(server: LiveServer) -> None:
    """The protocol's 1 and 0 are the lane's first level, its 10 the last."""
    [served] = server.app.repository.ready()
    seen, submit = [], served.lane.submit
    served.lane.submit = lambda rows, deadline, priority, *more: (
        seen.append(priority) or submit(rows, deadline, priority, *more)
    )
    for value in (0, 1, 2, 10):
        call(server, "ModelInfer", infer(ROWS, parameters={"priority": number(value)}))
    assert seen == [0, 0, 1, 9]


def test_a_timeout_ends_the_waiting(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """Rows that wait longer than `timeout` µs are DEADLINE_EXCEEDED, and are not computed."""
    server = serve(models=repository, workers=1)
    [served] = server.app.repository.ready()
    busy, free = threading.Event(), threading.Event()
    compute = served.lane.compute

    def slow(rows: np.ndarray) -> np.ndarray:
        busy.set()
        free.wait(30)
        return compute(rows)

    served.lane.compute, served.lane.seconds = slow, None
    first = threading.Thread(target=call, args=(server, "ModelInfer", infer(ROWS)))
    first.start()
    busy.wait(30)
    threading.Timer(0.2, free.set).start()
    error = refused(server, "ModelInfer", infer(ROWS, parameters={"timeout": number(1000)}))
    first.join()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "the deadline passed while the request waited; it was not computed"
    assert served.statistics.failures == 1
    assert served.statistics.rows == 2


# ---- streams ----


def test_a_stream_keeps_its_order_and_outlives_its_errors(server: LiveServer) -> None:
    """Replies come in the order of the requests, with ids; a bad request gets its words, and the next an answer."""
    batches = [pictures(n % 7 + 1, n) for n in range(600)]
    requests = [infer(rows, id=f"r{n}", name="x" if n % 5 == 3 else "image") for n, rows in enumerate(batches)]
    replies = list(stream(server, requests))
    assert [reply.infer_response.id for reply in replies] == [request.id for request in requests]
    for n, (reply, rows) in enumerate(zip(replies, batches, strict=True)):
        if n % 5 == 3:
            assert "an input 'x'" in reply.error_message
        else:
            assert not reply.error_message
            np.testing.assert_allclose(probabilities(reply.infer_response), models.expected(rows), atol=1e-6)


def test_a_stream_marks_the_final_reply_for_who_asks(server: LiveServer) -> None:
    """triton_enable_empty_final_response gets triton_final_response, since every request has one reply."""
    [plain, marked] = stream(
        server, [infer(ROWS), infer(ROWS, parameters=params(triton_enable_empty_final_response=True))]
    )
    assert "triton_final_response" not in plain.infer_response.parameters
    assert marked.infer_response.parameters["triton_final_response"].bool_param


def test_a_caller_that_leaves_a_stream_leaves_nothing_behind(server: LiveServer) -> None:
    """After a stream is cancelled in the middle, no call is in progress, and others are answered."""
    endless = (infer(pictures(100)) for _ in itertools.count())
    replies = stream(server, endless)
    for _ in range(10):
        assert next(replies).infer_response.outputs
    replies.cancel()  # type: ignore[attr-defined]
    assert call(server, "ModelInfer", infer(ROWS)).outputs
    server.stop_async().result(10)
    assert server.app.calls.in_progress == 0


# ---- questions ----


def test_the_server_is_live_and_ready(server: LiveServer, tmp_path: Path, serve: Callable[..., LiveServer]) -> None:
    """Live always; ready as grpc.health.v1 has it: not without a model."""
    assert call(server, "ServerLive", pb.ServerLiveRequest()).live
    assert call(server, "ServerReady", pb.ServerReadyRequest()).ready
    (tmp_path / "none").mkdir()
    empty = serve(models=tmp_path / "none")
    assert call(empty, "ServerLive", pb.ServerLiveRequest()).live
    assert not call(empty, "ServerReady", pb.ServerReadyRequest()).ready


def test_a_server_that_stops_is_live_and_answers_but_is_not_ready(
    repository: Path, serve: Callable[..., LiveServer]
) -> None:
    """From the first moment of stopping, while calls are still served."""
    server = serve(models=repository, stop_delay_seconds=2)
    stopped = server.stop_async()
    stop = time.monotonic() + 1.5
    while call(server, "ServerReady", pb.ServerReadyRequest()).ready:
        assert time.monotonic() < stop
    assert call(server, "ServerLive", pb.ServerLiveRequest()).live
    assert call(server, "ModelInfer", infer(ROWS)).outputs
    stopped.result(10)


def test_tokens_guard_this_service_too(tmp_path: Path, repository: Path, serve: Callable[..., LiveServer]) -> None:
    """Without a token every method is UNAUTHENTICATED, with one it answers."""
    (tmp_path / "tokens").write_text("a-token-of-some-length-0123456789\n")
    server = serve(models=repository, token_file=tmp_path / "tokens")
    for method, request in (("ModelInfer", infer(ROWS)), ("ServerLive", pb.ServerLiveRequest())):
        assert refused(server, method, request).code() is grpc.StatusCode.UNAUTHENTICATED
        assert call(server, method, request, metadata=[("authorization", "Bearer a-token-of-some-length-0123456789")])


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("pets", "", True), ("pets", "1", True), ("pets", "9", False), ("cars", "", False), ("bad", "1", False)],
)
def test_a_model_is_ready_or_not(server: LiveServer, name: str, version: str, ready: bool) -> None:
    """True for what answers; false, and no error, for what is unknown or was refused."""
    models.put(server.models, "bad", 1, b"rubbish")
    server.refresh()
    assert call(server, "ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready is ready


def test_the_server_lists_only_what_it_can(server: LiveServer, repository, serve: Callable[..., LiveServer]) -> None:
    """No shared memory, sequences, trace or logging; model_repository only with --allow-control."""
    usual = ["classification", "schedule_policy", "model_configuration", "parameters", "statistics"]
    found = call(server, "ServerMetadata", pb.ServerMetadataRequest())
    assert (found.name, list(found.extensions)) == ("topclass", usual)
    assert found.version
    allowed = serve(models=repository, allow_control=True)
    extensions = call(allowed, "ServerMetadata", pb.ServerMetadataRequest()).extensions
    assert list(extensions) == [*usual, "model_repository", "model_repository(unload_dependents)"]


def test_metadata_has_the_batch_dimension_and_configuration_has_not(server: LiveServer) -> None:
    """Names, datatypes, shapes, versions and labels, as clients' tools read them."""
    models.put(server.models, "pets", 2, models.with_card(models.classifier()))
    server.refresh()
    found = call(server, "ModelMetadata", pb.ModelMetadataRequest(name="pets"))
    assert (found.name, list(found.versions), found.platform) == ("pets", ["1", "2"], "onnxruntime_onnx")
    [given], [taken] = found.inputs, found.outputs
    assert (given.name, given.datatype, list(given.shape)) == ("image", "UINT8", [-1, 4, 4])
    assert (taken.name, taken.datatype, list(taken.shape)) == ("probabilities", "FP32", [-1, 3])
    config = call(server, "ModelConfig", pb.ModelConfigRequest(name="pets", version="1")).config
    assert (config.name, config.max_batch_size) == ("pets", server.app.config.max_request_rows)
    assert (config.input[0].name, config.input[0].data_type, list(config.input[0].dims)) == ("image", 2, [4, 4])
    assert (config.output[0].name, config.output[0].data_type, list(config.output[0].dims)) == (
        "probabilities",
        11,
        [3],
    )
    assert config.HasField("dynamic_batching")
    assert tuple(json.loads(config.parameters["labels"].string_value)) == models.LABELS


def test_colour_pictures_are_nhwc(server: LiveServer) -> None:
    """Format says so for [H, W, C], and nothing for what has no channels."""
    models.put(server.models, "colour", 1, models.classifier((4, 4, 3)))
    server.refresh()
    formats = {
        name: call(server, "ModelConfig", pb.ModelConfigRequest(name=name)).config.input[0].format
        for name in ("colour", "pets")
    }
    assert formats == {"colour": pb.ModelInput.FORMAT_NHWC, "pets": pb.ModelInput.FORMAT_NONE}


def statistics(server: LiveServer, name: str = "", version: str = "") -> dict[tuple[str, str], pb.ModelStatistics]:
    """Statistics by name and version."""
    response = call(server, "ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version))
    return {(stats.name, stats.version): stats for stats in response.model_stats}


def test_statistics_grow_with_every_request_of_either_protocol(server: LiveServer) -> None:
    """Requests, rows and batches are counted, with their time in the queue and computing, and when the last was."""
    before = statistics(server)[("pets", "1")]
    assert (before.inference_count, before.inference_stats.queue.count, before.last_inference) == (0, 0, 0)
    for _ in range(3):
        call(server, "ModelInfer", infer(ROWS))
    server.stub.Predict(inference_pb2.PredictRequest(tensor=tensor(ROWS)))
    after = statistics(server, "pets")[("pets", "1")]
    assert after.inference_count == 8
    assert 1 <= after.execution_count <= 4
    stats = after.inference_stats
    for duration in (stats.success, stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output):
        assert duration.count == 4
    assert stats.success.ns >= stats.compute_infer.ns > 0
    assert min(stats.compute_input.ns, stats.compute_output.ns) > 0
    assert after.last_inference > 1_600_000_000_000
    assert statistics(server, "pets", "1")[("pets", "1")].inference_count == 8


def test_statistics_tell_of_each_size_of_batch(server: LiveServer) -> None:
    """How many batches of so many rows were computed, and how long they took, the smallest first."""
    for count in (5, 1, 5):
        call(server, "ModelInfer", infer(pictures(count)))
    found = statistics(server)["pets", "1"]
    assert [(batch.batch_size, batch.compute_infer.count) for batch in found.batch_stats] == [(1, 1), (5, 2)]
    assert min(batch.compute_infer.ns for batch in found.batch_stats) > 0
    assert sum(batch.compute_infer.count for batch in found.batch_stats) == found.execution_count


def test_statistics_tell_only_so_many_sizes_apart() -> None:
    """Beyond the most, batches of new sizes are counted together with all, and those of known sizes still each."""
    counts = Statistics()
    compute = counts.counted(lambda rows: rows)
    for size in (*range(1, MOST_SIZES + 10), 1):
        compute(np.empty((size, 0), np.float32))
    assert counts.batches == MOST_SIZES + 10
    assert [size for size, _ in counts.sizes()] == list(range(1, MOST_SIZES + 1))
    assert counts.sizes()[0][1][0] == 2


@pytest.mark.parametrize("given", [False, True])
def test_properties_are_given_where_they_are_wanted(
    repository: Path, serve: Callable[..., LiveServer], given: bool
) -> None:
    """Field 6 is empty unless --metadata-properties; ModelConfig.parameters say the same in any case."""
    server = serve(models=repository, metadata_properties=given)
    metadata = call(server, "ModelMetadata", pb.ModelMetadataRequest(name="pets"))
    config = call(server, "ModelConfig", pb.ModelConfigRequest(name="pets")).config
    kept = {name: value.string_value for name, value in config.parameters.items()}
    assert kept.keys() == {"labels", "sha256", "provider"}
    assert dict(metadata.properties) == (kept if given else {})


QUESTIONS = {
    "ModelMetadata": pb.ModelMetadataRequest, "ModelConfig": pb.ModelConfigRequest,
    "ModelStatistics": pb.ModelStatisticsRequest,
}  # fmt: skip


@pytest.mark.parametrize("method", QUESTIONS)
def test_a_question_about_what_is_not_there_is_not_found(server: LiveServer, method: str) -> None:
    """NOT_FOUND says what there is; a version that is no number is INVALID_ARGUMENT."""
    error = refused(server, method, QUESTIONS[method](name="cars"))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no model 'cars'; this server has pets")
    error = refused(server, method, QUESTIONS[method](name="pets", version="9"))
    assert error.details() == "model 'pets' has no version 9; it has 1"
    assert (
        refused(server, method, QUESTIONS[method](name="pets", version="x")).code() is grpc.StatusCode.INVALID_ARGUMENT
    )


# ---- the repository ----


def index(server: LiveServer, ready: bool = False) -> dict[tuple[str, str], str]:
    """The state of every version."""
    response = call(server, "RepositoryIndex", pb.RepositoryIndexRequest(ready=ready))
    return {(entry.name, entry.version): entry.state for entry in response.models}


def test_the_index_lists_every_version_and_its_state(server: LiveServer) -> None:
    """READY and UNAVAILABLE, with the reason; only those that are ready where that is asked."""
    models.put(server.models, "bad", 1, b"rubbish")
    server.refresh()
    assert index(server) == {("bad", "1"): "UNAVAILABLE", ("pets", "1"): "READY"}
    assert index(server, ready=True) == {("pets", "1"): "READY"}
    [bad, _] = call(server, "RepositoryIndex", pb.RepositoryIndexRequest()).models
    assert "it is not a whole ONNX file" in bad.reason


@pytest.mark.parametrize("field", ["model_name", "repository_name"])
def test_models_are_unloaded_and_loaded_on_request(repository, serve: Callable[..., LiveServer], field: str) -> None:
    """With --allow-control, by the name in either field; readiness follows."""
    server = serve(models=repository, allow_control=True)
    call(server, "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(**{field: "pets"}))
    assert index(server) == {("pets", "1"): "UNAVAILABLE"}
    assert not call(server, "ServerReady", pb.ServerReadyRequest()).ready
    call(server, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(**{field: "pets"}))
    assert call(server, "ServerReady", pb.ServerReadyRequest()).ready


def test_control_is_refused_unless_the_server_was_started_with_it(server: LiveServer) -> None:
    """FAILED_PRECONDITION names the flag, as topclass.v1 does, and nothing changes."""
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        error = refused(server, method, getattr(pb, f"{method}Request")(model_name="pets"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == f"this server takes no {method}: it was not started with --allow-control"
    assert index(server) == {("pets", "1"): "READY"}


def test_a_model_in_a_request_is_unimplemented(repository, serve: Callable[..., LiveServer]) -> None:
    """A configuration or a file sent with RepositoryModelLoad is refused, not ignored."""
    server = serve(models=repository, allow_control=True)
    request = pb.RepositoryModelLoadRequest(model_name="pets")
    request.parameters["config"].string_param = "{}"
    error = refused(server, "RepositoryModelLoad", request)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "the request has config" in error.details()


# ---- beside others ----


def test_the_stubs_stay_out_of_the_pool_that_clients_share() -> None:
    """Nothing of the package `inference` is in the default descriptor pool, so tritonclient can register its own."""
    assert pb.DESCRIPTOR.pool is not descriptor_pool.Default()
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
