"""What `make fuzz` does to the Open Inference Protocol and the HTTP port. Imported by tests.fuzz, after the server."""

from __future__ import annotations

import asyncio
import base64
import gzip
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from starlette.applications import Starlette

from server.batching import Batcher
from server.config import Config
from server.errors import ServingError
from server.http import api
from server.interceptor import Call, Interceptor
from server.open_inference import shared_memory
from server.open_inference.service import OpenInferenceService
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.repository import Repository
from server.service import InferenceService
from tests import models
from tests.server.open_inference import infer, number, output, params
from tests.server.test_fuzz import CALLERS, FILES
from tests.server.test_predict import pictures

ALSO = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ALREADY_EXISTS)
STATUSES = (200, 400, 404, 408, 409, 413, 429, 501, 503, 504)
LENGTH = (b"inference-header-content-length", b"")  # filled in by the first byte
HTTP: list[tuple[str, list[tuple[bytes, bytes]]]] = [
    ("/v2/models/pets/infer", []),
    ("/v2/models/pets/infer", [LENGTH]),
    ("/v2/models/pets/infer", [(b"content-encoding", b"gzip")]),
    ("/v1/models/pets:classify", [(b"content-type", b"application/json")]),
    ("/v1/models/pets:classify", [(b"content-type", b"multipart/form-data; boundary=xx")]),
    ("/v2/repository/index", []),
    ("/v2/systemsharedmemory/region/x/register", []),
]


def open_inference() -> Callable[[bytes], None]:
    """ModelInfer, alone and on a stream, and the small methods, by the first byte."""
    loop = asyncio.new_event_loop()
    _, service = loop.run_until_complete(_services())
    small = [each for name, each in service.unary().items() if name != "ModelInfer"]

    async def one(method: int, message: bytes) -> None:
        async def messages():  # type: ignore[no-untyped-def]
            yield message

        if method < 64:
            await small[method % len(small)](message, Call(""))
        elif method < 192:
            await service.model_infer(message, Call(""))
        else:
            async for reply in service.model_stream_infer(messages(), Call("")):
                assert "internal error" not in pb.ModelStreamInferResponse.FromString(reply).error_message

    def target(data: bytes) -> None:
        _register(service)
        try:
            loop.run_until_complete(one(data[0] if data else 64, data[1:]))
        except ServingError as error:
            if error.code not in (*CALLERS, *ALSO):
                raise

    return target


def http() -> Callable[[bytes], None]:
    """Bodies of the HTTP port by the first byte: JSON, with tensors behind it, compressed, and pictures."""
    loop = asyncio.new_event_loop()
    own, service = loop.run_until_complete(_services())
    app = Starlette(routes=api.routes(own, service, service.unary(), Interceptor(), Config(shared_memory=True)))

    async def one(kind: int, body: bytes) -> int:
        path, headers = HTTP[kind % len(HTTP)]
        length = str(min(kind // len(HTTP) * 8, len(body))).encode()
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 8000),
            "headers": [(name, value or length) for name, value in headers],
        }  # fmt: skip
        statuses, messages = [], iter([{"type": "http.request", "body": body}])

        async def receive():  # type: ignore[no-untyped-def]
            return next(messages, None) or await asyncio.Event().wait()

        async def send(message):  # type: ignore[no-untyped-def]
            statuses.append(message.get("status"))

        await app(scope, receive, send)
        return int(statuses[0])

    def target(data: bytes) -> None:
        _register(service)
        status = loop.run_until_complete(one(data[0] if data else 0, data[1:]))
        if status not in STATUSES:
            raise RuntimeError(f"status {status}")

    return target


async def _services() -> tuple[InferenceService, OpenInferenceService]:
    folder = Path(tempfile.mkdtemp())
    models.put(folder, "pets", 1, models.with_card(models.classifier()))
    config = Config(models=folder, shared_memory=True)
    repository = Repository(config, "cpu", Batcher(workers=1, max_rows=1 << 20, max_bytes=1 << 30))
    await repository.refresh()
    shared_memory.FOLDER = Path(tempfile.mkdtemp())  # what is registered there by chance is nobody's
    (shared_memory.FOLDER / "file").write_bytes(bytes(4096))
    service = OpenInferenceService(repository, config, lambda: True)
    return InferenceService(repository, config, ThreadPoolExecutor(1)), service


def _register(service: OpenInferenceService) -> None:
    """The region `r` and no other, whatever the last input did."""
    regions = service.memory.regions
    assert regions is not None
    regions.unregister("")
    regions.register("r", "file", 0, 4096)


ROWS = pictures(2)
IN_REGION = params(shared_memory_region="r", shared_memory_byte_size=32, shared_memory_offset=0)
INFERS = [
    infer(ROWS, id="a", outputs=[output(classification=number(2))], parameters=params(priority=1, timeout=9)),
    infer(ROWS, typed=True, parameters=params(typed_output=True)),
    infer(pictures(1100)),  # large enough for the decoder that does not copy
    infer(ROWS, raw_input_contents=[], outputs=[output(**IN_REGION)], inputs=[
        {"name": "image", "datatype": "UINT8", "shape": [2, 4, 4], "parameters": IN_REGION}
    ]),
]  # fmt: skip
REGION = pb.SystemSharedMemoryRegisterRequest(name="x", key="/file", offset=1, byte_size=9).SerializeToString()
MESSAGES = [
    *(bytes([first]) + each.SerializeToString() for first in (100, 200) for each in INFERS),
    *(bytes([first]) + message for first in range(16) for message in (b"\x0a\x04pets", REGION)),
]
DOCUMENT = b'{"id":"a","parameters":{"priority":1},"inputs":[{"name":"image","datatype":"UINT8","shape":[1,4,4],%s}],'
DOCUMENT += b'"outputs":[{"name":"probabilities","parameters":{"classification":2}}]}'
BODIES = [
    bytes([first]) + body
    for first in (*range(len(HTTP)), 148)
    for body in (
        DOCUMENT % b'"data":[0,1,2,3,4,5,6,7,8,9,1,1,2,2,3,3]',
        DOCUMENT % b'"parameters":{"binary_data_size":16}' + bytes(16),
        DOCUMENT % b'"parameters":{"shared_memory_region":"r","shared_memory_byte_size":16}',
        gzip.compress(DOCUMENT % b'"data":[[[0]]]'),
        b'{"images":["' + base64.b64encode(FILES[1]) + b'"]}',
        b'--xx\r\nContent-Disposition: form-data; name="file"; filename="0"\r\n\r\n' + FILES[1] + b"\r\n--xx--\r\n",
        b'{"key":"/file","offset":1,"byte_size":9}',
    )
]
