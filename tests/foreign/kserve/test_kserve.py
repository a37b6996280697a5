"""KServe's Python client, unmodified, against a server in a process of its own (`make test-clients`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

kserve = pytest.importorskip("kserve", reason="kserve has pins of its own: make test-clients")
import grpc  # noqa: E402
import httpx  # noqa: E402

from tests.foreign.here import ROWS, address, expected  # noqa: E402


def request(rows: np.ndarray = ROWS, binary: bool = True, model: str = "pets", datatype: str = "UINT8") -> Any:
    """What its client sends."""
    tensor = kserve.InferInput("image", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return kserve.InferRequest(model, [tensor], request_id="seven")


def over_grpc(ask: Callable[[Any], Awaitable[Any]]) -> Any:
    """What one call over gRPC gives."""

    async def run() -> Any:
        async with kserve.InferenceGRPCClient(address("grpc")) as client:
            return await ask(client)

    return asyncio.run(run())


def over_http(ask: Callable[[Any, str], Awaitable[Any]]) -> Any:
    """What one call over HTTP gives."""

    async def run() -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
        try:
            return await ask(client, f"http://{address('http')}")
        finally:
            await client.close()

    return asyncio.run(run())


def test_questions() -> None:
    """Live, ready, and whether a model is, over both."""
    assert over_grpc(lambda client: client.is_server_live())
    assert over_grpc(lambda client: client.is_server_ready())
    assert over_grpc(lambda client: client.is_model_ready("pets"))
    assert not over_grpc(lambda client: client.is_model_ready("cars"))
    assert over_http(lambda client, url: client.is_server_live(url))
    assert over_http(lambda client, url: client.is_server_ready(url))
    assert over_http(lambda client, url: client.is_model_ready(url, "pets"))
    assert not over_http(lambda client, url: client.is_model_ready(url, "cars"))


@pytest.mark.parametrize("binary", [False, True])
def test_inference(binary: bool) -> None:
    """The same batch, typed or raw, over both, gets probabilities and its id back."""
    for answer in (
        over_grpc(lambda client: client.infer(request(binary=binary))),
        over_http(lambda client, url: client.infer(url, request(binary=binary), model_name="pets")),
    ):
        assert answer.id == "seven"
        found = answer.outputs[0].as_numpy().reshape(5, 3)
        np.testing.assert_allclose(found, expected(ROWS), atol=1e-6)


WRONG = {
    "unknown model": (lambda: request(model="cars"), "NOT_FOUND", 404, "no model 'cars'; this server has "),
    "wrong shape": (lambda: request(ROWS[0]), "INVALID_ARGUMENT", 400, "shape [4, 4]; the model takes uint8 [N, 4, 4]"),
    "wrong datatype": (
        lambda: request(ROWS.astype(np.float32), datatype="FP32"), "INVALID_ARGUMENT", 400,
        "is float32; the model takes uint8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors(case: str) -> None:
    """Each mistake has its status, and over gRPC its words; over HTTP the words are in the response that is raised."""
    make, code, status, words = WRONG[case]
    with pytest.raises(grpc.RpcError) as refused:
        over_grpc(lambda client: client.infer(make()))
    assert (refused.value.code().name, words in refused.value.details()) == (code, True)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        over_http(lambda client, url: client.infer(url, make(), model_name=make().model_name))
    assert (caught.value.response.status_code, words in caught.value.response.json()["error"]) == (status, True)
