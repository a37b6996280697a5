"""Start, stop and signals, with the real command in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests import models
from tests.conftest import LiveServer
from tests.server.conftest import ROOT, Start
from tests.server.test_neighbours import Hold, until
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc


def address(tmp_path: Path) -> str:
    """Where the server listens, once it is ready."""
    until((tmp_path / "ready").exists)
    where: str = json.loads((tmp_path / "ready").read_text())["grpc"]
    return where


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr of a process that ends by itself."""
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_a_server_starts_answers_and_stops_on_sigterm(repository: Path, tmp_path: Path, start: Start) -> None:
    """It says where it listens and what it serves, answers, and after SIGTERM ends with status 0."""
    process = start("--models", str(repository))
    with grpc.insecure_channel(address(tmp_path)) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        assert len(stub.Predict(pb.PredictRequest(tensor=tensor(pictures(3)))).predictions) == 3
    process.send_signal(signal.SIGTERM)
    status, errors = ended(process)
    assert status == 0
    assert "ready: grpc 127.0.0.1:" in errors
    assert "pets v1" in errors
    assert not (tmp_path / "ready").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_accepted_request_is_lost_when_the_server_is_told_to_stop(
    repository: Path, tmp_path: Path, start: Start, number: int
) -> None:
    """Under load from several callers, a signal loses nothing: each call is answered, or refused as UNAVAILABLE."""
    process = start("--models", str(repository), "--stop-delay-seconds", "0.2")
    where = address(tmp_path)
    answered, refused, wrong = [0] * 6, [0] * 6, list[grpc.RpcError]()

    def caller(index: int) -> None:
        with grpc.insecure_channel(where) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while not refused[index]:
                try:
                    stub.Predict(pb.PredictRequest(tensor=tensor(pictures(40))), timeout=20)
                    answered[index] += 1
                except grpc.RpcError as error:
                    refused[index] += 1
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        wrong.append(error)

    callers = [threading.Thread(target=caller, args=(index,)) for index in range(6)]
    for thread in callers:
        thread.start()
    time.sleep(0.5)
    process.send_signal(number)
    for thread in callers:
        thread.join(30)
    assert not wrong
    assert all(answered)
    assert ended(process)[0] == 0


def test_a_stopping_server_says_so_goes_on_then_refuses_and_finishes(
    repository: Path, serve: Callable[..., LiveServer]
) -> None:
    """Health turns NOT_SERVING first, calls still succeed; then new ones are UNAVAILABLE and old ones are answered."""
    server = serve(models=repository, stop_delay_seconds=0.5, workers=1)
    health = health_pb2_grpc.HealthStub(server.channel)
    hold = Hold(server)
    hold.go.set()
    stopping = server.stop_async()
    until(lambda: health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING)
    assert len(server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(2)))).predictions) == 2
    hold.go.clear()
    hold.entered.clear()
    accepted = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(3))))
    assert hold.entered.wait(10)
    until(lambda: server.app.calls.refusing)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not stopping.done()
    hold.go.set()
    assert len(accepted.result().predictions) == 3
    stopping.result(10)


def test_a_second_signal_ends_it_at_once(repository: Path, tmp_path: Path, start: Start) -> None:
    """The first signal waits for the delay; the second does not."""
    process = start("--models", str(repository), "--stop-delay-seconds", "60")
    address(tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    status, errors = ended(process)
    assert status == 128 + signal.SIGTERM
    assert "second signal: exiting at once" in errors


def test_a_port_in_use_is_a_clear_error(repository: Path, start: Start) -> None:
    """Exit status 1 and one line that names the address; no second server on the same port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, errors = ended(start("--models", str(repository), "--grpc-port", str(port)))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}: is the port in use" in errors
    assert "Traceback" not in errors


def test_two_servers_never_share_a_port(repository: Path, tmp_path: Path, start: Start) -> None:
    """A second server on the first one's port ends with status 1."""
    start("--models", str(repository))
    port = address(tmp_path).split(":")[1]
    status, errors = ended(start("--models", str(repository), "--grpc-port", port))
    assert status == 1
    assert "is the port in use" in errors


def test_a_missing_repository_ends_the_command(tmp_path: Path, start: Start) -> None:
    """Exit status 1 and one line."""
    status, errors = ended(start("--models", str(tmp_path / "nowhere")))
    assert status == 1
    assert "topclass server: there is no model repository" in errors
    assert "Traceback" not in errors


def test_cuda_where_there_is_none_ends_the_command_with_the_cure(repository: Path, start: Start) -> None:
    """--device cuda never falls back to the CPU: exit status 1, the cause and the cure."""
    status, errors = ended(start("--models", str(repository), "--device", "cuda"))
    assert status == 1
    assert "--device cuda was asked for, but " in errors
    assert "onnxruntime-gpu" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--grpc-port", "x"], {}, "--grpc-port is 'x'; it must be a whole number"),
        (["--grpc-port", "70000"], {}, "grpc_port is 70000; it must be from 0 to 65535"),
        (["--device", "tpu"], {}, "device is 'tpu'; it must be auto, cpu, cuda or cuda:N"),
        (["--no-such-flag"], {}, "unrecognized arguments: --no-such-flag"),
        ([], {"TOPCLASS_WORKERZ": "3"}, "unknown setting in the environment: TOPCLASS_WORKERZ"),
        ([], {"TOPCLASS_WORKERS": "many"}, "TOPCLASS_WORKERS is 'many'; it must be a whole number"),
    ],
)
def test_a_wrong_setting_ends_the_command_with_status_2(
    start: Start, flags: list[str], environment: dict[str, str], words: str
) -> None:
    """Exit status 2 and words that name the setting, its value, and what it may be."""
    status, errors = ended(start(*flags, **environment))
    assert status == 2
    assert words in errors
    assert "Traceback" not in errors


def test_the_server_never_imports_tensorflow_or_onnx() -> None:
    """The server's process has neither TensorFlow, Keras, onnx nor scikit-learn in it."""
    code = "import sys, server.__main__; print(sorted({'tensorflow','keras','onnx','sklearn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_repository_with_a_model_that_appears_later_becomes_ready(tmp_path: Path, start: Start) -> None:
    """A server of an empty repository becomes SERVING by itself when a model is published."""
    folder = tmp_path / "models"
    folder.mkdir()
    start("--models", str(folder), "--watch-seconds", "0.1")
    with grpc.insecure_channel(address(tmp_path)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        ask = health_pb2.HealthCheckRequest()
        assert health.Check(ask).status == health_pb2.HealthCheckResponse.NOT_SERVING
        models.put(folder, "pets", 1, models.with_card(models.classifier()))
        until(lambda: health.Check(ask).status == health_pb2.HealthCheckResponse.SERVING)
