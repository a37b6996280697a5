"""Log lines, of real servers: their two forms, request ids, and which calls get one."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.logs import MOST_ERRORS, AccessLog
from tests.conftest import LiveServer
from tests.server.conftest import ROOT, Start
from tests.server.test_life import address
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc

Serve = Callable[..., LiveServer]
REQUEST = pb.PredictRequest(tensor=tensor(pictures(2)))
BAD = pb.PredictRequest(model="nobody\nERROR forged", tensor=tensor(pictures(1)))
ID = "x-request-id"


def trailers(call: Any) -> dict[str, Any]:
    """The trailing metadata of a call that has ended."""
    return dict(call.trailing_metadata() or ())


def lines(start: Start, repository: Path, tmp_path: Path, *flags: str) -> list[str]:
    """What a server logs that is asked good and bad things, with a token in the metadata, and then stopped."""
    process = start("--models", str(repository), "--access-log", "1", "--stop-delay-seconds", "0", *flags)
    metadata = ((ID, "mine-1"), ("authorization", "Bearer swordfish"))
    with grpc.insecure_channel(address(tmp_path)) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        stub.Predict(REQUEST, metadata=metadata)
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                stub.Predict(BAD, metadata=metadata)
    process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert "swordfish" not in stderr
    return [line for line in stderr.splitlines() if line.strip()]


def test_json_is_an_object_a_line_with_what_is_known_of_a_call(start: Start, repository: Path, tmp_path: Path) -> None:
    """Every line of a server is JSON with time, level, logger and message; a call's has its model and request id."""
    told = [json.loads(line) for line in lines(start, repository, tmp_path, "--log-format", "json")]
    assert all({"timestamp", "level", "logger", "pid", "message"} <= set(line) for line in told)
    calls = [line for line in told if line["logger"] == "server.access"]
    assert [call["message"].split()[:2] for call in calls] == [["Predict", "OK"], *[["Predict", "NOT_FOUND"]] * 2]
    assert {key: calls[0][key] for key in ("protocol", "model", "version", "request_id", "level")} == {
        "protocol": "grpc", "model": "pets", "version": "1", "request_id": "mine-1", "level": "info",
    }  # fmt: skip
    assert "model" not in calls[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", calls[0]["timestamp"])


def test_text_is_a_line_for_people_with_the_same(start: Start, repository: Path, tmp_path: Path) -> None:
    """Time, level, words, then what else is known; what callers send begins no line of its own."""
    told = lines(start, repository, tmp_path)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO |WARNING|ERROR)", line) for line in told)
    assert sum(line.endswith("protocol=grpc model=pets version=1 request_id=mine-1") for line in told) == 1


def test_dependencies_speak_through_the_same_renderer() -> None:
    """A library's line, one with a trace, and a warning of Python's are objects of JSON too."""
    code = (
        "import logging, warnings\nfrom server import logs\nlogs.configure('info', 'json', False)\n"
        "logging.getLogger('library').warning('two\\nlines of %s', 'it', extra={'more': object})\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.getLogger('library').exception('a fault')\n"
        "warnings.warn('a warning')\nimport structlog\nstructlog.get_logger('ours').info('said', key=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    first, fault, warning, ours = map(json.loads, done.stderr.splitlines())
    assert (first["logger"], first["message"], first["more"]) == ("library", "two\nlines of it", "<class 'object'>")
    assert "ZeroDivisionError" in fault["exception"]
    assert "a warning" in warning["message"]
    assert (ours["message"], ours["key"], ours["level"]) == ("said", 1, "info")


def test_every_answer_has_a_request_id_the_callers_own_where_it_is_one(repository: Path, serve: Serve) -> None:
    """Good answers and faults, over gRPC and HTTP; what is not fit to be one is replaced."""
    server = serve(models=repository, http_port=0)
    _, call = server.stub.Predict.with_call(REQUEST, metadata=((ID, "job-7/row=3"),))
    assert trailers(call)[ID] == "job-7/row=3"
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(BAD, metadata=((ID, "job-8"),))
    assert trailers(caught.value)[ID] == "job-8"
    for unfit in ("two words", "x" * 129, "", '"quoted"'):
        _, call = server.stub.Predict.with_call(REQUEST, metadata=((ID, unfit),))
        assert re.fullmatch(r"[0-9a-f]{16}", trailers(call)[ID])
    _, first = server.stub.Predict.with_call(REQUEST)
    _, second = server.stub.Predict.with_call(REQUEST)
    assert trailers(first)[ID] != trailers(second)[ID]
    stream = server.stub.PredictStream(iter([pb.PredictStreamRequest(request=REQUEST)]), metadata=((ID, "stream"),))
    assert len(list(stream)) == 1
    assert trailers(stream)[ID] == "stream"
    assert server.app.gateway
    for path, status in (("/v2/models/pets/ready", 200), ("/v2/models/nobody", 404)):
        request = urllib.request.Request(f"http://{server.app.gateway.address()}{path}", headers={ID: "web-1"})
        try:
            answer = urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert (answer.status, answer.headers[ID]) == (status, "web-1")


def test_a_fault_of_ours_is_told_and_logged_under_the_callers_request_id(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The words, the trailing metadata and the log's trace have the same id."""
    [served] = server.app.repository.ready()
    served.lane.compute = lambda _: 1 / 0  # type: ignore[assignment]
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.Predict(REQUEST, metadata=((ID, "case-9"),))
    assert caught.value.details() == "internal error; the server's log has it under request id case-9"
    assert trailers(caught.value)[ID] == "case-9"
    assert "request id case-9" in caplog.text
    assert "ZeroDivisionError" in caplog.text


class Clock:
    """A time that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The access lines so far."""
    return [record for record in caplog.records if record.name == "server.access"]


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.01, 10), (0.3, 300), (1, 1000)])
def test_of_good_calls_a_share_is_logged(caplog: pytest.LogCaptureFixture, share: float, expected: int) -> None:
    """Evenly: of 1,000 with a share of 0.01, ten."""
    caplog.set_level(logging.INFO)
    access = AccessLog(share)
    for _ in range(1000):
        access.ended("OK", 0.001, "Predict", dict)
    assert abs(len(told(caplog)) - expected) <= 1


def test_failed_calls_are_logged_up_to_a_rate_and_the_rest_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A second has MOST_ERRORS lines at most; the next line says how many were left out. Faults of ours are errors."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    access = AccessLog(0, clock)
    for _ in range(MOST_ERRORS + 500):
        access.ended("INVALID_ARGUMENT", 0.001, "Predict", dict)
    assert len(told(caplog)) == MOST_ERRORS
    clock.now = 1.5
    for status in ("INTERNAL", "UNAVAILABLE", "NOT_FOUND"):
        access.ended(status, 0.001, "Predict", dict)
    last = told(caplog)[MOST_ERRORS:]
    assert [record.levelname for record in last] == ["ERROR", "WARNING", "INFO"]
    assert [getattr(record, "left_out", 0) for record in last] == [500, 0, 0]


def test_at_debug_every_call_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the share and the rate say."""
    caplog.set_level(logging.DEBUG)
    access = AccessLog(0)
    for _ in range(100):
        access.ended("OK", 0.001, "Predict", dict)
        access.ended("NOT_FOUND", 0.001, "Predict", dict)
    assert len(told(caplog)) == 200
