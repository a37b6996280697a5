"""The compose file, really run, by `make test-containers`. The tests go on from each other, in this order."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.containers.podman import SERVER, TRAINER, Failed, Stack, inspect, podman
from topclass.v1 import inference_pb2, inference_pb2_grpc

pytestmark = [
    pytest.mark.skipif("TEST_CONTAINERS" not in os.environ, reason="needs podman: run make test-containers"),
    pytest.mark.timeout(600),
]
SERVER_BUDGET = 350e6  # bytes on disk
MODEL = "digits-mlp"
UID = 10001


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The compose file brought up on free ports, in a project of its own; nothing of it is left afterwards."""
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        stack = Stack(probe.getsockname()[1], other.getsockname()[1])
    stack.compose("down", "--volumes")
    try:
        stack.compose("up", "--detach", "--no-build", seconds=400)
        wait(stack.healthy, 60)
        yield stack
    except Failed:
        print(stack.compose("logs"))
        raise
    finally:
        stack.compose("down", "--volumes")


@pytest.fixture
def stub(stack: Stack) -> Iterator[inference_pb2_grpc.InferenceServiceStub]:
    """A client outside the containers, on the published port."""
    with grpc.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        yield inference_pb2_grpc.InferenceServiceStub(channel)


def wait(until: Callable[[], bool], seconds: float) -> None:
    """Returns once it is so; Failed if that takes longer."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise Failed(f"not so after {seconds:g} s: {until}")
        time.sleep(0.5)


def held_out(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """The test part of the newest run: pictures that the model never saw, and their labels."""
    newest = max((stack.volume("runs") / MODEL).glob("*/test.npz"), key=lambda file: file.stat().st_mtime)
    with np.load(newest) as test:
        return test["inputs"], test["labels"]


def request(pictures: np.ndarray) -> inference_pb2.PredictRequest:
    """One batch of uint8 pictures for the digits model."""
    tensor = inference_pb2.Tensor(dtype="DATA_TYPE_UINT8", shape=pictures.shape, data=pictures.tobytes())
    return inference_pb2.PredictRequest(model=MODEL, tensor=tensor)


def test_the_server_image_is_small_and_holds_no_training() -> None:
    """Under 350 MB, without TensorFlow, Keras, onnx, pip, compiler or sources of the other parts."""
    assert inspect(SERVER)["Size"] < SERVER_BUDGET
    assert inspect(TRAINER)["Config"]["User"] == inspect(SERVER)["Config"]["User"] == f"{UID}:{UID}"
    look = (
        "import importlib.util as u, shutil, os; "
        "print([m for m in ('tensorflow','keras','onnx','sklearn','pip','training','export') if u.find_spec(m)],"
        "[c for c in ('pip','gcc','cc','make') if shutil.which(c)], "
        "os.listdir('/app'), os.listdir('/opt'), os.path.exists('/etc/pip.conf'))"
    )
    found = podman("run", "--rm", "--no-healthcheck", "--entrypoint", "python", SERVER, "-c", look)
    assert found.strip() == "[] [] ['server'] ['topclass'] False"


def test_no_layer_names_this_machines_package_index() -> None:
    """Neither history nor labels of the images hold what pip was told here."""
    for image in (SERVER, TRAINER):
        history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        assert "index-url" not in history + str(inspect(image)["Config"])


def test_the_answers_from_outside_are_right(stack: Stack, stub: inference_pb2_grpc.InferenceServiceStub) -> None:
    """A client outside gets, over the published port, the right digit for at least 95 % of the held-out pictures."""
    pictures, labels = held_out(stack)
    response = stub.Predict(request(pictures), timeout=30)
    assert (response.model, response.version, response.provider) == (MODEL, 1, "CPUExecutionProvider")
    found = np.array([prediction.top_class for prediction in response.predictions])
    assert (found == labels).mean() >= 0.95
    sums = [sum(prediction.probabilities) for prediction in response.predictions]
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_only_this_machine_is_served(stack: Stack) -> None:
    """Both ports are published on 127.0.0.1 and on no other address."""
    published = inspect(stack.container("server"))["NetworkSettings"]["Ports"]
    for inside, outside in (("8001/tcp", stack.port), ("8000/tcp", stack.http_port)):
        assert published[inside] == [{"HostIp": "127.0.0.1", "HostPort": str(outside)}]


@pytest.mark.parametrize("place", ["/", "/app/server", "/models", "/opt/topclass/bin"])
def test_the_server_cannot_write(stack: Stack, place: str) -> None:
    """The root file system, the code and the models are read-only for the server."""
    with pytest.raises(Failed, match="Read-only file system"):
        stack.inside("server", "touch", f"{place}/written")


def test_the_server_has_no_privileges(stack: Stack) -> None:
    """It is user 10001, without any capability, and can gain none; /tmp is in memory."""
    lines = stack.inside("server", "cat", "/proc/1/status").splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert status["Uid"] == status["Gid"] == [str(UID)] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    assert status["NoNewPrivs"] == ["1"]
    assert " /tmp tmpfs " in stack.inside("server", "cat", "/proc/mounts")


def test_a_retrained_model_goes_live_under_load(stack: Stack, stub: inference_pb2_grpc.InferenceServiceStub) -> None:
    """`run train` publishes version 2, the running server takes it over, and no call made meanwhile fails."""
    pictures, _ = held_out(stack)
    done = threading.Event()

    def call() -> list[int]:
        versions = []
        while not done.is_set():
            versions.append(stub.Predict(request(pictures[:8]), timeout=10).version)
            time.sleep(0.02)
        return versions

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(call)
        try:
            stack.compose("--profile", "train", "run", "--rm", "train", seconds=400)
        finally:
            done.set()
        versions = calls.result()
    assert len(versions) > 50
    assert versions == sorted(versions)
    assert (versions[0], versions[-1]) == (1, 2)


def test_a_retraining_that_cannot_be_watched_says_so(stack: Stack) -> None:
    """`run train` ends with its own status and words: nothing is trained for a server that is not there."""
    other = Stack(stack.port, stack.http_port, variables={"TRAIN_SERVER": "127.0.0.1:1"})
    with pytest.raises(Failed, match=r"status 1\n(.|\n)*digits-mlp: failed: nothing was trained"):
        other.compose("--profile", "train", "run", "--rm", "train")


def test_stop_ends_well_and_up_keeps_the_models(stack: Stack) -> None:
    """SIGTERM ends the server with status 0 well within its grace; after down and up the newest model answers."""
    started = time.monotonic()
    stack.compose("stop", "server")
    assert time.monotonic() - started < 20
    assert inspect(stack.container("server"))["State"]["ExitCode"] == 0
    stack.compose("down")
    assert podman("ps", "--all", "--quiet", "--filter", f"name={stack.name}") == ""

    stack.compose("up", "--detach", "--no-build")
    wait(stack.healthy, 60)
    assert "nothing to do" in podman("logs", stack.container("init"))
    pictures, labels = held_out(stack)
    with grpc.insecure_channel(f"127.0.0.1:{stack.port}") as channel:
        response = inference_pb2_grpc.InferenceServiceStub(channel).Predict(request(pictures), timeout=30)
    assert response.version == 2
    assert np.mean([p.top_class == label for p, label in zip(response.predictions, labels, strict=True)]) >= 0.95


def test_every_profile_is_understood(stack: Stack, tmp_path: Path) -> None:
    """podman-compose reads the file with each profile and knows the services that it should."""
    for profile, service in (("gpu", "server-gpu"), ("train", "train")):
        text = stack.compose("--profile", profile, "config")
        (tmp_path / profile).write_text(text)
        assert f"\n  {service}:" in text
