"""Shared memory over HTTP: the same as over gRPC, with the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import models
from tests.conftest import LiveServer
from tests.server.test_shared_memory import ROWS, file, floats, pytestmark  # noqa: F401
from tests.server.web import Reply, ask, behind

REGION = "/v2/systemsharedmemory/region/r"


@pytest.fixture
def memory(repository: Path, serve: Callable[..., LiveServer]) -> LiveServer:
    """A server with shared memory and an HTTP port."""
    return serve(models=repository, shared_memory=True, http_port=0)


def infer(server: LiveServer, parameters: dict[str, Any], outputs: list[dict[str, Any]] | None = None) -> Reply:
    """A request whose input lies in shared memory."""
    given = {"name": "image", "datatype": "UINT8", "shape": [2, 4, 4], "parameters": parameters}
    return ask(server, "/v2/models/pets/infer", {"inputs": [given], "outputs": outputs or []})


def region(size: int = 32, **more: Any) -> dict[str, Any]:
    """Parameters of a tensor that lies in the region."""
    return {"shared_memory_region": "r", "shared_memory_byte_size": size, **more}


def test_a_region_is_registered_used_listed_and_forgotten(memory: LiveServer, file: Path) -> None:  # noqa: F811
    """The answer lies in the file, and its document has neither data nor bytes behind it."""
    said = ask(memory, f"{REGION}/register", {"key": f"/{file.name}", "offset": 0, "byte_size": 4096})
    assert (said.status, said.json) == (200, {})
    listed = [{"name": "r", "key": f"/{file.name}", "offset": 0, "byte_size": 4096}]
    assert ask(memory, "/v2/systemsharedmemory/status").json == listed
    assert ask(memory, f"{REGION}/status").json == listed
    [output] = infer(
        memory, region(), [{"name": "probabilities", "parameters": region(24, shared_memory_offset=1000)}]
    ).json["outputs"]
    assert output == {"name": "probabilities", "datatype": "FP32", "shape": [2, 3]}
    np.testing.assert_allclose(floats(file, 1000, 2), models.expected(ROWS), atol=1e-6)
    [output] = infer(memory, region()).json["outputs"]
    np.testing.assert_allclose(np.reshape(output["data"], (2, 3)), models.expected(ROWS), atol=1e-6)
    assert ask(memory, f"{REGION}/unregister", {}).status == 200
    assert ask(memory, "/v2/systemsharedmemory/unregister", b"").status == 200
    assert ask(memory, "/v2/systemsharedmemory/status").json == []


WRONG = {
    "no object": ([], 400, "the body is a list; it must be an object"),
    "a key in numbers": ({"key": 7, "byte_size": 1}, 400, "'key' is a number; it must be text"),
    "a size in words": ({"key": "x", "byte_size": "1"}, 400, "'byte_size' is text; it must be a whole number"),
    "a fraction": ({"key": "x", "byte_size": 1.5}, 400, "'byte_size' is 1.5; it must be a whole number"),
    "a negative offset": (
        {"key": "x", "byte_size": 1, "offset": -1},
        400,
        "'offset' is -1; it must be a whole number from 0",
    ),
    "an enormous size": ({"key": "x", "byte_size": 2**64}, 400, "'byte_size' is 1.8446744073709552e+19; it must be a"),
    "another folder": ({"key": "/etc/passwd", "byte_size": 1}, 400, "the key is '/etc/passwd'; it must be the name"),
    "no key": ({"byte_size": 1}, 400, "the key is ''; it must be the name of a file in /dev/shm"),
    "half a surrogate pair": (b'{"key": "\\ud800", "byte_size": 1}', 400, "the body is no JSON"),
    "no such file": ({"key": "topclass-no-such", "byte_size": 1}, 404, "there is no 'topclass-no-such' in /dev/shm"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_region_is_told_what_is_wrong(memory: LiveServer, case: str) -> None:
    """Status and words, and nothing is registered."""
    body, status, words = WRONG[case]
    reply = ask(memory, f"{REGION}/register", body)
    assert (reply.status, words in reply.error) == (status, True), reply.error
    assert ask(memory, "/v2/systemsharedmemory/status").json == []


def test_a_name_that_is_taken_is_409(memory: LiveServer, file: Path) -> None:  # noqa: F811
    """With the words of gRPC's ALREADY_EXISTS."""
    body = {"key": file.name, "byte_size": 1}
    assert ask(memory, f"{REGION}/register", body).status == 200
    reply = ask(memory, f"{REGION}/register", body)
    assert (reply.status, reply.error) == (409, "there is a region 'r' already; unregister it first")


