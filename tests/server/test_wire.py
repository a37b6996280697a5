"""Messages written and read by numpy are those that the protobuf library would have written and read."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import wire
from server.errors import InvalidInput
from server.lanes import Answer
from topclass.v1 import inference_pb2 as pb

LABELS = st.lists(st.text(max_size=40), min_size=2, max_size=300)


def by_library(writer_of: tuple[Any, ...], answer: Answer, request: pb.PredictRequest):  # type: ignore[no-untyped-def]
    """The same response, made field by field."""
    model, version, sha256, provider, labels, *threshold = writer_of
    response = pb.PredictResponse(model=model, version=version, model_sha256=sha256, provider=provider)
    for whole in answer.rows:
        row = whole[: len(labels)]
        best = int(row.argmax())
        prediction = response.predictions.add(top_class=best, label=labels[best], probability=row[best])
        if not request.omit_probabilities:
            prediction.probabilities.extend(row.tolist())
        if threshold:
            prediction.ood_score, prediction.out_of_distribution = whole[-1], whole[-1] > threshold[0]
        for index in np.argsort(-row, kind="stable")[: request.top_k]:
            prediction.top_k.add(class_index=int(index), label=labels[index], probability=row[index])
    response.timing.queue_us = round(answer.queue_seconds * 1e6)
    response.timing.compute_us = round(answer.compute_seconds * 1e6)
    response.timing.batch_rows = answer.batch_rows
    if request.include_labels:
        response.labels.extend(labels)
    return response


@settings(max_examples=200, deadline=None)
@given(LABELS, st.integers(1, 50), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.integers(0, 4),
       st.none() | st.floats(-2, 2, width=32))  # fmt: skip
def test_a_response_is_what_the_library_would_have_written(
    labels: list[str], rows: int, seed: int, omit: bool, include: bool, top_k: int, threshold: float | None
) -> None:
    """For any labels, of any length and alphabet, any number of classes and rows, and whatever is asked for."""
    random = np.random.default_rng(seed)
    columns = random.dirichlet(np.full(len(labels), 0.3), rows).astype(np.float32)
    if threshold is not None:
        columns = np.concatenate([columns, random.normal(size=(rows, 1)).astype(np.float32)], axis=1)
    answer = Answer(columns, seed / 1e6, 0.00125, seed % 2000)
    request = pb.PredictRequest(omit_probabilities=omit, include_labels=include, top_k=top_k)
    model = ("größe", seed, "f" * 64, "CPUExecutionProvider", labels, *([] if threshold is None else [threshold]))
    written = pb.PredictResponse.FromString(wire.ResponseWriter(*model).write(answer, request))
    assert written == by_library(model, answer, request)


@pytest.mark.parametrize("omit", [False, True])
def test_a_response_of_very_many_classes_costs_memory_in_proportion(omit: bool) -> None:
    """20,000 classes, prepared and written in a second, without a table of their square, and as the library would."""
    labels = [f"class {number}" * (number % 3) for number in range(20_000)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(len(labels)), 3).astype(np.float32)
    model, answer = ("m", 1, "", "", labels), Answer(probabilities, 0, 0, 3)
    tracemalloc.start()
    writer = wire.ResponseWriter(*model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    for top_k in (0, 7):
        request = pb.PredictRequest(omit_probabilities=omit, top_k=top_k)
        assert pb.PredictResponse.FromString(writer.write(answer, request)) == by_library(model, answer, request)


def test_the_ranking_of_very_many_rows_is_written_quickly() -> None:
    """A million ranks in a second or two, where the event loop once stood still for many."""
    labels = [str(number) for number in range(10)]
    answer = Answer(np.random.default_rng(0).dirichlet(np.ones(10), 100_000).astype(np.float32), 0, 0, 1)
    start = time.process_time()
    written = wire.ResponseWriter("m", 1, "", "", labels).write(answer, pb.PredictRequest(top_k=10))
    assert time.process_time() - start < 3
    last = pb.PredictResponse.FromString(written).predictions[-1]
    assert [rank.class_index for rank in last.top_k] == np.argsort(-answer.rows[-1], kind="stable").tolist()


def test_an_answer_that_no_message_can_hold_is_refused() -> None:
    """More than 2 GiB: InvalidInput says how many rows of how many bytes, before anything is written."""
    rows = np.broadcast_to(np.full(30_000, 1 / 30_000, np.float32), (20_000, 30_000))
    writer = wire.ResponseWriter("m", 1, "", "", [str(number) for number in range(30_000)])
    with pytest.raises(InvalidInput, match=r"the answer would have 20000 rows of 12\d{4} bytes"):
        writer.write(Answer(rows, 0, 0, 1), pb.PredictRequest())


def test_the_first_of_equal_probabilities_is_the_top_class() -> None:
    """A tie goes to the lowest index."""
    writer = wire.ResponseWriter("m", 1, "", "", ["a", "b", "c"])
    written = writer.write(Answer(np.array([[0.2, 0.4, 0.4]], np.float32), 0, 0, 1), pb.PredictRequest(top_k=2))
    [prediction] = pb.PredictResponse.FromString(written).predictions
    assert (prediction.top_class, [c.class_index for c in prediction.top_k]) == (1, [1, 2])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_without_finite_probabilities_is_named(value: float) -> None:
    """InvalidInput names the row."""
    rows = np.full((5, 3), 1 / 3, np.float32)
    rows[3, 1] = value
    with pytest.raises(InvalidInput, match="row 3 gives no finite probabilities") as caught:
        wire.ResponseWriter("m", 1, "", "", ["a", "b", "c"]).write(Answer(rows, 0, 0, 5), pb.PredictRequest())
    assert caught.value.row == 3


def same(message: bytes) -> None:
    """Asserts that the reader and the library agree on a message, whichever way they see it."""
    try:
        expected = pb.PredictRequest.FromString(message)
    except Exception:
        with pytest.raises(InvalidInput, match=r"not a topclass\.v1\.PredictRequest"):
            wire.read_request(message)
        return
    request, data = wire.read_request(message)
    assert bytes(data) == expected.tensor.data
    request.tensor.data, expected.tensor.data = b"", b""
    assert (request.WhichOneof("input"), request) == (expected.WhichOneof("input") or "tensor", expected)


REQUESTS = st.builds(
    pb.PredictRequest,
    model=st.text(max_size=10),
    version=st.integers(0, 2**64 - 1),
    model_sha256=st.text(max_size=64),
    tensor=st.builds(
        pb.Tensor,
        dtype=st.integers(0, 3),
        shape=st.lists(st.integers(0, 2**32 - 1), max_size=5),
        data=st.binary(max_size=200).map(lambda data: data * 200),
    ),
    top_k=st.integers(0, 5),
    include_labels=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(REQUESTS, st.lists(REQUESTS, max_size=1), st.binary(max_size=6))
def test_a_request_is_what_the_library_would_have_read(
    request: pb.PredictRequest, another: list[pb.PredictRequest], more: bytes
) -> None:
    """Large and small, in one piece or merged of two (which protobuf allows), with whatever bytes behind it."""
    message = b"".join(each.SerializeToString() for each in [request, *another])
    same(message)
    same(message + more)


@settings(max_examples=300, deadline=None)
@given(REQUESTS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_request_is_read_as_the_library_reads_it_or_refused(
    request: pb.PredictRequest, damage: list[tuple[int, int]]
) -> None:
    """Bytes changed at random, most of them near the beginning, where the structure is."""
    message = bytearray(request.SerializeToString())
    for at, value in damage:
        if message:
            message[at % (len(message) if at % 2 else min(len(message), 100))] = value
    same(bytes(message))


def test_a_large_request_is_read_without_a_copy_of_its_data() -> None:
    """The data is a view of the message."""
    message = pb.PredictRequest(tensor=pb.Tensor(dtype=1, shape=[100_000], data=bytes(100_000))).SerializeToString()
    _, data = wire.read_request(message)
    assert data.obj is message
