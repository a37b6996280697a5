"""Callers in processes of their own, so that none disturbs another's clock."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass

import grpc
import numpy as np

from topclass.v1 import inference_pb2 as pb

PREDICT = "/topclass.v1.InferenceService/Predict"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Calls:
    """What a caller saw: when each call began and how long it took, in seconds; errors by status name."""

    began: np.ndarray
    took: np.ndarray
    errors: dict[str, int]


def request(rows: np.ndarray, model: str = "") -> bytes:
    """A PredictRequest of uint8 rows, serialized."""
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(model=model, tensor=tensor).SerializeToString()


class Caller:
    """A process whose threads send one message after another for some seconds. `result` gives what they saw."""

    def __init__(self, address: str, message: bytes, seconds: float, threads: int = 1, pause: float = 0):
        self._pipe, theirs = _spawn.Pipe()
        arguments = (theirs, address, message, seconds, threads, pause)
        self._process = _spawn.Process(target=_call, args=arguments, daemon=True)
        self._process.start()

    def go(self) -> None:
        """Lets it begin; it is connected and has had one answer."""
        assert self._pipe.recv() == "ready"
        self._pipe.send("go")

    def result(self) -> Calls:
        """Waits for its end."""
        calls: Calls = self._pipe.recv()
        self._process.join()
        return calls


def _call(pipe, address: str, message: bytes, seconds: float, threads: int, pause: float) -> None:  # type: ignore[no-untyped-def]
    seen: list[tuple[float, float]] = []
    errors: dict[str, int] = {}
    channels = [grpc.insecure_channel(address, options=[*OPTIONS, ("channel", n)]) for n in range(threads)]
    methods: list[grpc.UnaryUnaryMultiCallable[bytes, bytes]] = [channel.unary_unary(PREDICT) for channel in channels]
    for method in methods:
        method(message)
    pipe.send("ready")
    pipe.recv()
    end = time.monotonic() + seconds

    def send(method: grpc.UnaryUnaryMultiCallable[bytes, bytes]) -> None:
        while (start := time.monotonic()) < end:
            try:
                method(message)
                seen.append((start, time.monotonic() - start))
            except grpc.RpcError as error:
                errors[error.code().name] = errors.get(error.code().name, 0) + 1
            if pause:
                time.sleep(pause)

    running = [threading.Thread(target=send, args=(method,)) for method in methods]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    times = np.array(seen).reshape(-1, 2)
    pipe.send(Calls(times[:, 0], times[:, 1], errors))
