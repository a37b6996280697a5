"""Several devices and fixed batch sizes: what a GPU server does, tried out with sessions on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server import device, engine
from server.device import Devices
from server.engine import Engine
from server.model import Model
from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, probabilities, tensor
from topclass.v1 import inference_pb2 as pb


class Recorder:
    """A session that remembers the batch sizes it was given."""

    def __init__(self, session: Any):
        self._session, self.sizes = session, list[int]()

    def __getattr__(self, name: str) -> object:
        return getattr(self._session, name)

    def io_binding(self) -> Any:
        binding = self._session.io_binding()
        bind = binding.bind_cpu_input

        def recorded(name: str, rows: np.ndarray) -> None:
            self.sizes.append(len(rows))
            bind(name, rows)

        binding.bind_cpu_input = recorded
        return binding


@pytest.fixture
def as_cuda(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Sessions on the CPU that say they are on a GPU."""
    opened: list[Recorder] = []

    def open_session(data: bytes, *_: object) -> tuple[object, str]:
        session, _ = device.open_session(data, "cpu")
        opened.append(Recorder(session))
        return opened[-1], device.CUDA

    monkeypatch.setattr(engine, "open_session", open_session)
    return opened


def test_a_gpu_sees_only_batch_sizes_that_were_warmed_before_ready(as_cuda: list[Recorder]) -> None:
    """Rows are padded to the next bucket, the padding is cut off, and every bucket was computed at load."""
    model = Model(models.with_card(models.classifier()).SerializeToString(), Devices(("cuda:0",)))
    [session] = as_cuda
    warmed = set(session.sizes)
    session.sizes.clear()
    for count in (1, 3, 5, 8, 9, 100, 511, 700, 2000):
        rows = pictures(count)
        np.testing.assert_allclose(model.compute(rows), models.expected(rows), atol=1e-6)
    assert set(session.sizes) <= set(engine.CUDA_CHUNKS) | {1, 2, 4}
    assert set(session.sizes) <= warmed


def test_several_gpus_are_each_proven_and_take_turns(as_cuda: list[Recorder]) -> None:
    """With cuda:0,cuda:1 each device computes the golden samples before ready, and then every other batch."""
    model = Model(models.with_card(models.classifier()).SerializeToString(), Devices(("cuda:0", "cuda:1")))
    assert len(as_cuda) == 2
    assert all(2 in session.sizes for session in as_cuda)
    for session in as_cuda:
        session.sizes.clear()
    for _ in range(10):
        model.compute(pictures(4))
    assert [session.sizes for session in as_cuda] == [[4] * 5, [4] * 5]


def test_memory_limit_and_search_are_handed_to_cuda() -> None:
    """The options that ONNX Runtime gets for a GPU."""
    options = device._cuda_options("cuda:3", 512)
    assert options == {
        "device_id": "3",
        "gpu_mem_limit": str(512 << 20),
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert "gpu_mem_limit" not in device._cuda_options("cuda", 0)


def test_on_the_cpu_batches_are_never_padded(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """A processor gains nothing by fixed sizes: what is sent is what is computed."""
    server = serve(models=repository)
    assert Engine(models.classifier().SerializeToString(), Devices()).buckets == ()
    response = server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(3))))
    np.testing.assert_allclose(probabilities(response), models.expected(pictures(3)), atol=1e-6)
