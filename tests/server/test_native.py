"""What is the native transport's own: when it is taken, what it does on its socket, and that it hides nothing.

That callers are promised the same of it is in the files that tests/conftest.py runs on each transport.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import native, service, transports, wire
from server.batching import Batcher
from server.config import Config
from server.errors import StartError
from server.lanes import Lane, Ticket
from server.open_inference import service as open_inference
from server.plain import FRAMES, Frames
from tests import models
from tests.conftest import LiveServer
from tests.server.open_inference import infer
from tests.server.test_neighbours import Hold, until
from tests.server.test_open_inference import ROWS
from tests.server.test_predict import pictures, probabilities, tensor
from topclass.v1 import inference_pb2 as pb

needs_package = pytest.mark.skipif(not native.AVAILABLE, reason="pygrpc-native is not installed")
Serve = Callable[..., LiveServer]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files are made."""
    made = tmp_path / "t"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    return made


# ---- which transport ----


@needs_package
def test_auto_takes_grpcio_while_native_breaks_a_promise_and_says_which() -> None:
    """The reason names what is broken, and how to have native all the same."""
    name, why = transports.chosen(Config())
    assert name == "grpcio"
    assert "grpc-retry-pushback-ms" in why
    assert "--transport native" in why


@needs_package
def test_auto_takes_native_where_it_breaks_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the package can do what it cannot yet; still not with TLS or tokens."""
    monkeypatch.setattr(transports, "BROKEN_PROMISES", ())
    assert transports.chosen(Config())[0] == "native"
    for guarded in (Config(tls_certificate=Path("c")), Config(token_file=Path("t"))):
        assert transports.chosen(guarded)[0] == "grpcio"


@needs_package
@pytest.mark.parametrize(
    ("settings", "words"),
    [({"tls_certificate": Path("c")}, "native has no TLS"), ({"token_file": Path("t")}, "native checks no tokens")],
)
def test_native_by_name_does_not_start_where_it_would_guard_nothing(settings: dict[str, Path], words: str) -> None:
    """TLS and tokens are never dropped in silence: the start ends, and says what would do."""
    with pytest.raises(StartError, match=f"{words}; use --transport auto or grpcio"):
        transports.chosen(replace(Config(transport="native"), **settings))  # type: ignore[arg-type]


def test_without_the_package_auto_is_grpcio_and_native_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is fine without it."""
    monkeypatch.setattr(native, "AVAILABLE", False)
    assert transports.chosen(Config()) == ("grpcio", "pygrpc-native is not installed (server/requirements.txt)")
    with pytest.raises(StartError, match="pygrpc-native is not installed"):
        transports.chosen(Config(transport="native"))


# ---- on its socket ----


@needs_package
def test_a_port_in_use_is_a_clear_error_on_native_too(repository: Path, serve: Serve, folder: Path) -> None:
    """And the socket of the grpcio server behind it is gone."""
    first = serve(models=repository, transport="native")
    there = set(folder.iterdir())
    with pytest.raises(StartError, match="is the port in use"):
        serve(models=repository, transport="native", grpc_port=first.app.transport.port)
    assert set(folder.iterdir()) == there


@needs_package
def test_the_server_behind_is_this_users_alone_and_goes_with_the_front(
    repository: Path, serve: Serve, folder: Path
) -> None:
    """Its Unix socket is in a folder that nobody else may enter; both are gone when the server has stopped."""
    server = serve(models=repository, transport="native")
    [private] = folder.iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert [stat.S_ISSOCK(file.stat().st_mode) for file in private.iterdir()] == [True]
    server.stop_async().result(30)
    assert list(folder.iterdir()) == []


