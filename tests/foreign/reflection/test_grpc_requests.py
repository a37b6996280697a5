"""grpc_requests, without stubs of this server: it lists, describes and calls through reflection, as grpcurl does."""

from __future__ import annotations

import base64
from typing import Any

import pytest

grpc_requests = pytest.importorskip("grpc_requests", reason="grpc_requests has an environment of its own")
import grpc  # noqa: E402

from tests.foreign.here import address  # noqa: E402

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def client() -> Any:
    """A client that has asked the server what there is."""
    return grpc_requests.Client.get_by_endpoint(address("grpc"))


def test_services_are_listed(client: Any) -> None:
    """Both protocols, health, and reflection under both of its names."""
    assert {
        SERVICE, "topclass.v1.InferenceService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } <= set(client.service_names)  # fmt: skip


def test_a_service_is_described(client: Any) -> None:
    """Its methods, and the fields of what they take."""
    methods = client.get_methods_meta(SERVICE)
    assert {"ModelInfer", "ModelStreamInfer", "ModelMetadata"} <= methods.keys()
    fields = methods["ModelInfer"].input_type.DESCRIPTOR.fields_by_name
    assert fields["raw_input_contents"].number == 7


def test_methods_are_called_with_json(client: Any) -> None:
    """A question, and a typed batch whose answer is typed because it is asked for."""
    metadata = client.request(SERVICE, "ModelMetadata", {"name": "pets"})
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "4", "4"]}]
    assert client.request("grpc.health.v1.Health", "Check", {"service": ""}) == {"status": "SERVING"}
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 4, 4], "contents": {"uint_contents": [0] * 16}}
    request = {"model_name": "pets", "inputs": [tensor], "parameters": {"typed_output": {"bool_param": True}}}
    [output] = client.request(SERVICE, "ModelInfer", request)["outputs"]
    assert output["contents"]["fp32_contents"] == pytest.approx([1 / 3] * 3)


def test_our_own_protocol_is_called_too(client: Any) -> None:
    """topclass.v1 answers by reflection as the field's protocol does."""
    tensor = {"dtype": "DATA_TYPE_UINT8", "shape": [1, 4, 4], "data": base64.b64encode(bytes(16)).decode()}
    reply = client.request("topclass.v1.InferenceService", "Predict", {"model": "pets", "tensor": tensor})
    assert reply["predictions"][0]["label"] == "cat"


def test_errors_have_their_words(client: Any) -> None:
    """NOT_FOUND names what there is."""
    with pytest.raises(grpc.RpcError) as caught:
        client.request(SERVICE, "ModelMetadata", {"name": "cars"})
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "no model 'cars'; this server has " in caught.value.details()
