"""Tensors in shared memory: answered from there and into there; every bad input gets its status and its words."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from server.open_inference import shared_memory
from server.open_inference.stubs import grpc_service_pb2 as pb
from tests import models
from tests.conftest import LiveServer
from tests.server.open_inference import call, infer, number, output, params, probabilities, refused, stream, texts
from tests.server.test_predict import pictures

FOLDER = shared_memory.FOLDER
ROWS = pictures(2)
pytestmark = pytest.mark.skipif(not os.access(FOLDER, os.W_OK), reason=f"no {FOLDER} that can be written")


@pytest.fixture
def memory(repository: Path, serve: Callable[..., LiveServer]) -> LiveServer:
    """A server with shared memory, and little room."""
    return serve(models=repository, shared_memory=True, max_message_bytes=1 << 20)


@pytest.fixture
def file() -> Iterator[Path]:
    """A file of 4096 bytes in shared memory; its first bytes are ROWS."""
    number, path = tempfile.mkstemp(prefix="topclass-test-", dir=FOLDER)
    os.close(number)
    found = Path(path)
    found.write_bytes(ROWS.tobytes().ljust(4096, b"\0"))
    yield found
    found.unlink(missing_ok=True)


def register(server: LiveServer, key: str, name: str = "r", offset: int = 0, size: int = 4096) -> None:
    """SystemSharedMemoryRegister."""
    asked = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    call(server, "SystemSharedMemoryRegister", asked)


def region(name: str = "r", size: int = 32, offset: int = 0) -> dict[str, pb.InferParameter]:
    """Parameters of a tensor that lies in a region."""
    return params(shared_memory_region=name, shared_memory_byte_size=size, shared_memory_offset=offset)


def there(parameters: dict[str, pb.InferParameter], rows: np.ndarray = ROWS, **changes: Any) -> pb.ModelInferRequest:
    """A request whose input lies in shared memory."""
    kind = "UINT8" if rows.dtype == np.uint8 else "FP32"
    given = {"name": "image", "datatype": kind, "shape": rows.shape, "parameters": parameters}
    return infer(rows, inputs=[given], **{"raw_input_contents": [], **changes})


def listed(server: LiveServer, name: str = "") -> dict[str, tuple[str, int, int]]:
    """What is registered."""
    found = call(server, "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name)).regions
    assert all(key == region.name for key, region in found.items())
    return {name: (region.key, region.offset, region.byte_size) for name, region in found.items()}


def floats(path: Path, offset: int, rows: int) -> np.ndarray:
    """Probabilities as they lie in a file."""
    return np.frombuffer(path.read_bytes()[offset : offset + rows * 12], "<f4").reshape(rows, 3)


# ---- what works ----


def test_tensors_go_in_and_come_out_by_regions(memory: LiveServer, file: Path) -> None:
    """The input is read from the region, the answer lies in another part of it, and the reply says where."""
    register(memory, f"/{file.name}")
    register(memory, file.name, "out", 1024, 1024)
    reply = call(memory, "ModelInfer", there(region(), outputs=[output(**region("out", 24, 8))]))
    [tensor] = reply.outputs
    assert (list(tensor.shape), tensor.datatype, list(reply.raw_output_contents)) == ([2, 3], "FP32", [b""])
    assert tensor.parameters["shared_memory_region"].string_param == "out"
    assert tensor.parameters["shared_memory_byte_size"].int64_param == 24
    assert tensor.parameters["shared_memory_offset"].int64_param == 8
    np.testing.assert_allclose(floats(file, 1032, 2), models.expected(ROWS), atol=1e-6)
    assert file.stat().st_size == 4096


def test_a_large_tensor_is_read_and_written(memory: LiveServer, file: Path) -> None:
    """65,536 rows, a megabyte, are answered as numpy computes them, by a stream too."""
    rows = pictures(65_536)
    file.write_bytes(rows.tobytes().ljust(2 << 20, b"\0"))
    register(memory, file.name, size=2 << 20)
    asked = there(region(size=rows.nbytes), rows, outputs=[output(**region(size=1 << 20, offset=1 << 20))])
    assert not any(call(memory, "ModelInfer", asked).raw_output_contents)
    np.testing.assert_allclose(floats(file, 1 << 20, len(rows)), models.expected(rows), atol=1e-5)
    [reply] = stream(memory, [there(region(size=rows.nbytes), rows)])
    np.testing.assert_allclose(probabilities(reply.infer_response), models.expected(rows), atol=1e-5)


def test_classes_as_text_come_out_too(memory: LiveServer, file: Path) -> None:
    """The classification extension writes its elements into the region, and says how many bytes they are."""
    register(memory, file.name)
    into = output(classification=number(1), **region(size=1000, offset=2000))
    [tensor] = call(memory, "ModelInfer", there(region(), outputs=[into])).outputs
    size = tensor.parameters["shared_memory_byte_size"].int64_param
    raw = file.read_bytes()[2000 : 2000 + size]
    found = texts(pb.ModelInferResponse(raw_output_contents=[raw]))
    assert [text.split(":")[2] for text in found] == [models.LABELS[n] for n in models.expected(ROWS).argmax(axis=1)]


def test_regions_are_listed_and_forgotten(memory: LiveServer, file: Path) -> None:
    """By name or all; forgetting what is not there is no error, as in Triton."""
    register(memory, file.name, "a", 0, 100)
    register(memory, file.name, "b", 100, 3996)
    assert listed(memory) == {"a": (file.name, 0, 100), "b": (file.name, 100, 3996)}
    assert listed(memory, "b") == {"b": (file.name, 100, 3996)}
    for name, left in (("c", {"a", "b"}), ("a", {"b"}), ("", set())):
        call(memory, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=name))
        assert listed(memory).keys() == left
    register(memory, file.name, "a")


def test_the_extension_is_listed_only_where_it_is_on(memory: LiveServer, server: LiveServer) -> None:
    """ServerMetadata promises what works."""
    for each, promised in ((memory, True), (server, False)):
        extensions = call(each, "ServerMetadata", pb.ServerMetadataRequest()).extensions
        assert ("system_shared_memory" in extensions) is promised
        assert "cuda_shared_memory" not in extensions


def test_a_region_that_is_forgotten_while_it_is_used_still_answers(
    memory: LiveServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays open until the request has its answer, and is closed then."""
    rows = pictures(65_536)
    file.write_bytes(rows.tobytes() + bytes(786_432))
    register(memory, file.name, size=file.stat().st_size)
    reading, forgotten, read = threading.Event(), threading.Event(), shared_memory.Region.read

    def slow(self: shared_memory.Region, offset: int, size: int) -> bytearray:
        reading.set()
        assert forgotten.wait(10)
        return read(self, offset, size)

    monkeypatch.setattr(shared_memory.Region, "read", slow)
    monkeypatch.setattr(shared_memory, "_AT_ONCE", 0)
    asked = there(region(size=rows.nbytes), rows, outputs=[output(**region(size=786_432, offset=rows.nbytes))])
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, memory, "ModelInfer", asked)
        assert reading.wait(10)
        call(memory, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest())
        forgotten.set()
        assert answer.result(30).outputs
    np.testing.assert_allclose(floats(file, rows.nbytes, len(rows)), models.expected(rows), atol=1e-5)
    assert not any(file.name in str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


# ---- what is wrong ----

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
WRONG_REGIONS: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no name": ({"name": ""}, INVALID, "a region's name has 1 to 256 characters; this one has 0"),
    "a long name": ({"name": "x" * 257}, INVALID, "this one has 257"),
    "a name that is taken": ({"name": "taken"}, grpc.StatusCode.ALREADY_EXISTS, "there is a region 'taken' already"),
    "no key": ({"key": ""}, INVALID, "the key is ''; it must be the name of a file in /dev/shm"),
    "two slashes": ({"key": "//x"}, INVALID, "the key is '//x'; it must be the name"),
    "another folder": ({"key": "/etc/passwd"}, INVALID, "the key is '/etc/passwd'; it must be the name"),
    "the folder above": ({"key": "../etc/passwd"}, INVALID, "the key is '../etc/passwd'; it must be the name"),
    "dots": ({"key": ".."}, INVALID, "the key is '..'; it must be the name"),
    "a NUL": ({"key": "a\0b"}, INVALID, r"the key is 'a\x00b'; it must be the name"),
    "a key of many bytes": ({"key": "ä" * 200}, INVALID, "cannot be opened: File name too long"),
    "no such file": ({"key": "topclass-no-such"}, NOT_FOUND, "there is no 'topclass-no-such' in /dev/shm"),
    "no bytes": ({"byte_size": 0}, INVALID, "which has 4096; it must be 1 or more bytes inside it"),
    "beyond the end": ({"byte_size": 4097}, INVALID, "the region is bytes 0 to 4097 of"),
    "an offset beyond the end": ({"offset": 4096, "byte_size": 1}, INVALID, "the region is bytes 4096 to 4097 of"),
    "enormous numbers": ({"offset": 2**64 - 1, "byte_size": 2**64 - 1}, INVALID, f"to {2**65 - 2} of"),
}