@needs_package
def test_rubbish_on_the_socket_hurts_nobody(repository: Path, serve: Serve) -> None:
    """Random bytes, a broken preface, and half a request each end their own connection only."""
    server = serve(models=repository, transport="native")
    noise = random.Random(1)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for start in (b"", preface, preface + b"\0\0\0\4\0\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.app.transport.port), 5) as connection:
            connection.sendall(start + noise.randbytes(4000))
    rows = pictures(3)
    answer = server.stub.Predict(pb.PredictRequest(tensor=tensor(rows)), timeout=10)
    np.testing.assert_allclose(probabilities(answer), models.expected(rows), atol=1e-6)


@needs_package
def test_256_connections_of_one_call_each_are_all_answered_rightly(repository: Path, serve: Serve) -> None:
    """Nobody is left waiting, and each gets the answer to his own picture."""
    server = serve(models=repository, transport="native")
    together = threading.Barrier(32)

    def ask(seed: int) -> None:
        with grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary("/topclass.v1.InferenceService/Predict")
            rows = pictures(1, seed)
            together.wait(30)
            reply = call(pb.PredictRequest(tensor=tensor(rows)).SerializeToString(), timeout=30, wait_for_ready=True)
            answer = pb.PredictResponse.FromString(reply)
            np.testing.assert_allclose(probabilities(answer), models.expected(rows), atol=1e-6)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(256)))
    until(lambda: server.app.calls.in_progress == 0)


@needs_package
def test_a_call_that_leaves_the_queue_is_counted_once_and_frees_its_place(repository: Path, serve: Serve) -> None:
    """Cancelled, or past its deadline, while it waits: it is not computed, and nothing is left of it."""
    server = serve(models=repository, transport="native", workers=1)
    hold = Hold(server)
    first = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert hold.entered.wait(10)
    request = pb.PredictRequest(tensor=tensor(pictures(2)))
    cancelled = server.stub.Predict.future(request)
    late = server.stub.Predict.future(request, timeout=0.3)
    until(lambda: server.app._batcher.waiting_rows == 4)
    cancelled.cancel()
    assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: server.app._batcher.waiting_rows == 0)
    hold.go.set()
    assert len(first.result().predictions) == 1
    until(lambda: server.app.calls.in_progress == 0)
    assert hold.batches == [1]


# ---- frames ----


