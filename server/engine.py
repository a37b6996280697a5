"""One model's ONNX Runtime sessions, one for each device, and which of them computes a batch."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime as ort

from server.device import CUDA, Devices, open_session

# Rows of one call that warm-up tries. More only bloats memory on a processor; a GPU gains longer.
CPU_CHUNKS = (8, 16, 32, 64, 128)
CUDA_CHUNKS = (8, 16, 32, 64, 128, 256, 512)


class Engine:
    """Computes batches on the devices in turn. `run` may be called from several threads at once."""

    def __init__(self, data: bytes, devices: Devices):
        """ModelRefused for bytes that are no model, DeviceUnavailable where a device cannot be had after all."""
        opened = [open_session(data, name, devices.memory_mb) for name in devices.names]
        self.sessions = [session for session, _ in opened]
        self.provider = opened[0][1]
        self._turns = itertools.count()
        on_gpu = self.provider == CUDA
        self.chunks = CUDA_CHUNKS if on_gpu else CPU_CHUNKS
        # On a GPU each new batch size costs a search for the best kernels; so there are few, and all are warm.
        self.buckets = (1, 2, 4, *CUDA_CHUNKS) if on_gpu else ()

    def run(self, output: str, name: str, rows: np.ndarray) -> np.ndarray:
        """The output [n, …] for the input rows [n, …], computed by the device whose turn it is."""
        return self.run_on(next(self._turns) % len(self.sessions), output, name, rows)

    def run_on(self, index: int, output: str, name: str, rows: np.ndarray) -> np.ndarray:
        """The same on one of the devices."""
        count = len(rows)
        size = next((bucket for bucket in self.buckets if bucket >= count), count)
        if size > count:
            rows = np.concatenate([rows, np.zeros((size - count, *rows.shape[1:]), rows.dtype)])
        out = self._call(self.sessions[index], output, name, rows)
        return out[:count] if size > count else out

    def _call(self, session: ort.InferenceSession, output: str, name: str, rows: np.ndarray) -> np.ndarray:
        out: np.ndarray
        if not self.buckets:  # binding gains nothing on a processor (docs/decisions/0003)
            out = session.run([output], {name: rows})[0]
            return out
        binding = session.io_binding()
        binding.bind_cpu_input(name, np.ascontiguousarray(rows))
        binding.bind_output(output, "cpu")
        session.run_with_iobinding(binding)
        out = binding.copy_outputs_to_cpu()[0]
        return out
