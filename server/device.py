"""Where a model computes. ONNX Runtime falls back to the CPU in silence; this does not."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass

import onnxruntime as ort

from server.errors import DeviceUnavailable, ModelRefused, first_line

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Devices:
    """Where models compute: cpu, or one or more of cuda:N. memory_mb: the most of each GPU's memory; 0: no limit."""

    names: tuple[str, ...] = ("cpu",)
    memory_mb: int = 0

    def __str__(self) -> str:
        return ", ".join(self.names)


def open_session(data: bytes, device: str, memory_mb: int = 0) -> tuple[ort.InferenceSession, str]:
    """A session over a serialized model and the provider it really got.

    device: cpu, cuda or cuda:N. DeviceUnavailable where CUDA was asked for and the session runs elsewhere;
    ModelRefused where the bytes are no model that ONNX Runtime can run.
    """
    providers = [CPU] if device == "cpu" else [(CUDA, _cuda_options(device, memory_mb)), CPU]
    try:
        session = ort.InferenceSession(data, _options(), providers=providers)
    except Exception as error:  # ONNX Runtime has a dozen exception classes and no common base but this
        raise ModelRefused(f"ONNX Runtime cannot load it: {first_line(error)}") from error
    got = session.get_providers()[0]
    if device != "cpu" and got != CUDA:
        raise _unavailable(device)
    return session, got


def choose(setting: str, memory_mb: int = 0) -> Devices:
    """The devices for a setting of auto, cpu, cuda or cuda:N,cuda:N…; DeviceUnavailable where one cannot be had.

    auto is cuda where a session on it really opens, else cpu.
    """
    if setting == "cpu":
        return Devices()
    wanted = ("cuda",) if setting == "auto" else tuple(setting.split(","))
    try:
        if CUDA not in built_in():
            raise _unavailable(wanted[0])
        preload()
        for name in wanted:
            open_session(_probe(), name)
    except DeviceUnavailable:
        if setting == "auto":
            return Devices()
        raise
    return Devices(wanted, memory_mb)


def built_in() -> list[str]:
    """The providers that the installed ONNX Runtime was built with; nothing is said of the hardware."""
    return list(ort.get_available_providers())


def preload() -> None:
    """Finds the CUDA libraries that pip installed, without the lines that ONNX Runtime prints on stdout."""
    ort.set_default_logger_severity(4)  # it warns on stderr, in colours, of each library; the cause is told by us
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def why_not_cuda() -> tuple[str, str]:
    """The cause and the cure, a clause each."""
    if CUDA not in built_in():
        return (
            f"the installed onnxruntime {ort.__version__} is a CPU build",
            "install onnxruntime-gpu (server/requirements-gpu.txt) in an environment without the package onnxruntime",
        )
    return (
        f"onnxruntime-gpu {ort.__version__} could not use a GPU",
        "check that nvidia-smi lists one, that its driver supports CUDA 13, and that CUDA and cuDNN are installed: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    )


def _unavailable(device: str) -> DeviceUnavailable:
    cause, cure = why_not_cuda()
    return DeviceUnavailable(f"--device {device} was asked for, but {cause}; {cure}")


def _cuda_options(device: str, memory_mb: int) -> dict[str, str]:
    limit = {"gpu_mem_limit": str(memory_mb << 20)} if memory_mb else {}
    return limit | {
        "device_id": device.partition(":")[2] or "0",
        # EXHAUSTIVE, the default, times every algorithm at every new batch size, in the middle of someone's request.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Doubling, the default, holds up to twice what the model needs for as long as the server runs.
        "arena_extend_strategy": "kSameAsRequested",
    }


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    # The workers are the parallelism: threads inside a call halve small models, and spinning burns the caller's core.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    # A model is one file of the repository: one that names other files for its weights is refused, not fed from them.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options


def _probe() -> bytes:
    """A whole ONNX model, y = Identity(x) on one float, written by hand: opening it tells which provider one gets."""

    def field(number: int, value: bytes | int) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    def tensor(name: bytes) -> bytes:
        shape = field(2, field(1, field(1, 1)))  # one dimension of one element
        return field(1, name) + field(2, field(1, field(1, 1) + shape))

    node = field(1, b"x") + field(2, b"y") + field(4, b"Identity")
    graph = field(1, node) + field(2, b"probe") + field(11, tensor(b"x")) + field(12, tensor(b"y"))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))
