"""Reflection, as grpcurl uses it: list, describe, call, with nothing but what the server tells."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha import reflection_pb2

from tests.conftest import LiveServer

VERSIONS = ("grpc.reflection.v1alpha", "grpc.reflection.v1")


def ask(server: LiveServer, version: str, **question: str) -> reflection_pb2.ServerReflectionResponse:
    """One question over one version of the service; the two have the same messages."""
    stub = server.channel.stream_stream(
        f"/{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    [reply] = stub(iter([reflection_pb2.ServerReflectionRequest(**question)]))  # type: ignore[arg-type]
    found: reflection_pb2.ServerReflectionResponse = reply
    return found


def described(server: LiveServer, version: str, symbol: str) -> Any:
    """A pool with the file of a symbol and all that it needs."""
    pool = descriptor_pool.DescriptorPool()
    for file in ask(server, version, file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(file))
    return pool


@pytest.mark.parametrize("version", VERSIONS)
def test_every_service_is_listed_and_described(server: LiveServer, version: str) -> None:
    """Each name in the list is found with its methods, both versions of reflection too."""
    services = [found.name for found in ask(server, version, list_services="").list_services_response.service]
    assert sorted(services) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "topclass.v1.InferenceService",
    ]
    for name in services:
        assert described(server, version, name).FindServiceByName(name).methods, name


@pytest.mark.parametrize("version", VERSIONS)
def test_a_method_is_called_with_what_reflection_tells_of_it(server: LiveServer, version: str) -> None:
    """JSON goes in and comes out, through messages that were made of the described files."""
    service = described(server, version, "inference.GRPCInferenceService").FindServiceByName(
        "inference.GRPCInferenceService"
    )
    method = service.methods_by_name["ModelMetadata"]
    question, answer = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    call = server.channel.unary_unary(
        f"/{service.full_name}/{method.name}", question.SerializeToString, answer.FromString
    )
    reply = json_format.MessageToDict(call(json_format.Parse('{"name": "pets"}', question())))
    assert reply["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "4", "4"]}]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_there_is_not_found(server: LiveServer, version: str) -> None:
    """An unknown symbol gets the status 5 (NOT_FOUND) inside the reply, and the stream goes on."""
    assert ask(server, version, file_containing_symbol="no.Such").error_response.error_code == 5