@pytest.mark.parametrize("case", WRONG_REGIONS)
def test_a_wrong_region_is_told_what_is_wrong(memory: LiveServer, file: Path, case: str) -> None:
    """Status and words, and nothing is registered."""
    register(memory, file.name, "taken")
    changes, status, words = WRONG_REGIONS[case]
    asked = pb.SystemSharedMemoryRegisterRequest(
        **{"name": "r", "key": file.name, "offset": 0, "byte_size": 4096, **changes}
    )
    error = refused(memory, "SystemSharedMemoryRegister", asked)
    assert (error.code(), words in error.details()) == (status, True), error.details()
    assert listed(memory).keys() == {"taken"}


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "read only"])
def test_what_is_no_plain_file_is_refused_at_once(memory: LiveServer, file: Path, kind: str) -> None:
    """No link is followed, even to a good file; no pipe waited for; folders and locked files cannot be opened."""
    path = file.with_name(file.name + "-odd")
    words = f"'{path.name}' in /dev/shm cannot be opened: "
    if kind == "link":
        path.symlink_to(file)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
        words = f"'{path.name}' in /dev/shm is no plain file"
    else:
        if os.geteuid() == 0:
            pytest.skip("root may open everything")
        path.touch(0o400)
    try:
        asked = pb.SystemSharedMemoryRegisterRequest(name="r", key=path.name, byte_size=1)
        error = refused(memory, "SystemSharedMemoryRegister", asked)
    finally:
        path.rmdir() if kind == "folder" else path.unlink()
    assert (error.code(), words in error.details()) == (INVALID, True), error.details()


