"""Commands of the field: curl, h2load, perf_analyzer, and our own health check, each as a process."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from server.open_inference.stubs import grpc_service_pb2 as pb
from tests.foreign.here import ROWS, address, expected

INFER = "inference.GRPCInferenceService/ModelInfer"


def run(*command: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """A command to its end; skips where it is not installed."""
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]} here, and scripts/client-tools could not get it")
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def curl(path: str, *arguments: str) -> tuple[int, str]:
    """Status and body."""
    done = run("curl", "--silent", "--max-time", "30", "--write-out", "\n%{http_code}", *arguments, f"http://{path}")
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_curl() -> None:
    """Readiness, a batch as JSON, and a mistake."""
    host = address("http")
    assert curl(f"{host}/v2/health/ready")[0] == 200
    tensor = {"name": "image", "datatype": "UINT8", "shape": [5, 4, 4], "data": ROWS.ravel().tolist()}
    status, body = curl(f"{host}/v2/models/pets/infer", "--json", json.dumps({"inputs": [tensor]}))
    assert status == 200
    assert json.loads(body)["outputs"][0]["data"] == pytest.approx(expected(ROWS).ravel().tolist(), abs=1e-6)
    status, body = curl(f"{host}/v2/models/cars")
    assert (status, "no model 'cars'" in json.loads(body)["error"]) == (404, True)


def rows(host: str) -> int:
    """Rows of pets that were answered so far."""
    return int(json.loads(curl(f"{host}/v2/models/pets/stats")[1])["model_stats"][0]["inference_count"])


def test_h2load(tmp_path: Path) -> None:
    """500 framed requests by four connections are 2xx, and the server counted an answer for each row of each."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=ROWS.shape)
    message = pb.ModelInferRequest(model_name="pets", inputs=[tensor], raw_input_contents=[ROWS.tobytes()])
    framed = tmp_path / "request"
    framed.write_bytes(struct.pack(">BI", 0, message.ByteSize()) + message.SerializeToString())
    before = rows(address("http"))
    headers = ("--header=content-type: application/grpc", "--header=te: trailers")
    done = run(
        "h2load", "-n500", "-c4", "-m10", f"--data={framed}", *headers, f"http://{address('grpc')}/{INFER}"
    )  # fmt: skip
    assert "500 total, 500 started, 500 done, 500 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stderr
    assert "status codes: 500 2xx, 0 3xx, 0 4xx, 0 5xx" in done.stdout
    assert rows(address("http")) - before == 500 * len(ROWS)


PERF = {
    "grpc": ("-i", "grpc"),
    "grpc, a stream": ("-i", "grpc", "--streaming"),
    "grpc, several at once": ("-i", "grpc", "--async"),
    "grpc, shared memory": ("-i", "grpc", "--shared-memory", "system"),
    "http": ("-i", "http"),
    "http, shared memory": ("-i", "http", "--shared-memory", "system"),
}


@pytest.mark.parametrize("case", PERF)
def test_perf_analyzer(case: str) -> None:
    """500 requests of two rows are answered, and the server's statistics that it prints count them."""
    how = PERF[case]
    batch = "1" if "--streaming" in how else "2"
    where = address(how[1])
    done = run(
        "perf_analyzer", "-m", "digits-mlp", "-u", where, *how, "-b", batch, "--concurrency-range", "4",
        "--request-count", "500",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Request count: " in done.stdout
    counted = re.search(r"Successful request count: (\d+)", done.stdout)
    assert counted
    assert int(counted[1]) >= 490  # those in its window
    parts = r"overhead \d+ usec \+ queue \d+ usec \+ compute input \d+ usec \+ compute infer \d+ usec"
    assert re.search(parts, done.stdout)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--server", "{}"], 0), (["--nonsense"], 1), (["--server", "127.0.0.1:1"], 2), (["--server", "{http}"], 2)],
)
def test_the_exit_status_of_topclass_health_is_grpc_health_probes(arguments: list[str], status: int) -> None:
    """0 serving, 1 wrong arguments, 2 no gRPC there; 3 and 4 want other servers: tests/clients/test_commands.py."""
    filled = [each.format(address("grpc"), http=address("http")) for each in arguments]
    assert run(sys.executable, "-m", "topclass", "health", *filled).returncode == status
