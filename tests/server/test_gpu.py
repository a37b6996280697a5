"""The real onnxruntime-gpu: on a GPU it computes there, without one it never pretends. `make test-gpu` runs these."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from server import device
from server.errors import DeviceUnavailable
from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, probabilities, tensor
from topclass.v1 import inference_pb2 as pb

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]
BUILT = device.CUDA in device.built_in()


def usable() -> bool:
    """True where a session on the GPU opens."""
    try:
        return device.choose("cuda").names == ("cuda",)
    except DeviceUnavailable:
        return False


NEEDS_PACKAGE = pytest.mark.skipif(not BUILT, reason="onnxruntime here is the CPU build; make test-gpu has the other")
NEEDS_GPU = pytest.mark.skipif(not usable(), reason="no GPU that onnxruntime can use")
NEEDS_NONE = pytest.mark.skipif(usable(), reason="this machine has a usable GPU")


@NEEDS_GPU
def test_a_gpu_computes_what_the_cpu_computes_and_says_so(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """Answers name CUDAExecutionProvider and agree with numpy, at many batch sizes."""
    server = serve(models=repository, device="cuda")
    for count in (1, 2, 7, 32, 1000):
        rows = pictures(count)
        response = server.stub.Predict(pb.PredictRequest(tensor=tensor(rows)))
        assert response.provider == "CUDAExecutionProvider"
        np.testing.assert_allclose(probabilities(response), models.expected(rows), atol=1e-4)


@NEEDS_PACKAGE
@NEEDS_NONE
@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "cuda:3"])
def test_the_gpu_package_without_a_gpu_never_falls_back_to_the_cpu(repository: Path, wanted: str) -> None:
    """ONNX Runtime itself would compute on the CPU and say nothing; the server ends with status 1, cause and cure."""
    ports = ["--grpc-port", "0", "--http-port", "0"]
    command = [sys.executable, "-m", "server", "--models", str(repository), *ports, "--device", wanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    [line] = done.stderr.strip().splitlines()
    assert f"--device {wanted} was asked for, but onnxruntime-gpu" in line
    assert "check that nvidia-smi lists one" in line


@NEEDS_PACKAGE
@NEEDS_NONE
def test_auto_without_a_gpu_says_that_it_chose_the_cpu(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """With the GPU package and no GPU, auto serves on the CPU, and every answer says so."""
    server = serve(models=repository, device="auto")
    response = server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(2))))
    assert response.provider == "CPUExecutionProvider"
