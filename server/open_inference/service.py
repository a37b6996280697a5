"""inference.GRPCInferenceService: the field's messages to arrays and back. Works on bytes; knows no transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

import topclass
from server import checks
from server.config import Config
from server.errors import Unavailable, UnknownModel, Unsupported
from server.interceptor import Call, Unary, told
from server.lanes import Answer
from server.metrics import Metrics
from server.open_inference import answers, describe, parameters, tensors
from server.open_inference.memory import MemoryService
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.plain import Plain, shape_of
from server.protobuf import delimited
from server.repository import Repository, Served, State
from server.service import STREAM_WINDOW, parse

EXTENSIONS = ("classification", "schedule_policy", "model_configuration", "parameters", "statistics")
CONTROL = ("model_repository", "model_repository(unload_dependents)")  # nothing here depends on another model
ABSENT = (
    "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister",
    "TraceSetting", "LogSettings",
)  # fmt: skip
MEMORY = "system_shared_memory"
_MANY_TEXTS = 10_000  # classes as text that take so long to write that others should go between
_FINAL = "triton_enable_empty_final_response"


class OpenInferenceService:
    """The methods. Each takes the bytes of a request and gives the bytes of a response, or raises ServingError."""

    NAME = "inference.GRPCInferenceService"

    def __init__(
        self, repository: Repository, config: Config, is_ready: Callable[[], bool], metrics: Metrics | None = None
    ):
        self._repository, self._config, self._is_ready, self._metrics = repository, config, is_ready, metrics
        self.memory = MemoryService(config)

    def unary(self) -> dict[str, Unary]:
        """The methods of one request and one reply, but the two that load and unload."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            **self.memory.unary(),
            **dict.fromkeys(ABSENT, self.absent),
        }

    async def server_live(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        parse(pb.ServerLiveRequest, message)
        return pb.ServerLiveResponse(live=True).SerializeToString()

    async def server_ready(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        parse(pb.ServerReadyRequest, message)
        return pb.ServerReadyResponse(ready=self._is_ready()).SerializeToString()

    async def model_ready(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.ModelReadyRequest, message)
        try:
            self._find(request.name, request.version)
        except (UnknownModel, Unavailable):
            return pb.ModelReadyResponse(ready=False).SerializeToString()
        return pb.ModelReadyResponse(ready=True).SerializeToString()

    async def server_metadata(self, message: bytes, _call: Call) -> bytes:
        """See the proto. Only what works here is listed."""
        parse(pb.ServerMetadataRequest, message)
        extensions = EXTENSIONS + (CONTROL if self._config.allow_control else ())
        extensions += (MEMORY,) if self._config.shared_memory else ()
        extensions += ("binary_tensor_data",) if self._config.http_port >= 0 else ()
        response = pb.ServerMetadataResponse(name="topclass", version=topclass.__version__, extensions=extensions)
        return response.SerializeToString()

    async def model_metadata(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.ModelMetadataRequest, message)
        served = self._find(request.name, request.version)
        versions = [other.version for other in self._repository.ready() if other.name == served.name]
        return describe.metadata(served, versions, self._config).SerializeToString()

    async def model_config(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.ModelConfigRequest, message)
        served = self._find(request.name, request.version)
        return pb.ModelConfigResponse(config=describe.config(served, self._config)).SerializeToString()

    async def model_statistics(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.ModelStatisticsRequest, message)
        if request.version:
            versions = [self._find(request.name, request.version)]
        else:
            versions = [served for served in self._repository.ready() if request.name in ("", served.name)]
        if request.name and not versions:
            versions = [self._find(request.name, "")]  # which says why there is none
        response = pb.ModelStatisticsResponse(model_stats=map(describe.statistics, versions))
        return response.SerializeToString()

    async def repository_index(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.RepositoryIndexRequest, message)
        if request.repository_name:
            raise Unsupported("this server has one repository, without a name: leave repository_name empty")
        entries = [e for e in self._repository.entries() if e.state is State.READY or not request.ready]
        return pb.RepositoryIndexResponse(models=map(describe.index, entries)).SerializeToString()

    async def repository_model_load(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.RepositoryModelLoadRequest, message)
        name = request.model_name or request.repository_name
        checks.control(self._config, "RepositoryModelLoad", name)
        if request.parameters:
            given = ", ".join(sorted(request.parameters))
            raise Unsupported(f"this server loads models as they lie in its repository; the request has {given[:200]}")
        await self._repository.load(name)
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def repository_model_unload(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.RepositoryModelUnloadRequest, message)
        name = request.model_name or request.repository_name
        checks.control(self._config, "RepositoryModelUnload", name)
        await self._repository.unload(name)
        return pb.RepositoryModelUnloadResponse().SerializeToString()

    async def absent(self, _message: bytes, call: Call) -> bytes:
        """What the field's servers have and this one has not."""
        method = call.method.rpartition("/")[2]
        raise Unsupported(f"this server has no {method}, nor anything of GPUs' memory, trace or log settings")

    async def model_infer(self, message: bytes, call: Call) -> bytes:
        """See the proto."""
        return (await self.infer(*tensors.read_request(message), call)).SerializeToString()

    async def infer(
        self, request: pb.ModelInferRequest, given: Sequence[tensors.Given], call: Call
    ) -> pb.ModelInferResponse:
        """The answer, whatever transport brought the request. given: see tensors.rows."""
        served = self._find(request.model_name, request.model_version)
        call.model, call.version = served.name, str(served.version)
        regions, started = self.memory.regions, time.perf_counter()
        want = answers.wanted(request, served, regions)
        priority = parameters.priority(request.parameters)
        deadline = min(call.deadline, parameters.deadline(request.parameters))
        rows = await tensors.rows(request, given, served.model.input, self._config, regions)
        del given  # the lists of a JSON document take many times the memory of the array
        served.model.check(rows)
        answers.check(want, len(rows), served)
        queued = time.perf_counter()
        answer = await served.submit(rows, deadline, priority, call.trace)
        computed = time.perf_counter()
        if want.texts(len(rows)) > _MANY_TEXTS:
            response = await asyncio.to_thread(answers.write, answer, want, served)
        else:
            response = answers.write(answer, want, served)
        await answers.put_away(response, want, regions)
        served.statistics.moved(queued - started, time.perf_counter() - computed)
        return response

    async def model_stream_infer(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """See the proto. Several are in progress at once; when the caller leaves, what is unfinished is dropped."""
        pending: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(STREAM_WINDOW)
        tasks = set[asyncio.Task[bytes]]()

        async def read() -> None:
            try:
                async for message in messages:
                    task = asyncio.create_task(self._stream_reply(message, call))
                    tasks.add(task)
                    await pending.put(task)
            finally:
                await pending.put(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await pending.get()) is not None:
                yield await task
                tasks.discard(task)
            await reader
        finally:
            for unfinished in (reader, *tasks):
                unfinished.cancel()
            while not pending.empty():  # so that the reader's last word has room
                pending.get_nowait()

    async def _stream_reply(self, message: bytes, stream: Call) -> bytes:
        call, started, code = stream.message(), time.perf_counter(), "CANCELLED"
        reply = pb.ModelStreamInferResponse()
        try:
            request, raw = tensors.read_request(message)
            reply.infer_response.id = request.id
            response = await self.infer(request, raw, call)
            code = "OK"
            if parameters.flag(request.parameters, _FINAL):
                response.parameters["triton_final_response"].bool_param = True
            return delimited(2, response.SerializeToString())
        except Exception as error:
            fault = told(error, call)
            code, reply.error_message = fault.code.name, str(fault)
        finally:
            if self._metrics:
                self._metrics.request(call.method, call.model, call.version, code, started)
            call.end(code)
        return reply.SerializeToString()

    def _find(self, name: str, version: str) -> Served:
        return find(self._repository, name, version)


def plain(message: bytes) -> Plain | None:
    """A ModelInferRequest as a plain one; see `server/plain.py`."""
    found = tensors.find_raw(message)
    if found is None:
        return None
    request, start, stop = found
    if len(request.inputs) != 1 or len(request.outputs) > 1 or request.parameters:
        return None
    [tensor] = request.inputs
    dtype = tensors.DATATYPES.get(tensor.datatype)
    shape = shape_of(tensor.shape, dtype, stop - start) if dtype else None
    if dtype is None or shape is None or any(output.parameters for output in request.outputs):
        return None

    def look(repository: Repository) -> Served:
        served = find(repository, request.model_name, request.model_version)
        answers.wanted(request, served, None)
        return served

    def write(several: Sequence[Answer], served: Served) -> list[bytes]:
        want = answers.wanted(request, served, None)
        return [answers.write(answer, want, served).SerializeToString() for answer in several]

    return Plain(start, stop, dtype, shape, look, write, tensor.name)


def find(repository: Repository, name: str, version: str) -> Served:
    """The version that a request names; InvalidInput, UnknownModel or Unavailable, with the words, where none is."""
    return repository.find(name, checks.version(version))
