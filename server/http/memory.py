"""Shared memory over HTTP: the methods of the gRPC service, asked with JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from server.errors import InvalidInput
from server.http import documents, messages
from server.http.documents import Documents, field, plain, what
from server.http.endpoint import Arrived, Operation, refuse_other_sites
from server.interceptor import Call, Unary
from server.open_inference.stubs import grpc_service_pb2 as pb

_START = "/v2/systemsharedmemory"
_REGION = f"{_START}/region/{{region}}"
_UINT64 = 1 << 64


class MemoryRoutes:
    """The operations under /v2/systemsharedmemory. Each asks the method of the gRPC service."""

    def __init__(self, methods: Mapping[str, Unary], reader: Documents):
        """methods, reader: as OpenInferenceRoutes has them."""
        self._methods, self._reader = methods, reader

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            *(
                Operation("GET", f"{start}/status", "SystemSharedMemoryStatus", self._status)
                for start in (_START, _REGION)
            ),
            Operation("POST", f"{_REGION}/register", "SystemSharedMemoryRegister", self._register),
            *(
                Operation("POST", f"{start}/unregister", "SystemSharedMemoryUnregister", self._unregister)
                for start in (_START, _REGION)
            ),
        ]

    async def _status(self, arrived: Arrived, call: Call) -> Response:
        asked = pb.SystemSharedMemoryStatusRequest(name=arrived.path.get("region", ""))
        reply = await self._methods["SystemSharedMemoryStatus"](asked.SerializeToString(), call)
        regions = pb.SystemSharedMemoryStatusResponse.FromString(reply).regions
        return documents.response([plain(regions[name]) for name in sorted(regions)])

    async def _register(self, arrived: Arrived, call: Call) -> Response:
        refuse_other_sites(arrived, "register shared memory")
        document = messages.an_object(await self._reader.read(arrived.body), "the body")
        asked = pb.SystemSharedMemoryRegisterRequest(
            name=arrived.path["region"],
            key=field(document, "key", str, ""),
            offset=_uint64(document, "offset"),
            byte_size=_uint64(document, "byte_size"),
        )
        await self._methods["SystemSharedMemoryRegister"](asked.SerializeToString(), call)
        return documents.response({})

    async def _unregister(self, arrived: Arrived, call: Call) -> Response:
        refuse_other_sites(arrived, "unregister shared memory")
        asked = pb.SystemSharedMemoryUnregisterRequest(name=arrived.path.get("region", ""))
        await self._methods["SystemSharedMemoryUnregister"](asked.SerializeToString(), call)
        return documents.response({})


def _uint64(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if type(value) is not int or not 0 <= value < _UINT64:
        shown = value if type(value) in (int, float) else what(value)
        raise InvalidInput(f"{name!r} is {shown}; it must be a whole number from 0 to {_UINT64 - 1}")
    return value
