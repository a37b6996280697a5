"""Triton's Python client, unmodified, against a server in a process of its own (`make test-clients`)."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient has pins of its own: make test-clients")
from tritonclient.utils import InferenceServerException  # noqa: E402

from tests.foreign.here import LABELS, ROWS, address, expected  # noqa: E402


@pytest.fixture
def client() -> Iterator[triton.InferenceServerClient]:
    """A client of the server that tests.foreign.serve started."""
    with triton.InferenceServerClient(address("grpc")) as found:
        yield found


def tensor(rows: np.ndarray = ROWS, datatype: str = "UINT8") -> list[triton.InferInput]:
    """The input of `pets`."""
    given = triton.InferInput("image", list(rows.shape), datatype)
    given.set_data_from_numpy(rows)
    return [given]


def test_our_stubs_and_theirs_live_in_one_process() -> None:
    """Both define inference.ModelInferRequest, and neither disturbs the other."""
    from tritonclient.grpc import service_pb2

    from server.open_inference.stubs import grpc_service_pb2 as ours

    message = service_pb2.ModelInferRequest(model_name="pets", id="1").SerializeToString()
    assert ours.ModelInferRequest.FromString(message).model_name == "pets"


def test_every_number_is_the_fields() -> None:
    """Each field has its name, number, type and label in Triton's own stubs; `properties` is another server's."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    from server.open_inference.stubs import grpc_service_pb2 as ours

    pool = service_pb2.DESCRIPTOR.pool
    assert model_config_pb2.DESCRIPTOR.pool is pool

    def compare(mine) -> None:  # type: ignore[no-untyped-def]
        theirs = pool.FindMessageTypeByName(mine.full_name)
        for field in mine.fields:
            if field.full_name == "inference.ModelMetadataResponse.properties":
                assert field.number not in theirs.fields_by_number
                continue
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type) == (other.number, other.type), field.full_name
            assert field.is_repeated == other.is_repeated, field.full_name
        for nested in mine.nested_types:
            if nested.name != "PropertiesEntry":
                compare(nested)
        for enum in mine.enum_types:
            assert same(enum, pool.FindEnumTypeByName(enum.full_name))

    def same(mine, theirs) -> bool:  # type: ignore[no-untyped-def]
        return {v.name: v.number for v in mine.values}.items() <= {v.name: v.number for v in theirs.values}.items()

    for message in ours.DESCRIPTOR.message_types_by_name.values():
        compare(message)
    for enum in ours.DESCRIPTOR.enum_types_by_name.values():
        assert same(enum, pool.FindEnumTypeByName(enum.full_name))
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    for method in ours.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        other = service.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name


def test_questions(client: triton.InferenceServerClient) -> None:
    """Live, ready, metadata and configuration, as objects and as JSON."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("pets")
    assert client.is_model_ready("pets", "1")
    assert not client.is_model_ready("cars")
    assert "statistics" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata("pets", as_json=True)
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "4", "4"]}]
    assert metadata["versions"] == ["1"]
    config = client.get_model_config("pets").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (131_072, [4, 4])
    assert '"cat"' in config.parameters["labels"].string_value


def test_inference(client: triton.InferenceServerClient) -> None:
    """Probabilities by name, the id back, and the classification extension by class_count."""
    result = client.infer("pets", tensor(), request_id="seven", priority=2, timeout=10_000_000)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(ROWS), atol=1e-6)
    assert (result.get_response().id, result.get_response().model_version) == ("seven", "1")
    assert len(result.get_response().parameters["sha256"].string_param) == 64
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    found = client.infer("pets", tensor(), outputs=wanted).as_numpy("probabilities")
    assert found.shape == (5, 2)
    for text, row in zip(found[:, 0], expected(ROWS), strict=True):
        value, index, label = text.decode().split(":")
        assert (int(index), label) == (row.argmax(), LABELS[row.argmax()])
        assert abs(float(value) - row.max()) < 2e-6


def test_a_large_batch(client: triton.InferenceServerClient) -> None:
    """100,000 rows in one request, answered in order."""
    rows = np.random.default_rng(1).integers(0, 256, (100_000, 4, 4), np.uint8)
    result = client.infer("pets", tensor(rows))
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(rows), atol=1e-5)


def test_futures(client: triton.InferenceServerClient) -> None:
    """async_infer calls back with the answer."""
    answers: queue.Queue = queue.Queue()
    client.async_infer("pets", tensor(), lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=30)
    assert error is None
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(ROWS), atol=1e-6)


def test_a_stream_outlives_an_error(client: triton.InferenceServerClient) -> None:
    """Answers in order; the one bad request gets its words, the next its answer."""
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for n in range(20):
        rows = ROWS[:, :2] if n == 7 else ROWS
        client.async_stream_infer("pets", tensor(np.ascontiguousarray(rows)), request_id=f"r{n}")
    for n in range(20):
        result, error = answers.get(timeout=30)
        if n == 7:
            assert "shape [5, 2, 4]; the model takes uint8 [N, 4, 4]" in str(error)
        else:
            assert error is None
            assert result.get_response().id == f"r{n}"
    client.stop_stream()


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model_name": "cars"}, "NOT_FOUND", "no model 'cars'; this server has "),
        ({"model_version": "9"}, "NOT_FOUND", "has no version 9; it has 1"),
        ({"model_version": "v1"}, "INVALID_ARGUMENT", "the version is 'v1'"),
        ({"inputs": tensor(ROWS[0])}, "INVALID_ARGUMENT", "shape [4, 4]; the model takes uint8 [N, 4, 4]"),
        ({"inputs": tensor(ROWS.astype(np.float32), "FP32")}, "INVALID_ARGUMENT", "is float32; the model takes uint8"),
    ],
)
def test_errors(client: triton.InferenceServerClient, change: dict, status: str, words: str) -> None:
    """Each mistake has its status and its words."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**({"model_name": "pets", "inputs": tensor()} | change))
    assert caught.value.status() == f"StatusCode.{status}"
    assert words in caught.value.message()


def test_what_is_not_here_is_unimplemented(client: triton.InferenceServerClient) -> None:
    """Memory of GPUs, trace and log settings; the client's other calls go on."""
    for ask in (client.get_cuda_shared_memory_status, client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
        assert "this server has no " in caught.value.message()
    assert client.is_server_live()


def test_statistics_grow(client: triton.InferenceServerClient) -> None:
    """What perf_analyzer reads: queue.count, inference_count and execution_count."""

    def read():  # type: ignore[no-untyped-def]
        [stats] = client.get_inference_statistics("pets").model_stats
        return stats.inference_stats.queue.count, stats.inference_count, stats.execution_count

    before = read()
    client.infer("pets", tensor())
    assert [new - old for old, new in zip(before, read(), strict=True)] == [1, 5, 1]


def test_the_repository(client: triton.InferenceServerClient) -> None:
    """Index, unload, load."""
    index = client.get_model_repository_index(as_json=True)
    assert {"name": "pets", "version": "1", "state": "READY"} in index["models"]
    client.unload_model("pets")
    assert not client.is_model_ready("pets")
    client.load_model("pets")
    assert client.is_model_ready("pets")
