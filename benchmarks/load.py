"""A server of its own and callers of their own, each a process, so that none disturbs another's clock."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from server import cpus
from topclass.v1 import inference_pb2 as pb

ROOT = Path(__file__).parents[1]
PREDICT = "/topclass.v1.InferenceService/Predict"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Running:
    """A server process and where it listens."""

    process: subprocess.Popen[bytes]
    address: str

    def rss_bytes(self) -> int:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """The processor time that it used so far, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def server(models: Path, *flags: str) -> Iterator[Running]:
    """`python -m server` on a free port of the loopback address; ended, and its status checked, afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        command = [sys.executable, "-m", "server", "--models", str(models), "--grpc-port", "0", "--device", "cpu"]
        more = ["--ready-file", str(ready), "--stop-delay-seconds", "0", "--log-level", "warning"]
        more += ["--http-port", "0", *flags]
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen([*command, *more], cwd=ROOT, stderr=stderr)
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise SystemExit(f"the server ended with status {process.returncode}")
                time.sleep(0.01)
            yield Running(process, json.loads(ready.read_text())["grpc"])
        finally:
            process.terminate()
            process.wait(60)
        if process.returncode != 0 or "Traceback" in log.read_text():
            raise SystemExit(f"the server ended with status {process.returncode}; its log:\n{log.read_text()[-4000:]}")


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


def machine() -> str:
    """The machine, for the line under a table."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {cpus.granted()} processors, Python {platform.python_version()}, {platform.system()}"


def foreign_load() -> float:
    """The processors that were busy in the last second with anything at all: to be called when nothing of ours runs."""
    before = _busy()
    time.sleep(1)
    return _busy() - before


def _busy() -> float:
    fields = [int(field) for field in _lines("/proc/stat")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return [""]
