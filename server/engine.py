"""One model's ONNX Runtime sessions, one for each device, and which of them computes a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

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

    def run(self, outputs: Sequence[str], name: str, rows: np.ndarray) -> list[np.ndarray]:
        """The outputs [n, …] for the input rows [n, …], computed by the device whose turn it is."""
        return self.run_on(next(self._turns) % len(self.sessions), outputs, name, rows)

    def run_on(self, index: int, outputs: Sequence[str], name: str, rows: np.ndarray) -> list[np.ndarray]:
        """The same on one of the devices."""
        count = len(rows)
        size = next((bucket for bucket in self.buckets if bucket >= count), count)
        if size > count:
            rows = np.concatenate([rows, np.zeros((size - count, *rows.shape[1:]), rows.dtype)])
        found = self._call(self.sessions[index], outputs, name, rows)
        return [out[:count] for out in found] if size > count else found

    def _call(
        self, session: ort.InferenceSession, outputs: Sequence[str], name: str, rows: np.ndarray
    ) -> list[np.ndarray]:
        found: list[np.ndarray]
        if not self.buckets:  # binding gains nothing on a processor (docs/decisions/0003)
            found = session.run(outputs, {name: rows})
            return found
        binding = session.io_binding()
        binding.bind_cpu_input(name, np.ascontiguousarray(rows))
        for output in outputs:
            binding.bind_output(output, "cpu")
        session.run_with_iobinding(binding)
        found = binding.copy_outputs_to_cpu()
        return found
