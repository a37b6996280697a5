"""What is made of an answer: refused where it is none, and as a table of pandas where that is there."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import topclass
from tests import models
from tests.clients.fake import Fake, answer
from tests.clients.test_predict import PICTURES
from topclass import wire
from topclass.v1 import inference_pb2 as pb

ROWS = np.zeros((30, 4, 4), np.uint8)


def broken(change: Callable[[pb.PredictResponse], None]) -> Callable[[Any, Any], pb.PredictResponse]:
    """Answers as always, but for one change."""

    def behave(request: Any, _: Any) -> pb.PredictResponse:
        response = answer(request)
        change(response)
        return response

    return behave


def drop_one(response: pb.PredictResponse) -> None:
    """One prediction too few."""
    del response.predictions[-1]


def shorten(response: pb.PredictResponse) -> None:
    """A row that lacks a class."""
    del response.predictions[7].probabilities[-1]


def score_one(response: pb.PredictResponse) -> None:
    """One row alone is scored."""
    response.predictions[7].ood_score = 1


def rename(response: pb.PredictResponse) -> None:
    """A label too many."""
    response.labels.append("more")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_one, "it has 29 predictions for 30 rows"),
        (shorten, "row 7 has other fields than row 0"),
        (score_one, "row 7 has other fields than row 0"),
        (rename, "it has 3 probabilities in a row for 4 labels"),
    ],
)
def test_answers_that_do_not_agree(
    connect: Callable[..., Any], fake: Fake, change: Callable[[pb.PredictResponse], None], words: str
) -> None:
    """An answer whose parts contradict each other is a ServerFault that says where, never a guess."""
    fake.behave = broken(change)
    with pytest.raises(topclass.ServerFault, match=f"{fake.address}: the answer cannot be read: {words}") as caught:
        connect(fake.address).predict(ROWS)
    assert caught.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x7f", b"\x0a\x02\x12\x05", b"\x12\x01\xff"])
def test_answers_that_are_no_messages(connect: Callable[..., Any], data: bytes) -> None:
    """Bytes that are no message are a ServerFault, for every method."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: data)  # noqa: ARG005
    methods = dict.fromkeys(("Predict", "GetModel", "ListModels"), handler)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("topclass.v1.InferenceService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        client = connect(f"127.0.0.1:{port}")
        for call in (lambda: client.predict(ROWS), client.models, client.model):
            with pytest.raises(topclass.ServerFault, match="the answer cannot be read"):
                call()
    finally:
        server.stop(0).wait()


def test_scores_and_flags(connect: Callable[..., Any], fake: Fake) -> None:
    """ood_score and out_of_distribution of every row arrive, in answers of few rows and of many."""

    def scored(request: Any, _: Any) -> pb.PredictResponse:
        response = answer(request)
        for index, row in enumerate(response.predictions):
            row.ood_score = index / 4
            row.out_of_distribution = index % 3 == 1
        return response

    fake.behave = scored
    client = connect(fake.address)
    for count in (1, 7, 300):
        result = client.predict(np.zeros((count, 4, 4), np.uint8))
        np.testing.assert_array_equal(result.ood_score, np.arange(count, dtype=np.float32) / 4)
        np.testing.assert_array_equal(result.out_of_distribution, np.arange(count) % 3 == 1)
        assert (result[-1].ood_score, result[-1].out_of_distribution) == ((count - 1) / 4, (count - 1) % 3 == 1)


def test_to_pandas(client: Any) -> None:
    """A result becomes a DataFrame with a line for each row, and knows where it comes from."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    result = client.predict(PICTURES, "pets", top_k=2)
    frame = result.to_pandas()
    named = ["top_class", "label", "probability", "label_2", "probability_2", "p_cat", "p_dog", "p_emu"]
    assert list(frame.columns) == [*named, "out_of_distribution"]
    assert len(frame) == 9
    assert frame["label"].tolist() == list(result.top_label)
    np.testing.assert_array_equal(frame[["p_cat", "p_dog", "p_emu"]].to_numpy(), result.probabilities)
    np.testing.assert_array_equal(frame["probability_2"], np.sort(result.probabilities, axis=1)[:, -2])
    assert frame.attrs == {"model": "pets", "version": 1, "sha256": result.sha256, "provider": "CPUExecutionProvider"}


def test_to_pandas_with_little(connect: Callable[..., Any], fake: Fake) -> None:
    """Without probabilities there are no columns of them; classes of one name have one each; scores are there."""
    pytest.importorskip("pandas", reason="pandas is not installed")
    client = connect(fake.address)

    def twins(request: Any, _: Any) -> pb.PredictResponse:
        response = answer(request, ("cat", "cat", "owl"))
        for row in response.predictions:
            row.ood_score = 0.5
        return response

    fake.behave = twins
    frame = client.predict(ROWS).to_pandas()
    assert list(frame.columns)[3:] == ["p_cat", "p_cat", "p_owl", "ood_score", "out_of_distribution"]
    assert frame["p_cat"].shape == (30, 2)

    def bare(request: Any, _: Any) -> pb.PredictResponse:
        response = answer(request)
        for row in response.predictions:
            del row.probabilities[:]
        return response

    fake.behave = bare
    frame = client.predict(ROWS, probabilities=False).to_pandas()
    assert list(frame.columns) == ["top_class", "label", "probability", "out_of_distribution"]


def test_without_pandas(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pandas is not installed, to_pandas says how to get it, and all else works."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = client.predict(PICTURES)
    np.testing.assert_allclose(result.probabilities, models.expected(PICTURES), atol=1e-6)
    with pytest.raises(ImportError, match=r"to_pandas needs pandas: pip install 'topclass\[pandas\]'"):
        result.to_pandas()


def test_a_request_that_no_message_can_hold() -> None:
    """Elements of more than 2 GiB are refused with their size, before any of them is copied."""
    many = np.broadcast_to(np.uint8(0), (3 << 30,))
    with pytest.raises(ValueError, match=r"the inputs have 3,221,225,472 bytes.*send fewer rows"):
        wire.predict_request(wire.Dense(pb.DATA_TYPE_UINT8, many.shape, (many,)), wire.Query())


def test_a_request_is_what_the_library_would_have_written(connect: Callable[..., Any], fake: Fake) -> None:
    """The head that is kept between calls belongs to the query, the dtype and the shape of this one."""
    client = connect(fake.address)
    client.predict(ROWS)
    for count, alias, top_k in ((3, "", 0), (3, "champion", 0), (4, "", 2), (3, "", 0), (300, "", 0)):
        rows = np.random.default_rng(count).integers(0, 256, (count, 4, 4), np.uint8)
        client.predict(rows, "pets", alias=alias, top_k=top_k)
        request = fake.requests[-1]
        assert (request.model, request.alias, request.top_k) == ("pets", alias, top_k)
        assert request.tensor == pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=rows.shape, data=rows.tobytes())
