"""Swaps under load, memory after an unload, and publishers that die."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests import models
from tests.conftest import LiveServer
from tests.server.test_neighbours import until
from tests.server.test_predict import pictures, probabilities, tensor
from tests.server.test_repository import listed, predict
from topclass.v1 import inference_pb2 as pb

VERSIONS = 6


class Callers:
    """Threads that call one after the other without a pause, and compare each answer with the version it names."""

    def __init__(self, server: LiveServer, count: int):
        self.answered, self.faults = Counter[int](), list[str]()
        self._server, self._stop, self._lock = server, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(seed,)) for seed in range(count)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, seed: int) -> None:
        rows = pictures(1 + 40 * seed, seed)  # one caller with single pictures, others with more
        expected = {version: models.expected(rows, seed=version) for version in range(1, VERSIONS + 1)}
        request = pb.PredictRequest(model="load", tensor=tensor(rows))
        while not self._stop.is_set():
            try:
                response = self._server.stub.Predict(request)
                off = np.abs(probabilities(response) - expected[response.version]).max()
                fault = f"version {response.version} is off by {off}" if off > 1e-5 else ""
            except Exception as error:
                response, fault = pb.PredictResponse(), str(error)
            with self._lock:
                self.answered[response.version] += 1
                if fault:
                    self.faults.append(fault)


def test_swaps_under_load_cost_no_call_and_mix_no_versions(tmp_path: Path, serve: Callable[..., LiveServer]) -> None:
    """Four callers, five swaps and a rollback, one version kept at a time: no error, and each answer, to its last
    row, is that of the version it names; every version answered."""
    repository = tmp_path / "models"
    models.put(repository, "load", 1, models.classifier(seed=1))
    server = serve(models=repository, version_policy="latest:1")
    callers = Callers(server, 4)
    try:
        for version in range(2, VERSIONS + 1):
            until(lambda wanted=version - 1: callers.answered[wanted] > 20)
            models.put(repository, "load", version, models.classifier(seed=version))
            server.refresh()
        until(lambda: callers.answered[VERSIONS] > 20)
        (repository / "load" / "aliases.json").write_text('{"champion": 3}')
        server.refresh()
        before = callers.answered[3]
        until(lambda: callers.answered[3] > before + 20)
    finally:
        callers.finish()
    assert callers.faults == []
    assert set(callers.answered) == set(range(1, VERSIONS + 1))
    assert predict(server, "load").version == 3


# ---- memory ----

MEBIBYTE = 1 << 20


def _large() -> onnx.ModelProto:
    """A classifier of [N, 4, 4] with 20 MB of weights."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Flatten", ["cast"], ["flat"]),
        helper.make_node("MatMul", ["flat", "in"], ["narrow"]),
        helper.make_node("MatMul", ["narrow", "large"], ["wide"]),
        helper.make_node("MatMul", ["wide", "out"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.01, (16, 1000)).astype(np.float32), "in"),
        numpy_helper.from_array(rng.normal(0, 0.01, (1000, 5000)).astype(np.float32), "large"),
        numpy_helper.from_array(rng.normal(0, 0.01, (5000, 5)).astype(np.float32), "out"),
    ]
    return models.model(nodes, constants, (4, 4), 5)


def _resident() -> float:
    """This process's resident memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEBIBYTE


@pytest.mark.skipif(sys.platform != "linux", reason="the resident size is read from /proc")
def test_memory_is_given_back_when_a_model_is_unloaded(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """A model of 20 MB, loaded, asked and unloaded 20 times: afterwards what is resident has grown by less than three
    of them since the first time, and is less than while it was loaded."""
    models.put(repository, "large", 1, _large())
    server = serve(models=repository, allow_control=True, workers=1)

    def cycle() -> tuple[float, float]:
        server.stub.LoadModel(pb.LoadModelRequest(model="large"))
        predict(server, "large", rows=pictures(16))
        loaded = _resident()
        server.stub.UnloadModel(pb.UnloadModelRequest(model="large"))
        return loaded, _resident()

    def settled() -> float:
        time.sleep(0.8)  # memory.SETTLE_SECONDS, and the time to give it back
        return _resident()

    cycle()
    first = settled()
    loaded = max(cycle()[0] for _ in range(19))
    last = settled()
    print(f"resident: {first:.0f} MiB after the first unload, {loaded:.0f} with the model, {last:.0f} at the end")
    assert last - first < 60, f"{first:.0f} MiB after the first unload, {last:.0f} after the twentieth"
    assert loaded - last > 15, f"{loaded:.0f} MiB with the model, {last:.0f} without"


# ---- publishers ----

WRITER = """
import sys, time
from pathlib import Path
from tests import models
repository = Path(sys.argv[1])
data = models.classifier(seed=2).SerializeToString()
for version in range(2, 10_000):
    hidden = repository / f".publishing-{version}"
    hidden.mkdir()
    with (hidden / "model.onnx").open("wb") as file:
        for start in range(0, len(data), 64):
            file.write(data[start : start + 64])
            file.flush()
            print(version, flush=True)
            time.sleep(0.01)
    hidden.rename(repository / "pets" / str(version))
"""


@pytest.mark.parametrize("after", [1, 3, 12])
def test_a_publisher_that_is_killed_leaves_a_repository_that_starts(
    repository: Path, serve: Callable[..., LiveServer], after: int
) -> None:
    """SIGKILL while a file is half written, wherever: a server starts with the whole versions and no other."""
    root = Path(__file__).parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(repository)], cwd=root, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
    )  # fmt: skip
    assert writer.stdout is not None
    for _ in range(after):
        writer.stdout.readline()
    writer.kill()
    writer.wait()
    writer.stdout.close()
    half = list(repository.glob(".publishing-*"))
    assert len(half) == 1
    server = serve(models=repository)
    entries = listed(server)
    assert [entry.reason for entry in entries.values() if entry.reason and "policy" not in entry.reason] == []
    assert set(entries) == {("pets", int(path.name)) for path in (repository / "pets").iterdir()}
    assert predict(server).version == max(version for _, version in entries)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1])
def test_a_server_that_is_killed_while_a_version_is_published_starts_again(
    repository: Path, serve: Callable[..., LiveServer], after: float, tmp_path: Path
) -> None:
    """SIGKILL of the server around the swap: the next one starts, and serves the new version."""
    from tests.server.test_repository import health

    ready = tmp_path / "ready"
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "--models", str(repository), "--grpc-port", "0", "--device", "cpu",
         "--workers", "1", "--watch-seconds", "0.05", "--ready-file", str(ready), "--log-level", "error",
         "--http-port", "0"],
        cwd=root, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
    )  # fmt: skip
    until(ready.exists)
    models.put(repository, "pets", 2, models.classifier(seed=2))
    time.sleep(after)
    process.kill()
    process.wait()
    server = serve(models=repository)
    assert predict(server).version == 2
    assert health(server) == 1
