"""Triton's Python client over HTTP, unmodified, against a server in a process of its own (`make test-clients`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.http", reason="tritonclient has pins of its own: make test-clients")
from tritonclient.utils import InferenceServerException  # noqa: E402

from tests.foreign.here import LABELS, ROWS, address, expected  # noqa: E402


@pytest.fixture
def client() -> Iterator[triton.InferenceServerClient]:
    """A client of the server that tests.foreign.serve started."""
    found = triton.InferenceServerClient(address("http"), concurrency=4)
    yield found
    found.close()


def tensor(rows: np.ndarray = ROWS, datatype: str = "UINT8", binary: bool = True) -> list[triton.InferInput]:
    """The input of `pets`."""
    given = triton.InferInput("image", list(rows.shape), datatype)
    given.set_data_from_numpy(rows, binary_data=binary)
    return [given]


def test_questions(client: triton.InferenceServerClient) -> None:
    """Live, ready, metadata and configuration."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("pets")
    assert client.is_model_ready("pets", "1")
    assert not client.is_model_ready("cars")
    assert {"statistics", "binary_tensor_data"} <= set(client.get_server_metadata()["extensions"])
    metadata = client.get_model_metadata("pets")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 4, 4]}]
    assert metadata["versions"] == ["1"]
    config = client.get_model_config("pets", "1")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (131_072, [4, 4])
    assert '"cat"' in config["parameters"]["labels"]["string_value"]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_inference(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    """Elements as JSON and as bytes, each way, with the id back."""
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=binary_out)]
    given = tensor(binary=binary_in)
    result = client.infer("pets", given, outputs=wanted, request_id="seven", priority=2, timeout=10_000_000)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(ROWS), atol=1e-6)
    answer = result.get_response()
    assert (answer["id"], answer["model_version"]) == ("seven", "1")
    assert len(answer["parameters"]["sha256"]) == 64


@pytest.mark.parametrize("binary", [False, True])
def test_classes_as_text(client: triton.InferenceServerClient, binary: bool) -> None:
    """class_count is the classification extension."""
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    found = client.infer("pets", tensor(), outputs=wanted).as_numpy("probabilities")
    assert found.shape == (5, 2)
    for text, row in zip(found[:, 0], expected(ROWS), strict=True):
        _, index, label = (text.decode() if isinstance(text, bytes) else text).split(":")
        assert (int(index), label) == (row.argmax(), LABELS[row.argmax()])


@pytest.mark.parametrize("how", ["gzip", "deflate"])
def test_compression(client: triton.InferenceServerClient, how: str) -> None:
    """Bodies may be compressed, and the client may ask for an answer that is."""
    result = client.infer("pets", tensor(), request_compression_algorithm=how, response_compression_algorithm=how)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(ROWS), atol=1e-6)


def test_a_large_batch(client: triton.InferenceServerClient) -> None:
    """100,000 rows in one request, answered in order."""
    rows = np.random.default_rng(1).integers(0, 256, (100_000, 4, 4), np.uint8)
    np.testing.assert_allclose(client.infer("pets", tensor(rows)).as_numpy("probabilities"), expected(rows), atol=1e-5)


def test_futures(client: triton.InferenceServerClient) -> None:
    """async_infer over four connections: each gets its own rows."""
    batches = [np.ascontiguousarray(ROWS[n % 5 : n % 5 + 1]) for n in range(40)]
    waiting = [client.async_infer("pets", tensor(rows), request_id=str(n)) for n, rows in enumerate(batches)]
    for n, (future, rows) in enumerate(zip(waiting, batches, strict=True)):
        result = future.get_result()
        assert result.get_response()["id"] == str(n)
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected(rows), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model_name": "cars"}, "404", "no model 'cars'; this server has"),
        ({"model_version": "9"}, "404", "has no version 9; it has 1"),
        ({"model_version": "v1"}, "400", "the version is 'v1'"),
        ({"inputs": tensor(ROWS[0])}, "400", "shape [4, 4]; the model takes uint8 [N, 4, 4]"),
        ({"inputs": tensor(ROWS.astype(np.float32), "FP32")}, "400", "is float32; the model takes uint8"),
    ],
)
def test_errors(client: triton.InferenceServerClient, change: dict, status: str, words: str) -> None:
    """Each mistake has its status and its words."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**({"model_name": "pets", "inputs": tensor()} | change))
    assert caught.value.status() == status
    assert words in caught.value.message()


def test_what_is_not_here_is_501(client: triton.InferenceServerClient) -> None:
    """Memory of GPUs, trace and log settings; the client's other calls go on."""
    for ask in (client.get_cuda_shared_memory_status, client.get_trace_settings, client.get_log_settings):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert (caught.value.status(), "this server has no " in caught.value.message()) == ("501", True)
    assert client.is_server_live()


def test_statistics_grow(client: triton.InferenceServerClient) -> None:
    """What perf_analyzer reads: queue.count, inference_count and execution_count."""

    def read() -> tuple[int, int, int]:
        [stats] = client.get_inference_statistics("pets")["model_stats"]
        return stats["inference_stats"]["queue"]["count"], stats["inference_count"], stats["execution_count"]

    before = read()
    client.infer("pets", tensor())
    assert [new - old for old, new in zip(before, read(), strict=True)] == [1, 5, 1]


def test_the_repository(client: triton.InferenceServerClient) -> None:
    """Index, unload, load."""
    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert index["pets"] == "READY"
    client.unload_model("pets")
    assert not client.is_model_ready("pets")
    client.load_model("pets")
    assert client.is_model_ready("pets")