def test_wrong_tensors_are_told_what_is_wrong(memory: LiveServer, file: Path) -> None:  # noqa: F811
    """An unknown region, elements in two places, and a file that was cut."""
    unknown = infer(memory, region())
    assert (unknown.status, unknown.error) == (404, "no shared memory region 'r' is registered; there is none")
    assert ask(memory, f"{REGION}/register", {"key": file.name, "byte_size": 4096}).status == 200
    given = {"name": "image", "datatype": "UINT8", "shape": [2, 4, 4], "parameters": region(), "data": [0] * 32}
    twice = ask(memory, "/v2/models/pets/infer", {"inputs": [given]})
    assert (twice.status, "lies in shared memory, and the request holds elements too" in twice.error) == (400, True)
    del given["data"]
    given["parameters"] = region(binary_data_size=32)
    body, headers = behind({"inputs": [given]}, ROWS.tobytes())
    assert ask(memory, "/v2/models/pets/infer", body, headers).error == twice.error
    file.write_bytes(b"")
    cut = infer(memory, region())
    assert (cut.status, f"'{file.name}', was cut to 0 bytes; register it again" in cut.error) == (400, True)


ABSENT = [
    ("GET", "/v2/cudasharedmemory/status", "CudaSharedMemoryStatus"),
    ("POST", "/v2/cudasharedmemory/region/r/register", "CudaSharedMemoryRegister"),
    ("POST", "/v2/cudasharedmemory/unregister", "CudaSharedMemoryUnregister"),
    ("GET", "/v2/trace/setting", "TraceSetting"),
    ("POST", "/v2/models/pets/trace/setting", "TraceSetting"),
    ("GET", "/v2/logging", "LogSettings"),
]


@pytest.mark.parametrize(("method", "path", "name"), ABSENT)
def test_what_is_absent_is_501(memory: LiveServer, method: str, path: str, name: str) -> None:
    """Memory of GPUs, trace and log settings, by name."""
    reply = ask(memory, path, b"{}" if method == "POST" else None, method=method)
    assert (reply.status, reply.error.startswith(f"this server has no {name}, nor anything of")) == (501, True)


@pytest.mark.parametrize("path", [f"{REGION}/register", f"{REGION}/unregister", "/v2/systemsharedmemory/unregister"])
def test_a_page_of_another_site_may_change_nothing(memory: LiveServer, path: str) -> None:
    """What a browser says to come from elsewhere is refused before its body is looked at."""
    reply = ask(memory, path, b"rubbish", {"sec-fetch-site": "cross-site"})
    assert (reply.status, "a page of another site may not" in reply.error) == (409, True)


@pytest.mark.parametrize("place", ["inputs", "outputs"])
def test_a_page_of_another_site_may_not_use_shared_memory(memory: LiveServer, place: str) -> None:
    """Neither as what is read nor as what is written; without it, it may ask."""
    document: dict[str, Any] = {
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 4, 4], "data": [0] * 16}],
        "outputs": [{"name": "probabilities"}],
    }
    headers = {"sec-fetch-site": "cross-site"}
    assert ask(memory, "/v2/models/pets/infer", document, headers).status == 200
    document[place][0]["parameters"] = region()
    reply = ask(memory, "/v2/models/pets/infer", document, headers)
    assert (reply.status, reply.error) == (409, "a page of another site may not use shared memory here")


def test_without_the_setting_it_is_501(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """With the flag that would make it."""
    server = serve(models=repository, http_port=0)
    for path, body in (("status", None), ("region/r/register", {}), ("unregister", {})):
        reply = ask(server, f"/v2/systemsharedmemory/{path}", body)
        assert (reply.status, reply.error.endswith(": it was not started with --shared-memory")) == (501, True)
    reply = infer(server, region())
    assert (reply.status, reply.error) == (
        501, "this server has no shared memory: it was not started with --shared-memory",
    )  # fmt: skip
