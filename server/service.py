"""topclass.v1: protobuf to arrays and back, one method for each RPC, no policy. Works on bytes; knows no transport."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from server import checks, images, wire
from server.config import Config
from server.errors import InvalidInput, OtherModel, QueueFull
from server.interceptor import Call, told
from server.lanes import Answer
from server.metrics import Metrics
from server.model import InputSpec
from server.plain import Plain, shape_of
from server.repository import Entry, Repository, Served, State
from topclass.v1 import inference_pb2 as pb

DTYPES: dict[pb.DataType.ValueType, np.dtype] = {
    pb.DATA_TYPE_UINT8: np.dtype(np.uint8),
    pb.DATA_TYPE_FLOAT32: np.dtype(np.float32).newbyteorder("<"),
}
LOWEST_PRIORITY = 9
STREAM_WINDOW = 256  # requests of one stream in progress; the transport holds back the rest

M = TypeVar("M", bound=Message)
STATES = {
    State.LOADING: pb.MODEL_STATE_LOADING,
    State.READY: pb.MODEL_STATE_READY,
    State.UNAVAILABLE: pb.MODEL_STATE_UNAVAILABLE,
}


class InferenceService:
    """The methods. Each takes the bytes of a request and gives the bytes of a response, or raises ServingError."""

    NAME = "topclass.v1.InferenceService"

    def __init__(
        self, repository: Repository, config: Config, decoders: ThreadPoolExecutor, metrics: Metrics | None = None
    ):
        self._repository, self._config, self._decoders, self._metrics = repository, config, decoders, metrics
        self._decoding_bytes = 0

    async def predict(self, message: bytes, call: Call) -> bytes:
        """See the proto."""
        return await self.answer(*wire.read_request(message), call)

    async def answer(self, request: pb.PredictRequest, data: memoryview, call: Call) -> bytes:
        """The bytes of a PredictResponse, whatever transport brought the request. data: its tensor's, if it has one."""
        served = self._repository.find(request.model, request.version, request.alias)
        call.model, call.version = served.name, str(served.version)
        if request.model_sha256 and request.model_sha256 != served.model.sha256:
            raise OtherModel(
                f"sha256 {request.model_sha256[:64]!r} was asked for; {served.name!r} version {served.version} "
                f"has {served.model.sha256}"
            )
        if request.priority > LOWEST_PRIORITY:
            raise InvalidInput(f"the priority is {request.priority}; it must be from 0, which goes first, to 9")
        started = time.perf_counter()
        rows = await self._rows(request, data, served, call)
        queued = time.perf_counter()
        answer = await served.submit(rows, call.deadline, request.priority, call.trace)
        computed = time.perf_counter()
        response = served.writer.write(answer, request)
        served.statistics.moved(queued - started, time.perf_counter() - computed)
        return response

    async def predict_stream(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """See the proto. Replies come as they are ready; when the caller leaves, what is unfinished is dropped."""
        replies: asyncio.Queue[bytes | None] = asyncio.Queue()
        window = asyncio.Semaphore(STREAM_WINDOW)

        async def answer(message: bytes) -> None:
            await replies.put(await self._stream_reply(message, call))

        async def read(tasks: asyncio.TaskGroup) -> None:
            async for message in messages:
                await window.acquire()
                tasks.create_task(answer(message))

        async def run() -> None:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(read(tasks))
            finally:
                replies.put_nowait(None)

        runner = asyncio.create_task(run())
        try:
            while (reply := await replies.get()) is not None:
                window.release()
                yield reply
            await runner
        finally:
            runner.cancel()

    async def get_model(self, message: bytes, call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.GetModelRequest, message)
        served = self._repository.find(request.model, request.version, request.alias)
        call.model, call.version = served.name, str(served.version)
        spec = served.model.input
        response = pb.GetModelResponse(
            model=self._describe(next(e for e in self._repository.entries() if e.served is served)),
            input=pb.TensorSpec(name=spec.name, dtype=_wire_dtype(spec.dtype), shape=[-1, *spec.row]),
            labels=served.model.labels,
            card_json=served.model.card.json if served.model.card else "",
            max_rows=self._config.max_request_rows,
        )
        return response.SerializeToString()

    async def list_models(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        parse(pb.ListModelsRequest, message)
        models = [self._describe(entry) for entry in self._repository.entries()]
        return pb.ListModelsResponse(models=models, problems=self._repository.problems()).SerializeToString()

    async def load_model(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.LoadModelRequest, message)
        checks.control(self._config, "LoadModel", request.model)
        entries = await self._repository.load(request.model, request.version)
        return pb.LoadModelResponse(models=map(self._describe, entries)).SerializeToString()

    async def unload_model(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.UnloadModelRequest, message)
        checks.control(self._config, "UnloadModel", request.model)
        entries = await self._repository.unload(request.model, request.version)
        return pb.UnloadModelResponse(models=map(self._describe, entries)).SerializeToString()

    async def _stream_reply(self, message: bytes, stream: Call) -> bytes:
        call, started, code = stream.message(), time.perf_counter(), "CANCELLED"
        reply = pb.PredictStreamResponse()
        try:
            request = parse(pb.PredictStreamRequest, message)
            reply.id = request.id
            response = await self.answer(request.request, memoryview(request.request.tensor.data), call)
            code = "OK"
            return wire.stream_reply(request.id, response)
        except Exception as error:
            fault = told(error, call)
            code = fault.code.name
            reply.error.code, reply.error.message = fault.code.value[0], str(fault)
            reply.error.retry_after_ms = fault.retry_after_ms
        finally:
            if self._metrics:
                self._metrics.request(call.method, call.model, call.version, code, started)
            call.end(code)
        return reply.SerializeToString()

    async def _rows(self, request: pb.PredictRequest, data: memoryview, served: Served, call: Call) -> np.ndarray:
        match request.WhichOneof("input"):
            case "tensor":
                rows = array(request.tensor, data)
                checks.count(self._config, len(rows))
                served.model.check(rows)
                return rows
            case "images":
                checks.count(self._config, len(request.images.images))
                spec = served.model.input
                if not spec.is_picture:
                    raise InvalidInput(f"the request holds pictures; the model takes {spec}")
                return await self._decode(list(request.images.images), spec, call)
        raise InvalidInput("the request holds neither a tensor nor images")

    async def _decode(self, files: list[bytes], spec: InputSpec, call: Call) -> np.ndarray:
        """The pictures as rows, decoded in a thread; QueueFull where too many bytes wait for that.

        A caller that leaves, or whose deadline passes, stops its decoding before the next picture.
        """
        size = sum(map(len, files))
        if self._decoding_bytes + size > self._config.max_queue_bytes:
            raise QueueFull(
                f"the queue is full: {self._decoding_bytes} bytes of pictures wait to be decoded, and {size} more "
                f"would exceed {self._config.max_queue_bytes}",
                retry_after_ms=100,
            )
        self._decoding_bytes += size
        left = threading.Event()
        try:
            limits = images.Limits(self._config.max_image_pixels, self._config.max_request_pixels)
            return await asyncio.get_running_loop().run_in_executor(
                self._decoders, images.decode, files, spec, limits,
                lambda: left.is_set() or time.monotonic() > call.deadline,
            )  # fmt: skip
        finally:
            left.set()
            self._decoding_bytes -= size

    def _describe(self, entry: Entry) -> pb.Model:
        served = entry.served
        return pb.Model(
            name=entry.name,
            version=entry.version,
            state=STATES[entry.state],
            reason=entry.reason,
            sha256=served.model.sha256 if served else "",
            provider=served.model.provider if served else "",
            newest=served is not None and served is self._repository.answering(entry.name),
            aliases=self._repository.names(entry),
        )


def plain(message: bytes) -> Plain | None:
    """A PredictRequest as a plain one; see `server/plain.py`."""
    found = wire.find_tensor(message)
    if found is None:
        return None
    request, start, stop = found
    dtype = DTYPES.get(request.tensor.dtype)
    shape = shape_of(request.tensor.shape, dtype, stop - start) if dtype else None
    if dtype is None or shape is None or request.priority or request.model_sha256:
        return None

    def find(repository: Repository) -> Served:
        return repository.find(request.model, request.version, request.alias)

    def write(answers: Sequence[Answer], served: Served) -> list[bytes]:
        return served.writer.write_all(answers, request)

    return Plain(start, stop, dtype, shape, find, write)


def parse(kind: type[M], message: bytes) -> M:
    """The message in these bytes; InvalidInput where they are something else."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {kind.DESCRIPTOR.full_name}") from error


def array(tensor: pb.Tensor, data: memoryview) -> np.ndarray:
    """The array of a tensor whose data is in `data`, without a copy; InvalidInput where they do not fit together."""
    if tensor.dtype not in DTYPES:
        raise InvalidInput(f"the tensor's dtype is {tensor.dtype}; it must be 1 (uint8) or 2 (float32)")
    return checks.shaped(data, DTYPES[tensor.dtype], tensor.shape)


def _wire_dtype(dtype: np.dtype) -> pb.DataType.ValueType:
    return next(number for number, known in DTYPES.items() if known == dtype)
