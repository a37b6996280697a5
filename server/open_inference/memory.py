"""The RPCs of the extension "system_shared_memory". Works on bytes; knows no transport."""

from __future__ import annotations

from server.config import Config
from server.errors import Unsupported
from server.interceptor import Call, Unary
from server.open_inference.shared_memory import Regions
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.service import parse


class MemoryService:
    """The methods. `regions` is None unless the server was started with --shared-memory."""

    def __init__(self, config: Config):
        limits = config.max_message_bytes, config.max_queue_bytes
        self.regions = Regions(*limits) if config.shared_memory else None

    def unary(self) -> dict[str, Unary]:
        """The methods by name."""
        return {
            "SystemSharedMemoryStatus": self.status,
            "SystemSharedMemoryRegister": self.register,
            "SystemSharedMemoryUnregister": self.unregister,
        }

    async def status(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.SystemSharedMemoryStatusRequest, message)
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._there("SystemSharedMemoryStatus").known(request.name):
            response.regions[region.name].CopyFrom(
                pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size
                )
            )
        return response.SerializeToString()

    async def register(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.SystemSharedMemoryRegisterRequest, message)
        self._there("SystemSharedMemoryRegister").register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse().SerializeToString()

    async def unregister(self, message: bytes, _call: Call) -> bytes:
        """See the proto."""
        request = parse(pb.SystemSharedMemoryUnregisterRequest, message)
        self._there("SystemSharedMemoryUnregister").unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse().SerializeToString()

    def _there(self, method: str) -> Regions:
        if self.regions is None:
            raise Unsupported(f"this server has no {method}: it was not started with --shared-memory")
        return self.regions
