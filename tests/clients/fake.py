"""A server of a few lines that does what a real one cannot be made to do on demand: fail twice, be slow, be full."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc as rpc

LABELS = ("cat", "dog", "owl")
SHA256 = "ab" * 32


@dataclass
class Failure:
    """One answer that is none."""

    code: grpc.StatusCode
    message: str = "as the test wishes"
    trailers: tuple[tuple[str, str], ...] = ()


def answer(request: pb.PredictRequest, labels: tuple[str, ...] = LABELS, **changes: Any) -> pb.PredictResponse:
    """What a model says that finds row i to be class i modulo C, with probability 0.75."""
    rows = request.tensor.shape[0] if request.HasField("tensor") else len(request.images.images)
    share = 0.25 / (len(labels) - 1)
    predictions = [
        pb.Prediction(
            top_class=row % len(labels),
            label=labels[row % len(labels)],
            probability=0.75,
            probabilities=[0.75 if c == row % len(labels) else share for c in range(len(labels))],
        )
        for row in range(rows)
    ]
    response = pb.PredictResponse(
        predictions=predictions, model="pets", version=1, model_sha256=SHA256, provider="CPUExecutionProvider"
    )
    if request.include_labels:
        response.labels.extend(labels)
    for name, value in changes.items():
        setattr(response, name, value)
    return response


@dataclass
class Fake(rpc.InferenceServiceServicer):
    """Gives out `failures` one after the other, then what `behave` says; keeps what it was asked."""

    failures: list[Failure] = field(default_factory=list)
    behave: Callable[[pb.PredictRequest, grpc.ServicerContext], pb.PredictResponse] = lambda request, _: answer(request)
    requests: list[pb.PredictRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    busy: int = 0
    busiest: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:  # noqa: N802
        """One answer, or the next failure."""
        with self._lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self.busy += 1
            self.busiest = max(self.busy, self.busiest)
            self.arrived.set()
            failure = self.failures.pop(0) if self.failures else None
        try:
            if failure:
                context.set_trailing_metadata(failure.trailers)
                context.abort(failure.code, failure.message)
            return self.behave(request, context)
        finally:
            with self._lock:
                self.busy -= 1

    def hang(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        """As `behave`: answers nothing, and notes that the caller went away."""
        self.hanging.set()
        gone = threading.Event()
        if not context.add_callback(gone.set):  # it had gone before
            gone.set()
        if gone.wait(30):
            self.cancelled.set()
        return answer(request)

    def hang_unless_single(self, request: pb.PredictRequest, context: grpc.ServicerContext) -> pb.PredictResponse:
        """As `behave`: answers batches of one row only."""
        return answer(request) if request.tensor.shape[0] == 1 else self.hang(request, context)


@contextlib.contextmanager
def serving(fake: Fake, port: int = 0, credentials: grpc.ServerCredentials | None = None) -> Iterator[Fake]:
    """The fake on a free port, until the block ends."""
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    rpc.add_InferenceServiceServicer_to_server(fake, server)
    address = f"127.0.0.1:{port}"
    fake.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield fake
    finally:
        server.stop(0).wait()
