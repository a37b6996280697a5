"""The Open Inference Protocol over HTTP: the methods of its gRPC service, asked with JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.responses import Response

from server.http import documents, messages
from server.http.documents import Documents, field, plain
from server.http.endpoint import Arrived, Operation, refuse_other_sites
from server.interceptor import Call, Unary
from server.open_inference import shared_memory
from server.open_inference.service import ABSENT, OpenInferenceService
from server.open_inference.stubs import grpc_service_pb2 as pb

R = TypeVar("R", bound=Message)
_MODEL, _VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"


class OpenInferenceRoutes:
    """The operations under /v2. Each asks the method of the gRPC service that has the same answer."""

    def __init__(self, service: OpenInferenceService, methods: Mapping[str, Unary], reader: Documents):
        """methods: the service's unary ones by name, as gRPC has them; reader: of JSON, shared by the whole port."""
        self._service, self._methods, self._reader = service, methods, reader

    def operations(self) -> list[Operation]:
        """All of them; what comes first is looked at first."""
        of_models = (
            ("POST", "/infer", "ModelInfer", self._infer),
            ("GET", "", "ModelMetadata", self._metadata),
            ("GET", "/ready", "ModelReady", self._model_ready),
            ("GET", "/config", "ModelConfig", self._model_config),
            ("GET", "/stats", "ModelStatistics", self._statistics),
        )
        return [
            Operation("GET", "/v2", "ServerMetadata", self._server),
            Operation("GET", "/v2/health/live", "ServerLive", self._live),
            Operation("GET", "/v2/health/ready", "ServerReady", self._ready),
            Operation("GET", "/v2/models", "Models", self._models),
            Operation("GET", "/v2/models/stats", "ModelStatistics", self._statistics),
            *(
                Operation(verb, start + rest, name, handler)
                for start in (_MODEL, _VERSION)
                for verb, rest, name, handler in of_models
            ),
            Operation("POST", "/v2/repository/index", "RepositoryIndex", self._index),
            Operation("POST", "/v2/repository/models/{model}/load", "RepositoryModelLoad", self._load),
            Operation("POST", "/v2/repository/models/{model}/unload", "RepositoryModelUnload", self._unload),
        ]

    def absent(self) -> list[Operation]:
        """What the field's servers have and this one has not: told so in the words of gRPC, and described nowhere."""
        memory = [
            ("GET" if what == "status" else "POST", f"/v2/{kind}sharedmemory{region}/{what}", name)
            for kind, start in (("system", "System"), ("cuda", "Cuda"))
            for what in ("status", "register", "unregister")
            if (name := f"{start}SharedMemory{what.title()}") in ABSENT
            for region in ("", "/region/{region}")
        ]
        settings = [
            (verb, path, name)
            for path, name in (
                ("/v2/trace/setting", "TraceSetting"),
                (f"{_MODEL}/trace/setting", "TraceSetting"),
                ("/v2/logging", "LogSettings"),
            )
            if name in ABSENT
            for verb in ("GET", "POST")
        ]
        return [Operation(verb, path, name, self._absent) for verb, path, name in memory + settings]

    async def _absent(self, _arrived: Arrived, call: Call) -> Response:
        await self._service.absent(b"", call)
        raise AssertionError("it raises")

    async def _ask(self, kind: type[R], method: str, request: Message, call: Call) -> R:
        return kind.FromString(await self._methods[method](request.SerializeToString(), call))

    async def _infer(self, arrived: Arrived, call: Call) -> Response:
        length = arrived.headers.get(messages.HEADER_LENGTH)
        model, version = arrived.path["model"], arrived.path.get("version", "")
        if length == "0":
            metadata = await self._ask(
                pb.ModelMetadataResponse, "ModelMetadata", pb.ModelMetadataRequest(**_named(arrived)), call
            )
            asked = messages.of_bytes(arrived.body, metadata, version)
        else:
            asked = await messages.read(arrived.body, length, self._reader, model, version)
        if shared_memory.used(asked.request):
            refuse_other_sites(arrived, "use shared memory")
        given = asked.given[:]
        asked.given.clear()  # that nobody holds lists of JSON while the rows wait
        return await messages.write(await self._service.infer(asked.request, given, call), asked.binary)

    async def _server(self, _arrived: Arrived, call: Call) -> Response:
        asked = pb.ServerMetadataRequest()
        found = await self._ask(pb.ServerMetadataResponse, "ServerMetadata", asked, call)
        return documents.response(plain(found))

    async def _live(self, _arrived: Arrived, call: Call) -> Response:
        found = await self._ask(pb.ServerLiveResponse, "ServerLive", pb.ServerLiveRequest(), call)
        return documents.response(plain(found))

    async def _ready(self, _arrived: Arrived, call: Call) -> Response:
        found = await self._ask(pb.ServerReadyResponse, "ServerReady", pb.ServerReadyRequest(), call)
        return documents.response(plain(found), 200 if found.ready else 503)

    async def _model_ready(self, arrived: Arrived, call: Call) -> Response:
        asked = pb.ModelReadyRequest(**_named(arrived))
        found = await self._ask(pb.ModelReadyResponse, "ModelReady", asked, call)
        return documents.response({"name": asked.name, "ready": found.ready}, 200 if found.ready else 503)

    async def _models(self, _arrived: Arrived, call: Call) -> Response:
        found = await self._ask(
            pb.RepositoryIndexResponse, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True), call
        )
        return documents.response({"models": sorted({model.name for model in found.models})})

    async def _metadata(self, arrived: Arrived, call: Call) -> Response:
        asked = pb.ModelMetadataRequest(**_named(arrived))
        found = plain(await self._ask(pb.ModelMetadataResponse, "ModelMetadata", asked, call))
        if not found["properties"]:
            del found["properties"]
        return documents.response(found)

    async def _model_config(self, arrived: Arrived, call: Call) -> Response:
        asked = pb.ModelConfigRequest(**_named(arrived))
        found = await self._ask(pb.ModelConfigResponse, "ModelConfig", asked, call)
        return documents.response(plain(found.config))

    async def _statistics(self, arrived: Arrived, call: Call) -> Response:
        asked = pb.ModelStatisticsRequest(**_named(arrived))
        return documents.response(plain(await self._ask(pb.ModelStatisticsResponse, "ModelStatistics", asked, call)))

    async def _index(self, arrived: Arrived, call: Call) -> Response:
        asked = pb.RepositoryIndexRequest(ready=field(await self._document(arrived), "ready", bool, False))
        found = await self._ask(pb.RepositoryIndexResponse, "RepositoryIndex", asked, call)
        return documents.response(plain(found)["models"])

    async def _load(self, arrived: Arrived, call: Call) -> Response:
        given = await self._control(arrived)
        asked = pb.RepositoryModelLoadRequest(model_name=arrived.path["model"], parameters=given)
        await self._ask(pb.RepositoryModelLoadResponse, "RepositoryModelLoad", asked, call)
        return documents.response({})

    async def _unload(self, arrived: Arrived, call: Call) -> Response:
        given = await self._control(arrived)
        asked = pb.RepositoryModelUnloadRequest(model_name=arrived.path["model"], parameters=given)
        await self._ask(pb.RepositoryModelUnloadResponse, "RepositoryModelUnload", asked, call)
        return documents.response({})

    async def _control(self, arrived: Arrived) -> Mapping[str, pb.ModelRepositoryParameter]:
        """The parameters of a wish to load or unload."""
        refuse_other_sites(arrived, "load or unload models")
        return messages.parameter_map(await self._document(arrived))

    async def _document(self, arrived: Arrived) -> dict[str, Any]:
        """The object in a body that may be left out."""
        return messages.an_object(await self._reader.read(arrived.body or b"{}"), "the body")


def _named(arrived: Arrived) -> dict[str, str]:
    return {"name": arrived.path.get("model", ""), "version": arrived.path.get("version", "")}