def test_there_is_a_most_of_regions(memory: LiveServer, file: Path) -> None:
    """Each is an open file: the 257th is RESOURCE_EXHAUSTED, until one is unregistered."""
    for n in range(256):
        register(memory, file.name, f"r{n}")
    asked = pb.SystemSharedMemoryRegisterRequest(name="more", key=file.name, byte_size=1)
    error = refused(memory, "SystemSharedMemoryRegister", asked)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "there are 256 regions, which is the most; unregister some" in error.details()
    call(memory, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="r0"))
    call(memory, "SystemSharedMemoryRegister", asked)


WRONG_TENSORS = {
    "unknown region": (there(region("x")), NOT_FOUND, "no shared memory region 'x' is registered; there is 'r'"),
    "no region": (there(region("")), NOT_FOUND, "no shared memory region '' is registered"),
    "a region in numbers": (
        there(region() | params(shared_memory_region=7)), INVALID,
        "'shared_memory_region' is a int64_param; it must be a string_param",
    ),
    "a size in words": (
        there(region() | params(shared_memory_byte_size="32")), INVALID,
        "'shared_memory_byte_size' is a string_param; it must be an int64_param",
    ),
    "no size": (there(params(shared_memory_region="r")), INVALID, "the tensor is bytes 0 to 0 of region 'r'"),
    "a negative size": (there(region(size=-32)), INVALID, "it must be 1 or more bytes inside it"),
    "a negative offset": (there(region(offset=-1)), INVALID, "the tensor is bytes -1 to 31 of region 'r'"),
    "beyond the end": (there(region(offset=4065)), INVALID, "bytes 4065 to 4097 of region 'r', which has 4096"),
    "enormous numbers": (there(region(size=2**63 - 1, offset=2**63 - 1)), INVALID, f"to {2**64 - 2} of region 'r'"),
    "another size": (there(region(size=33)), INVALID, "holds 33 bytes; uint8 of shape [2, 4, 4] takes 32"),
    "no shape": (there(region(), np.zeros((), np.uint8)), INVALID, "the tensor has no shape"),
    "another datatype": (
        there(region(size=128), ROWS.astype(np.float32)), INVALID, "is float32; the model takes uint8 [N, 4, 4]",
    ),
    "raw elements too": (
        there(region(), raw_input_contents=[ROWS.tobytes()]), INVALID,
        "lies in shared memory, and the request holds elements too",
    ),
    "an output that does not fit": (
        there(region(), outputs=[output(**region(size=23))]), INVALID,
        "the answer has 24 bytes; 'shared_memory_byte_size' leaves 23 of region 'r'",
    ),
    "texts that do not fit": (
        there(region(), outputs=[output(classification=number(1), **region(size=9))]), INVALID,
        "bytes; 'shared_memory_byte_size' leaves 9 of region 'r'",
    ),
    "an output nowhere": (there(region(), outputs=[output(**region("x"))]), NOT_FOUND, "no shared memory region 'x'"),
    "an output beyond the end": (
        there(region(), outputs=[output(**region(size=24, offset=4096))]), INVALID, "bytes 4096 to 4120 of region 'r'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_wrong_tensor_is_told_what_is_wrong(memory: LiveServer, file: Path, case: str) -> None:
    """Status and words, and no byte of the file is changed; on a stream the same words."""
    register(memory, file.name)
    before = file.read_bytes()
    request, status, words = WRONG_TENSORS[case]
    error = refused(memory, "ModelInfer", request)
    assert (error.code(), words in error.details()) == (status, True), error.details()
    [reply] = stream(memory, [request])
    assert reply.error_message == error.details()
    assert file.read_bytes() == before


def test_a_file_that_is_cut_is_told_so_and_kills_nobody(memory: LiveServer, file: Path) -> None:
    """Reading and writing beyond its new end are INVALID_ARGUMENT, nothing grows, and the server goes on."""
    register(memory, file.name)
    os.truncate(file, 31)
    read = refused(memory, "ModelInfer", there(region()))
    write = refused(memory, "ModelInfer", infer(ROWS, outputs=[output(**region(size=24, offset=8))]))
    for error in (read, write):
        assert error.code() is INVALID
        assert f"the file of region 'r', '{file.name}', was cut to 31 bytes; register it again" in error.details()
    assert file.stat().st_size == 31
    os.truncate(file, 0)
    assert "was cut to 0 bytes" in refused(memory, "ModelInfer", there(region())).details()
    file.unlink()
    np.testing.assert_allclose(probabilities(call(memory, "ModelInfer", infer(ROWS))), models.expected(ROWS), atol=1e-6)


def test_a_file_cut_over_and_over_while_it_is_used_kills_nobody(memory: LiveServer, file: Path) -> None:
    """A thread cuts and grows it; every request is answered or told that the file was cut."""
    register(memory, file.name)
    stop = threading.Event()

    def cut() -> None:
        while not stop.is_set():
            os.truncate(file, 0)
            os.truncate(file, 4096)

    asked = there(region(size=2048), pictures(128), outputs=[output(**region(size=1536, offset=2048))])
    path = "/inference.GRPCInferenceService/ModelInfer"
    infer_ = memory.channel.unary_unary(path, pb.ModelInferRequest.SerializeToString)
    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut)
        try:
            ended = [infer_.future(asked) for _ in range(300)]
            told = {each.code(): each.details() for each in ended}
        finally:
            stop.set()
        cutting.result(10)
    assert told.keys() <= {grpc.StatusCode.OK, INVALID}
    assert "was cut to" in told.get(INVALID, "was cut to")
    assert call(memory, "ServerLive", pb.ServerLiveRequest()).live


def test_no_room_in_shared_memory_is_told(memory: LiveServer, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file whose pages cannot be had is the words of the system, not the end of the server."""
    register(memory, file.name)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    error = refused(memory, "ModelInfer", there(region(), outputs=[output(**region(size=24))]))
    assert error.code() is INVALID
    assert "region 'r' cannot be written: No space left on device" in error.details()


def test_a_tensor_has_a_most_of_bytes(memory: LiveServer, file: Path) -> None:
    """As many as one message; more is refused before it is copied."""
    os.truncate(file, 2 << 20)
    register(memory, file.name, size=2 << 20)
    error = refused(memory, "ModelInfer", there(region(size=(1 << 20) + 16), np.empty((65_537, 4, 4), np.uint8)))
    assert error.code() is INVALID
    assert "in shared memory has 1048592 bytes; the server takes at most 1048576" in error.details()


def test_copies_in_progress_have_a_most_of_bytes(
    repository: Path, serve: Callable[..., LiveServer], file: Path
) -> None:
    """What the queue has no room for is not copied: RESOURCE_EXHAUSTED, with advice when to come again."""
    memory = serve(models=repository, shared_memory=True, max_queue_bytes=31)
    register(memory, file.name)
    error = refused(memory, "ModelInfer", there(region()))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "0 bytes of shared memory are being copied, and 32 more would exceed 31" in error.details()
    assert ("grpc-retry-pushback-ms", "100") in error.trailing_metadata()


def test_an_unknown_region_has_no_status(memory: LiveServer) -> None:
    """NOT_FOUND, with what there is."""
    error = refused(memory, "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name="x"))
    assert (error.code(), error.details()) == (
        NOT_FOUND, "no shared memory region 'x' is registered; there is none",
    )  # fmt: skip


@pytest.mark.parametrize("method", ["Status", "Register", "Unregister"])
def test_without_the_setting_there_is_none(server: LiveServer, method: str) -> None:
    """UNIMPLEMENTED, with the flag that would make it."""
    name = f"SystemSharedMemory{method}"
    error = refused(server, name, getattr(pb, name + "Request")())
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == f"this server has no {name}: it was not started with --shared-memory"


@pytest.mark.parametrize("request_", [there(region()), infer(ROWS, outputs=[output(**region())])])
def test_without_the_setting_tensors_in_it_are_unimplemented(
    server: LiveServer, request_: pb.ModelInferRequest
) -> None:
    """Of the input as of the output."""
    error = refused(server, "ModelInfer", request_)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "this server has no shared memory: it was not started with --shared-memory"