def test_a_message_with_a_known_frame_says_what_the_library_reads() -> None:
    """The elements are found at the same place, and are those of this message, not of the first."""
    frames = Frames(service.plain)
    for seed in range(3):
        rows = pictures(2, seed)
        message = pb.PredictRequest(model="pets", tensor=tensor(rows), top_k=2).SerializeToString()
        plain = frames.find(message)
        assert plain
        np.testing.assert_array_equal(plain.rows(message), rows)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_message_that_differs_outside_its_elements_is_never_taken_for_another(data: st.DataObject) -> None:
    """Change any one byte: what is found is what a fresh look finds."""
    message = pb.PredictRequest(model="pets", version=1, tensor=tensor(pictures(1))).SerializeToString()
    frames = Frames(service.plain)
    frames.find(message)
    changed = bytearray(message)
    changed[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    found, fresh = frames.find(bytes(changed)), service.plain(bytes(changed))
    assert (found is None) == (fresh is None)
    if found and fresh:
        assert (found.start, found.stop, found.dtype, found.shape) == (
            fresh.start,
            fresh.stop,
            fresh.dtype,
            fresh.shape,
        )
        np.testing.assert_array_equal(found.rows(bytes(changed)), fresh.rows(bytes(changed)))


@pytest.mark.parametrize(
    "request_",
    [
        pb.PredictRequest(),
        pb.PredictRequest(tensor=tensor(pictures(1)), priority=1),
        pb.PredictRequest(tensor=tensor(pictures(1)), model_sha256="0" * 64),
        pb.PredictRequest(tensor=pb.Tensor(dtype=7, shape=[1, 4, 4], data=bytes(16))),  # type: ignore[arg-type]
        pb.PredictRequest(tensor=pb.Tensor(dtype=1, shape=[1, 4, 5], data=bytes(16))),
        pb.PredictRequest(tensor=pb.Tensor(dtype=1, data=bytes(16))),
        pb.PredictRequest(images=pb.EncodedImages(images=[b"x"])),
    ],
)
def test_what_is_not_plain_is_left_to_the_ordinary_handler(request_: pb.PredictRequest) -> None:
    """Other inputs, wishes that concern the queue, and everything that is wrong."""
    assert service.plain(request_.SerializeToString()) is None


def test_of_the_fields_protocol_only_one_raw_input_without_parameters_is_plain() -> None:
    """Typed contents, parameters and classes as text go the ordinary way."""
    plain = open_inference.plain(infer(ROWS).SerializeToString())
    assert plain
    np.testing.assert_array_equal(plain.rows(infer(ROWS).SerializeToString()), ROWS)
    with_parameters = infer(ROWS)
    with_parameters.parameters["priority"].int64_param = 2
    for other in (infer(ROWS, typed=True), with_parameters, infer(ROWS, datatype="FP64"), infer(ROWS, shape=[1, 2])):
        assert open_inference.plain(other.SerializeToString()) is None


def test_requests_of_ever_other_lengths_fill_no_memory() -> None:
    """So many frames are remembered, and no more."""
    frames = Frames(service.plain)
    for length in range(1, 2 * FRAMES):
        frames.find(pb.PredictRequest(model="m" * length, tensor=tensor(pictures(1))).SerializeToString())
    assert len(frames._known) <= FRAMES


@pytest.mark.parametrize("labels", [["cat", "dog", "emu"], ["a", "longer one", "ü"]])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("wishes", [{}, {"omit_probabilities": True}, {"include_labels": True}, {"top_k": 2}])
def test_answers_written_together_are_those_written_alone(labels: list[str], rows: int, wishes: dict) -> None:  # type: ignore[type-arg]
    """Byte for byte, for labels of one length and of several."""
    writer = wire.ResponseWriter("pets", 1, "0" * 64, "CPU", labels)
    request, random_ = pb.PredictRequest(**wishes), np.random.default_rng(0)
    answers = [wire.Answer(random_.random((rows, 3), np.float32), n / 1e3, n / 1e4, n) for n in range(5)]
    assert writer.write_all(answers, request) == [writer.write(answer, request) for answer in answers]


# ---- at once ----


async def _where(seconds: float, window: float = 0) -> tuple[str, str]:
    """On which thread two rows are computed, posted alone and while something else runs."""
    names, told, go = list[str](), threading.Semaphore(0), threading.Event()
    batcher = Batcher(workers=1, max_rows=10, max_bytes=1000, window_seconds=window)

    def compute(rows: np.ndarray) -> np.ndarray:
        names.append(threading.current_thread().name)
        assert rows[0, 0] or go.wait(10)
        return rows

    def post(lane: Lane, value: float) -> None:
        lane.post([Ticket(np.full((2, 1), value, np.float32), math.inf, tell=lambda _: told.release())])

    cheap = batcher.lane(compute, 10, 10, seconds=lambda _: seconds)
    post(cheap, 1)
    assert told.acquire(timeout=10)
    post(batcher.lane(compute, 10, 10), 0)
    until(lambda: len(names) == 2)
    post(cheap, 1)
    go.set()
    assert told.acquire(timeout=10)
    assert told.acquire(timeout=10)
    batcher.close()
    return names[0], names[2]


@pytest.mark.parametrize(
    ("seconds", "window", "alone"), [(1e-4, 0, "MainThread"), (1e-3, 0, "worker-0"), (1e-4, 1e-3, "worker-0")]
)
def test_what_is_cheap_is_computed_where_it_arrives_unless_something_runs(
    seconds: float, window: float, alone: str
) -> None:
    """By prediction, under 300 µs; never beside other work, nor where a window was asked for."""
    assert asyncio.run(_where(seconds, window)) == (alone, "worker-0")


@needs_package
@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_what_the_queue_would_not_take_is_not_computed_at_once_either(
    repository: Path, serve: Serve, transport: str
) -> None:
    """The limits of the queue are those of a request, however idle the server is."""
    server = serve(models=repository, transport=transport, max_queue_bytes=31)
    assert len(server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1)))).predictions) == 1
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(2))))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
