"""Deploys under load: servers are restarted one after the other, and no caller notices."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import grpc
import numpy as np

from tests import models
from tests.server.test_life import Start, address, ended, start
from tests.server.test_neighbours import until
from tests.server.test_predict import pictures, probabilities, tensor
from topclass import Client
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc

__all__ = ["start"]  # the fixture
# grpc tries a lost server again after 1 s, then 1.6 s, and so on, and a deploy waits longer between two servers
# (Kubernetes' minReadySeconds). Here both are shorter.
RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
BETWEEN_SECONDS = 1.0
RETRYING = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "topclass.v1.InferenceService"}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def test_a_rolling_restart_of_two_servers_is_not_seen_by_clients_that_retry_unavailable(
    repository: Path, tmp_path: Path, start: Start
) -> None:
    """Six callers, round-robin over two servers; each server is restarted twice; every call is answered rightly."""
    ports, processes = [], []
    for _ in range(2):
        processes.append(start("--models", str(repository), "--stop-delay-seconds", "0.2"))
        ports.append(address(tmp_path).split(":")[1])
        (tmp_path / "ready").unlink()
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    answered, errors, stop = [0] * 6, list[object](), threading.Event()

    def caller(index: int) -> None:
        rows = pictures(8, index)
        with grpc.insecure_channel(target, options=[*RECONNECT, ("grpc.service_config", RETRYING)]) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            while not stop.is_set():
                try:
                    response = stub.Predict(pb.PredictRequest(tensor=tensor(rows)), timeout=20)
                    assert np.allclose(probabilities(response), models.expected(rows), atol=1e-6)
                    answered[index] += 1
                except (grpc.RpcError, AssertionError) as error:
                    errors.append(error)

    callers = [threading.Thread(target=caller, args=(index,)) for index in range(6)]
    for thread in callers:
        thread.start()
    for turn in range(4):
        time.sleep(BETWEEN_SECONDS)
        before = list(answered)
        which = turn % 2
        processes[which].send_signal(signal.SIGTERM)
        assert ended(processes[which])[0] == 0
        processes[which] = start(
            "--models", str(repository), "--stop-delay-seconds", "0.2", "--grpc-port", ports[which]
        )
        until((tmp_path / "ready").exists)
        (tmp_path / "ready").unlink()
        until(lambda before=before: all(now > then for now, then in zip(answered, before, strict=True)))
    time.sleep(0.5)
    stop.set()
    for thread in callers:
        thread.join(30)
    assert errors == []
    assert min(answered) > 20


def test_a_restart_of_the_only_server_is_not_seen_by_our_own_client(
    repository: Path, tmp_path: Path, start: Start
) -> None:
    """topclass.Client retries UNAVAILABLE until its deadline: calls wait while the server restarts, and none fails."""
    process = start("--models", str(repository), "--stop-delay-seconds", "0")
    where = address(tmp_path)
    (tmp_path / "ready").unlink()
    answered, errors, stop = [0] * 4, list[Exception](), threading.Event()

    def caller(index: int) -> None:
        with Client(where, timeout=30, retries=50) as client:
            while not stop.is_set():
                try:
                    client.predict(pictures(4))
                    answered[index] += 1
                except Exception as error:
                    errors.append(error)

    callers = [threading.Thread(target=caller, args=(index,)) for index in range(4)]
    for thread in callers:
        thread.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0
    before = list(answered)
    start("--models", str(repository), "--grpc-port", where.split(":")[1])
    until(lambda: all(now > then for now, then in zip(answered, before, strict=True)))
    stop.set()
    for thread in callers:
        thread.join(40)
    assert errors == []
