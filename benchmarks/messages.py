"""What is sent and what must come back: the two protocols' requests, and a check of answers against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnxruntime

from benchmarks import networks
from benchmarks.load import OPTIONS, PREDICT
from server.open_inference.stubs import grpc_service_pb2 as v2
from topclass.v1 import inference_pb2 as pb

TOLERANCE = 1e-4  # of a probability; batches of other sizes are summed in another order
DEADLINE_SECONDS = 60


class WrongAnswer(SystemExit):
    """An answer is not what ONNX Runtime computes; no figure of such a server counts."""


@dataclass(frozen=True)
class Wire:
    """A protocol: its method, the element type of its pictures, its request and what an answer says."""

    name: str
    path: str
    dtype: type[np.generic]
    suffix: str  # of the model's name
    request: Callable[[str, np.ndarray], bytes]
    probabilities: Callable[[bytes], np.ndarray]

    def pictures(self, network: str, rows: int, seed: int = 1) -> np.ndarray:
        """Random ones: [rows, *ROWS[network]] of this wire's type, whole numbers from 0 to 255."""
        drawn = np.random.default_rng(seed).integers(0, 256, (rows, *networks.ROWS[network]), np.uint8)
        return drawn.astype(self.dtype)


def _ours(model: str, rows: np.ndarray) -> bytes:
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_UINT8, shape=rows.shape, data=rows.tobytes())
    return pb.PredictRequest(model=model, tensor=tensor).SerializeToString()


def _v2(model: str, rows: np.ndarray) -> bytes:
    tensor = v2.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=rows.shape)
    request = v2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[rows.tobytes()])
    return request.SerializeToString()


def predictions(response: pb.PredictResponse) -> np.ndarray:
    """float32 [n, C] of a response; WrongAnswer where a top class is not the likeliest."""
    found = np.array([row.probabilities for row in response.predictions], np.float32)
    top = [row.top_class for row in response.predictions]
    if not np.array_equal(found.argmax(axis=1), top):
        raise WrongAnswer(f"top classes {top} are not the likeliest ones, {found.argmax(axis=1).tolist()}")
    return found


def _read_ours(answer: bytes) -> np.ndarray:
    return predictions(pb.PredictResponse.FromString(answer))


def _read_v2(answer: bytes) -> np.ndarray:
    response = v2.ModelInferResponse.FromString(answer)
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)


WIRES = {
    "uint8": Wire("uint8", PREDICT, np.uint8, "", _ours, _read_ours),
    "v2": Wire("v2", "/inference.GRPCInferenceService/ModelInfer", np.float32, "-f32", _v2, _read_v2),
}


class Truth:
    """What ONNX Runtime itself computes with the files of a repository."""

    def __init__(self, repository: Path):
        self._repository = repository
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def probabilities(self, model: str, rows: np.ndarray) -> np.ndarray:
        """float32 [n, C]."""
        if model not in self._sessions:
            self._sessions[model] = onnxruntime.InferenceSession(self._repository / model / "1" / "model.onnx")
        [found] = self._sessions[model].run(None, {"image": rows})
        return np.asarray(found)

    def check(self, address: str, wire: Wire, network: str, rows: int, seed: int = 1) -> int:
        """Asks with a real gRPC client. The answer's bytes; WrongAnswer if it is wrong."""
        pictures, model = wire.pictures(network, rows, seed), network + wire.suffix
        with grpc.insecure_channel(address, options=OPTIONS) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(wire.path)
            answer = ask(wire.request(model, pictures), timeout=DEADLINE_SECONDS)
        compare(wire.probabilities(answer), self.probabilities(model, pictures), f"{model} at {address}")
        return len(answer)


def compare(found: np.ndarray, right: np.ndarray, what: str) -> None:
    """WrongAnswer where shapes, probabilities or classes differ; a class may where two are equally likely."""
    if found.shape != right.shape:
        raise WrongAnswer(f"{what} answered with shape {found.shape}; right is {right.shape}")
    if not np.allclose(found, right, rtol=0, atol=TOLERANCE):
        raise WrongAnswer(f"{what} is off by up to {np.abs(found - right).max():.2g}; right is within {TOLERANCE}")
    chosen = right[np.arange(len(right)), found.argmax(axis=1)]
    if not np.all(chosen >= right.max(axis=1) - TOLERANCE):
        raise WrongAnswer(f"{what} named another class than ONNX Runtime")
