"""What Triton's documented clients do beyond single calls, over both protocols: shared memory, and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.foreign.here import LABELS, PHOTOS, ROWS, expected
from tests.foreign.triton import both

memory = pytest.importorskip(
    "tritonclient.utils.shared_memory", reason="tritonclient has pins of its own: make test-clients"
)
from tritonclient.utils import InferenceServerException, triton_to_np_dtype  # noqa: E402


@pytest.fixture(params=both.PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    """grpc and http."""
    return str(request.param)


@pytest.fixture
def client(protocol: str) -> Iterator[Any]:
    """A client of the server."""
    with both.connected(protocol) as found:
        yield found


@pytest.fixture
def regions() -> Iterator[tuple[Any, Any]]:
    """Shared memory with ROWS, and some for the answer, made by Triton's own utilities."""
    made = [
        memory.create_shared_memory_region(name, f"/topclass_{name}_{os.getpid()}", size)
        for name, size in (("input", ROWS.nbytes), ("output", 1000))
    ]
    memory.set_shared_memory_region(made[0], [ROWS])
    yield made[0], made[1]
    for each in made:
        memory.destroy_shared_memory_region(each)


def register(client: Any) -> None:
    """Tells the server of the two regions."""
    client.unregister_system_shared_memory()
    for name, size in (("input", ROWS.nbytes), ("output", 1000)):
        client.register_system_shared_memory(name, f"/topclass_{name}_{os.getpid()}", size)


def test_tensors_in_shared_memory(protocol: str, client: Any, regions: tuple[Any, Any]) -> None:
    """Registered, listed, read, written and unregistered, as Triton's example does it; then the region is unknown."""
    triton = both.module(protocol)
    register(client)
    status = both.plain(client.get_system_shared_memory_status())
    names = [each["name"] for each in status] if protocol == "http" else sorted(status["regions"])
    assert names == ["input", "output"]
    given = triton.InferInput("image", list(ROWS.shape), "UINT8")
    given.set_shared_memory("input", ROWS.nbytes)
    wanted = triton.InferRequestedOutput("probabilities")
    wanted.set_shared_memory("output", 60, offset=40)
    result = client.infer("pets", [given], outputs=[wanted])
    assert "data" not in both.plain(result.get_response())["outputs"][0]
    found = memory.get_contents_as_numpy(regions[1], np.float32, [5, 3], offset=40)
    np.testing.assert_allclose(found, expected(ROWS), atol=1e-6)
    client.unregister_system_shared_memory("input")
    with pytest.raises(InferenceServerException) as caught:
        client.infer("pets", [given])
    assert "no shared memory region 'input' is registered; there is 'output'" in caught.value.message()
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "404")
    client.unregister_system_shared_memory()
    assert not both.plain(client.get_system_shared_memory_status())


def test_the_input_may_lie_in_shared_memory_and_the_answer_in_the_reply(
    protocol: str, client: Any, regions: tuple[Any, Any]
) -> None:
    """And the other way round."""
    triton = both.module(protocol)
    register(client)
    given = triton.InferInput("image", list(ROWS.shape), "UINT8")
    given.set_shared_memory("input", ROWS.nbytes)
    found = client.infer("pets", [given]).as_numpy("probabilities")
    np.testing.assert_allclose(found, expected(ROWS), atol=1e-6)
    given.set_data_from_numpy(ROWS)
    wanted = triton.InferRequestedOutput("probabilities")
    wanted.set_shared_memory("output", 1000)
    client.infer("pets", [given], outputs=[wanted])
    found = memory.get_contents_as_numpy(regions[1], np.float32, [5, 3])
    np.testing.assert_allclose(found, expected(ROWS), atol=1e-6)


def test_a_wrong_region_is_told_in_the_same_words(client: Any) -> None:
    """A file that is not there, and a name that is taken."""
    client.unregister_system_shared_memory()
    with pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("r", "/topclass_no_such", 1)
    assert "there is no '/topclass_no_such' in /dev/shm" in caught.value.message()
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "404")


@pytest.mark.usefixtures("regions")
def test_a_name_that_is_taken_is_told_so(client: Any) -> None:
    """ALREADY_EXISTS, 409."""
    register(client)
    with pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("input", f"/topclass_input_{os.getpid()}", 1)
    assert "there is a region 'input' already; unregister it first" in caught.value.message()
    assert caught.value.status() in ("StatusCode.ALREADY_EXISTS", "409")
    client.unregister_system_shared_memory()


def test_pictures_as_the_image_client_sends_them(protocol: str, client: Any) -> None:
    """One input of three dimensions in a named format, one vector out, and labels behind each class."""
    triton = both.module(protocol)
    metadata = both.plain(client.get_model_metadata("photos"))
    config = both.plain(client.get_model_config("photos"))
    config = config.get("config", config)
    [given], [taken] = metadata["inputs"], metadata["outputs"]
    [spec], [output] = config["input"], config["output"]
    assert taken["datatype"] == "FP32"
    assert len(given["shape"]) == len(taken["shape"]) + 2 == 4  # a batch of pictures in, a batch of vectors out
    assert len(output["dims"]) == 1
    height, width, colours = map(int, given["shape"][1:] if spec["format"] == "FORMAT_NHWC" else ())
    assert (height, width, colours) == PHOTOS.shape[1:]
    batch = PHOTOS.astype(triton_to_np_dtype(given["datatype"]))
    assert int(config["max_batch_size"]) >= len(batch)
    tensor = triton.InferInput(given["name"], batch.shape, given["datatype"])
    tensor.set_data_from_numpy(batch)
    wanted = triton.InferRequestedOutput(taken["name"], class_count=2)
    answer = client.infer("photos", [tensor], outputs=[wanted]).as_numpy(taken["name"])
    assert answer.shape == (3, 2)
    for row, probabilities in zip(answer, expected(PHOTOS), strict=True):
        for text, index in zip(row, np.argsort(-probabilities), strict=False):
            value, found, label = text.decode().split(":")
            assert (int(found), label) == (index, LABELS[index])
            assert abs(float(value) - probabilities[index]) < 1e-4
