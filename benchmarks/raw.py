"""The limit: ONNX Runtime alone, in a process of its own, with no message to read or write."""

from __future__ import annotations

import multiprocessing
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime

from server import cpus

CHUNKS = (1, 8, 16, 32, 64, 128, 1024)
TRIAL_SECONDS = 0.15
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Speed:
    """rate: pictures per second; cpu: processor seconds for each picture."""

    rate: float
    cpu: float


class Raw:
    """ONNX Runtime's best for a model: of all numbers of rows a call that `most` allows, the one that costs least."""

    def __init__(self, file: Path, pictures: np.ndarray, most: int, lone: bool):
        """pictures: 1,024. lone: one thread, as for one caller with one picture; else as many as processors."""
        self._pipe, theirs = _spawn.Pipe()
        arguments = (theirs, file, pictures, 1 if lone else cpus.granted())
        self._process = _spawn.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        chunks = [chunk for chunk in CHUNKS if chunk <= min(most, len(pictures))]
        self.chunk = min(chunks, key=lambda chunk: self._run(chunk, TRIAL_SECONDS).cpu)

    def run(self, seconds: float) -> Speed:
        """Measures for so long."""
        return self._run(self.chunk, seconds)

    def close(self) -> None:
        """Ends the process."""
        self._pipe.send(None)
        self._process.join(10)

    def _run(self, chunk: int, seconds: float) -> Speed:
        self._pipe.send((chunk, seconds))
        speed: Speed = self._pipe.recv()
        return speed


def _serve(pipe: Connection, file: Path, pictures: np.ndarray, threads: int) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    while (asked := pipe.recv()) is not None:
        chunk, seconds = asked
        rows, done = pictures[:chunk], [0] * threads
        for _ in range(3):
            session.run(None, {"image": rows})
        began, cpu = time.perf_counter(), time.process_time()
        end = began + seconds

        def compute(place: int, rows: np.ndarray = rows, done: list[int] = done, end: float = end) -> None:
            while not done[place] or time.perf_counter() < end:
                session.run(None, {"image": rows})
                done[place] += len(rows)

        running = [threading.Thread(target=compute, args=(place,)) for place in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        pipe.send(Speed(sum(done) / took, cpu / sum(done)))
