"""gRPC reflection for grpcurl and its like: both versions of the service, over every file of the services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

# grpcio-reflection has v1alpha only; newer clients ask for v1 first. Its messages are the same under another package.
OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
METHOD = "ServerReflectionInfo"


def enable(server: grpc.aio.Server, services: Iterable[str], files: Sequence[FileDescriptor]) -> None:
    """Lets callers look at these services. files: those of them that have a descriptor pool of their own."""
    old = reflection.SERVICE_NAME
    new = old.replace(OLD, NEW)
    pool = _pool((*services, old), files)
    servicer = reflection.aio.ReflectionServicer((*services, old, new), pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (old, new):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {METHOD: handler}),))


def _pool(services: Iterable[str], files: Sequence[FileDescriptor]) -> DescriptorPool:
    """One pool with the files of all these services, and of the newer reflection, to look into."""
    own = {service.full_name for file in files for service in file.services_by_name.values()}
    pool, known = DescriptorPool(), descriptor_pool.Default()
    for file in (*files, *(known.FindFileContainingSymbol(name) for name in services if name not in own)):
        pool.AddSerializedFile(file.serialized_pb)
    pool.AddSerializedFile(_newer().SerializeToString())
    return pool


def _newer() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name, file.package = file.name.replace("v1alpha", "v1"), NEW
    for message in file.message_type:
        for field in (field for field in message.field if field.type_name):
            field.type_name = field.type_name.replace(OLD, NEW)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(OLD, NEW)
        method.output_type = method.output_type.replace(OLD, NEW)
    return file
