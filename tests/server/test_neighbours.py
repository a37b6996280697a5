"""Callers share batches; what one does never hurts another. With a real server and real channels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, probabilities, tensor
from topclass.v1 import inference_pb2 as pb

# The name that gRPC's own clients know cannot be sent by the native transport.
PUSHBACK = {"grpcio": "grpc-retry-pushback-ms", "native": "topclass-retry-pushback-ms"}


class Hold:
    """Stands in front of a model's computation: holds the first batch until told to go on, remembers all."""

    def __init__(self, server: LiveServer):
        [served] = server.app.repository.ready()
        self._compute, self.batches = served.model.compute, list[int]()
        self.entered, self.go = threading.Event(), threading.Event()
        served.lane.compute, served.lane.seconds = self, None  # what holds a worker must not hold the loop

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.batches.append(len(rows))
        self.entered.set()
        assert self.go.wait(30)
        return self._compute(rows)


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition, at most 10 seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


@pytest.fixture
def held(repository, serve: Callable[..., LiveServer]) -> tuple[LiveServer, Hold, grpc.Future]:
    """A server of one worker that is busy with a first request until `go`."""
    server = serve(models=repository, workers=1)
    hold = Hold(server)
    first = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert hold.entered.wait(10)
    return server, hold, first


def test_one_caller_that_cancels_in_the_middle_of_a_batch_never_hurts_its_neighbours(held) -> None:
    """Of nine requests waiting for one batch three cancel: six are answered, rightly, and three are not computed."""
    server, hold, first = held
    batches = [pictures(2, seed) for seed in range(9)]
    futures = [server.stub.Predict.future(pb.PredictRequest(tensor=tensor(rows))) for rows in batches]
    until(lambda: server.app._batcher.waiting_rows == 18)
    for future in futures[::3]:
        future.cancel()
    until(lambda: server.app._batcher.waiting_rows == 12)
    hold.go.set()
    assert len(first.result().predictions) == 1
    for index, (rows, future) in enumerate(zip(batches, futures, strict=True)):
        if index % 3:
            np.testing.assert_allclose(probabilities(future.result()), models.expected(rows), atol=1e-6)
        else:
            assert future.cancelled()
    assert hold.batches == [1, 12]


def test_a_caller_that_cancels_while_its_batch_is_computed_never_hurts_its_neighbours(held) -> None:
    """Leaving while the rows are already in the worker's hands changes nothing for who shares the batch."""
    server, hold, first = held
    hold.go.set()
    first.result()
    hold.go.clear()
    hold.entered.clear()
    blocker = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert hold.entered.wait(10)
    hold.entered.clear()
    rows = pictures(3, 5)
    leaving = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(4))))
    staying = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(rows)))
    until(lambda: server.app._batcher.waiting_rows == 7)
    hold.go.set()
    blocker.result()
    until(lambda: server.app._batcher.waiting_rows == 0)
    leaving.cancel()
    np.testing.assert_allclose(probabilities(staying.result()), models.expected(rows), atol=1e-6)


def test_a_deadline_that_passes_in_the_queue_is_honoured_and_never_computed(held) -> None:
    """DEADLINE_EXCEEDED for the caller, and the worker never sees the rows."""
    server, hold, first = held
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(5))), timeout=0.1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    time.sleep(0.2)  # the caller's deadline passes before the server's, by the way of its request
    hold.go.set()
    first.result()
    assert hold.batches == [1]
    until(lambda: server.app._batcher.waiting_rows == 0)


def test_a_full_queue_refuses_with_a_pushback(repository, serve: Callable[..., LiveServer], transport: str) -> None:
    """RESOURCE_EXHAUSTED at once, with words and when to come back; what was accepted is answered."""
    server = serve(models=repository, workers=1, max_queue_rows=10, max_request_rows=10)
    hold = Hold(server)
    first = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert hold.entered.wait(10)
    accepted = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(10))))
    until(lambda: server.app._batcher.waiting_rows == 10)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the queue is full: 10 rows wait" in caught.value.details()
    assert int(dict(caught.value.trailing_metadata())[PUSHBACK[transport]]) >= 10
    hold.go.set()
    assert len(first.result().predictions) + len(accepted.result().predictions) == 11


def test_one_call_more_than_the_limit_is_refused_and_the_others_are_answered(
    repository, serve: Callable[..., LiveServer]
) -> None:
    """max_calls calls may be in progress; the next gets RESOURCE_EXHAUSTED, and those before it their answers."""
    server = serve(models=repository, workers=1, max_calls=5)
    hold = Hold(server)
    calls = [server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(1)))) for _ in range(5)]
    until(lambda: server.app.calls.in_progress == 5)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details()
    hold.go.set()
    assert [len(call.result().predictions) for call in calls] == [1] * 5


def test_calls_over_the_limit_of_one_connection_wait_and_are_answered(
    repository, serve: Callable[..., LiveServer]
) -> None:
    """max_streams is HTTP/2's: a client that has read it holds back what is over it, and nothing fails."""
    server = serve(models=repository, max_streams=3)
    server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))))  # by then the client knows the limit
    calls = [server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(2)))) for _ in range(50)]
    assert [len(call.result(30).predictions) for call in calls] == [2] * 50


def test_many_callers_at_once_each_get_their_own_answers(server: LiveServer) -> None:
    """Sixteen threads with batches of every size, some cancelled, some bad: no row is ever another's."""

    def caller(number: int) -> int:
        random = np.random.default_rng(number)
        answered = 0
        for _ in range(40):
            rows = pictures(int(random.integers(1, 200)), int(random.integers(1 << 30)))
            call = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(rows)))
            if random.random() < 0.2:
                call.cancel()
                continue
            np.testing.assert_allclose(probabilities(call.result(30)), models.expected(rows), atol=1e-6)
            answered += 1
        return answered

    with ThreadPoolExecutor(16) as callers:
        assert sum(callers.map(caller, range(16))) > 400
    until(lambda: server.app._batcher.waiting_rows == 0)
