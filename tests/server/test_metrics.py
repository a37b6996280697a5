"""What Prometheus is told, scraped over HTTP from real servers that were called over real channels."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.metrics import names
from tests import models
from tests.conftest import LiveServer
from tests.server.conftest import Start
from tests.server.test_life import address
from tests.server.test_neighbours import Hold, until
from tests.server.test_predict import pictures, tensor
from tests.server.test_processes import TWO, Log, alive, connect
from topclass.v1 import inference_pb2 as pb
from topclass.v1 import inference_pb2_grpc

Serve = Callable[..., LiveServer]
REFERENCE = {"predicted": [1, 2, 3], "confidence": [2, 4], "confidence_bounds": [0.5]}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """The samples of one scrape."""

    def __init__(self, http: str, accept: str = "text/plain"):
        request = urllib.request.Request(f"http://{http}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as response:
            self.kind, self.text = response.headers["content-type"], response.read().decode()
        families = list(text_string_to_metric_families(self.text))
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def of(self, name: str, **labels: str) -> float | None:
        """The value of `topclass_NAME` with exactly these labels; None where there is no such series."""
        return self.samples.get((f"topclass_{name}", frozenset(labels.items())))

    def requests(self, code: str, method: str = "Predict", model: str = "pets", version: str = "1") -> float | None:
        """How many requests ended so."""
        protocol, name = names(method)
        return self.of("requests_total", protocol=protocol, method=name, model=model, version=version, code=code)


def scrape(server: LiveServer) -> Scraped:
    """What a server tells now."""
    assert server.app.gateway is not None
    return Scraped(server.app.gateway.address())


def ended(call: Callable[[], object]) -> str:
    """The status that a call ends with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.fixture
def watched(repository: Path, serve: Serve) -> LiveServer:
    """A live server with an HTTP port and one worker."""
    return serve(models=repository, http_port=0, workers=1)


def test_requests_are_counted_by_method_model_version_and_code(watched: LiveServer) -> None:
    """Good calls, wrong ones and those of other methods are each in their series, and each has its time."""
    for count in (2, 3):
        watched.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(count))))
    wrong = pb.PredictRequest(tensor=tensor(pictures(1)[:, :2]))
    assert ended(lambda: watched.stub.Predict(wrong)) == "INVALID_ARGUMENT"
    watched.stub.GetModel(pb.GetModelRequest(model="pets"))
    watched.stub.ListModels(pb.ListModelsRequest())
    told = scrape(watched)
    assert told.requests("OK") == 2
    assert told.requests("INVALID_ARGUMENT") == 1
    assert told.requests("OK", "GetModel") == 1
    assert told.requests("OK", "ListModels", "", "") == 1
    assert told.of("request_seconds_count", protocol="grpc", method="Predict", model="pets") == 3


def test_rows_batches_and_times_are_those_of_what_was_computed(watched: LiveServer) -> None:
    """Rows, batches and their sizes, computing and waiting are counted once each; what was refused is in none."""
    for count in (2, 3):
        watched.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(count))))
    ended(lambda: watched.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(0)))))
    told = scrape(watched)
    assert told.of("rows_total", model="pets", version="1") == 5
    assert told.of("batch_rows_count", model="pets") == 2
    assert told.of("batch_rows_sum", model="pets") == 5
    assert told.of("queue_seconds_count", model="pets") == 2
    assert told.of("compute_seconds_count", model="pets") == 2
    assert 0 < (told.of("compute_seconds_sum", model="pets") or 0) < 10


def test_requests_that_share_a_batch_are_one_batch_and_wait_each_for_themselves(watched: LiveServer) -> None:
    """Three requests that wait behind a held one are one batch of their rows, and three that waited; meanwhile the
    queue's rows and the calls in progress are told."""
    hold = Hold(watched)
    request = pb.PredictRequest(tensor=tensor(pictures(2)))
    calls = [watched.stub.Predict.future(request)]
    assert hold.entered.wait(10)
    calls += [watched.stub.Predict.future(request) for _ in range(3)]
    until(lambda: watched.app._batcher.waiting_rows == 6)
    told = scrape(watched)
    assert (told.of("queue_rows"), told.of("calls_in_progress")) == (6, 4)
    hold.go.set()
    for call in calls:
        call.result(10)
    until(lambda: not watched.app.calls.in_progress)
    told = scrape(watched)
    assert (told.of("queue_rows"), told.of("calls_in_progress")) == (0, 0)
    assert (told.of("batch_rows_count", model="pets"), told.of("batch_rows_sum", model="pets")) == (2, 8)
    assert told.of("queue_seconds_count", model="pets") == 4


def test_cancelled_expired_and_rejected_requests_are_told_apart(repository: Path, serve: Serve) -> None:
    """A caller that leaves is CANCELLED, one whose deadline passes DEADLINE_EXCEEDED, a full queue
    RESOURCE_EXHAUSTED; none of them was computed."""
    server = serve(models=repository, http_port=0, workers=1, max_request_rows=4, max_queue_rows=4)
    hold = Hold(server)
    one = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(1))))
    assert hold.entered.wait(10)
    left = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(2))))
    late = pb.PredictRequest(tensor=tensor(pictures(1)))
    assert ended(lambda: server.stub.Predict(late, timeout=0.2)) == "DEADLINE_EXCEEDED"
    until(lambda: server.app._batcher.waiting_rows == 2)
    many = pb.PredictRequest(tensor=tensor(pictures(4)))
    assert ended(lambda: server.stub.Predict(many)) == "RESOURCE_EXHAUSTED"
    left.cancel()
    until(lambda: server.app.calls.in_progress == 1)
    hold.go.set()
    one.result(10)
    until(lambda: not server.app.calls.in_progress)
    told = scrape(server)
    codes = ("OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert [told.requests(code) for code in codes] == [1, 1, 1, 1]
    assert told.of("rows_total", model="pets", version="1") == 1


def test_each_message_of_a_stream_is_a_request(watched: LiveServer) -> None:
    """Of three messages, one of them wrong, two are OK and one INVALID_ARGUMENT; the stream itself adds nothing."""
    messages = [
        pb.PredictStreamRequest(id=str(n), request=pb.PredictRequest(tensor=tensor(pictures(n)))) for n in (1, 0, 2)
    ]
    assert len(list(watched.stub.PredictStream(iter(messages)))) == 3
    until(lambda: not watched.app.calls.in_progress)
    told = scrape(watched)
    assert told.requests("OK", "PredictStream") == 2
    assert told.requests("INVALID_ARGUMENT", "PredictStream") == 1
    assert sum(value for (name, _), value in told.samples.items() if name == "topclass_requests_total") == 3


def test_the_same_question_over_each_protocol_is_in_its_own_series(watched: LiveServer) -> None:
    """gRPC's own, the field's over gRPC and HTTP, and pictures over HTTP are told apart, in bounded words."""
    watched.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1))))
    infer = b"\x0a\x04nope"  # model_name
    method = watched.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    assert ended(lambda: method(infer)) == "NOT_FOUND"
    assert watched.app.gateway
    for path in ("/v2/models/nope/infer", "/v1/models/nope:classify"):
        request = urllib.request.Request(f"http://{watched.app.gateway.address()}{path}", b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=10)
    told = scrape(watched)
    seen = {
        (dict(labels)["protocol"], dict(labels)["method"])
        for name, labels in told.samples
        if name == "topclass_requests_total"
    }
    assert seen == {("grpc", "Predict"), ("v2_grpc", "ModelInfer"), ("v2_http", "ModelInfer"), ("http", "Classify")}


def test_messages_of_the_fields_stream_are_requests_too(watched: LiveServer) -> None:
    """ModelStreamInfer answers a wrong message with an error in the stream; it is counted as what it is."""
    method = watched.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    assert len(list(method(iter([b"\x0a\x04nope"] * 3)))) == 3
    until(lambda: not watched.app.calls.in_progress)
    assert scrape(watched).requests("NOT_FOUND", "ModelStreamInfer", "", "") == 3


def test_calls_that_are_refused_before_their_handler_are_counted(
    repository: Path, serve: Serve, tmp_path: Path
) -> None:
    """Those without a token, under the method where it is one of ours, and those over max_calls."""
    (tmp_path / "tokens").write_text("secret")
    server = serve(models=repository, http_port=0, workers=1, max_calls=2, token_file=tmp_path / "tokens")
    for _ in range(3):
        assert ended(lambda: server.stub.ListModels(pb.ListModelsRequest())) == "UNAUTHENTICATED"
    for n in range(4):
        assert ended(lambda n=n: server.channel.unary_unary(f"/made/Up{n}")(b"")) == "UNAUTHENTICATED"
    token = (("authorization", "Bearer secret"),)
    hold = Hold(server)
    request = pb.PredictRequest(tensor=tensor(pictures(1)))
    calls = [server.stub.Predict.future(request, metadata=token) for _ in range(2)]
    until(lambda: server.app.calls.in_progress == 2)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            server.stub.Predict(request, metadata=token)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "2 calls are in progress, the most that this server takes; try again"
    hold.go.set()
    assert all(len(call.result(10).predictions) == 1 for call in calls)
    until(lambda: not server.app.calls.in_progress)
    assert server.app.gateway
    http = f"http://{server.app.gateway.address()}"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{http}/v2/models/pets", timeout=10)
    text = server.app.metrics.exposition("")[0].decode()
    told = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"}

    def count(protocol: str, method: str, code: str) -> float:
        labels = f'code="{code}",method="{method}",model="",protocol="{protocol}",version=""'
        return told.get(f"topclass_requests_total{{{labels}}}", 0)

    assert count("grpc", "ListModels", "UNAUTHENTICATED") == 3
    assert count("v2_grpc", "", "UNAUTHENTICATED") == 4
    assert count("grpc", "Predict", "RESOURCE_EXHAUSTED") == 2
    assert count("v2_http", "", "UNAUTHENTICATED") == 1


def test_which_file_answers_and_what_computes_it_is_told(repository: Path, watched: LiveServer) -> None:
    """provider and sha256 are those that answers name; of a version that is gone there is nothing."""
    [served] = watched.app.repository.ready()
    at = {"model": "pets", "version": "1", "provider": served.model.provider, "sha256": served.model.sha256}
    assert scrape(watched).of("model_info", **at) == 1
    models.put(repository, "pets", 2, models.classifier(seed=2))
    watched.refresh()
    shutil.rmtree(repository / "pets" / "1")
    watched.refresh()
    assert scrape(watched).of("model_info", **at) is None


def test_names_that_callers_make_up_are_no_labels(watched: LiveServer) -> None:
    """A thousand unknown models, versions and aliases are all in one series, of no model."""
    series = len(scrape(watched).samples)
    for n in range(350):
        for request in (
            pb.PredictRequest(model=f"made-up-{n}"),
            pb.PredictRequest(model="pets", version=1000 + n),
            pb.PredictRequest(model="pets", alias=f"alias-{n}"),
        ):
            assert ended(lambda request=request: watched.stub.Predict(request)) == "NOT_FOUND"
    told = scrape(watched)
    assert told.requests("NOT_FOUND", model="", version="") == 1050
    assert "made-up" not in told.text
    assert len(told.samples) < series + 30  # one counter, and one histogram


def test_a_refused_version_is_seen_and_so_is_its_mending(repository: Path, watched: LiveServer) -> None:
    """A version whose files are broken has topclass_model_refused 1 and ready 0 until they are mended; gone, it is told
    no longer."""
    models.put(repository, "pets", 2, b"no model at all")
    watched.refresh()
    told = scrape(watched)
    assert [told.of("model_refused", model="pets", version=v) for v in "12"] == [0, 1]
    assert [told.of("model_ready", model="pets", version=v) for v in "12"] == [1, 0]
    assert told.of("model_loads_total", model="pets", result="refused") == 1
    [reason] = [entry.reason for entry in watched.app.repository.entries() if entry.version == 2]
    assert "not a whole ONNX file" in reason
    assert told.of("model_refusal_info", model="pets", version="2", reason=reason) == 1
    shutil.rmtree(repository / "pets" / "2")
    models.put(repository, "pets", 2, models.classifier(seed=2))
    watched.refresh()
    told = scrape(watched)
    assert told.of("model_refused", model="pets", version="2") == 0
    assert told.of("model_refusal_info", model="pets", version="2", reason=reason) is None
    assert told.of("model_ready", model="pets", version="2") == 1
    assert told.of("model_loads_total", model="pets", result="ready") == 2
    shutil.rmtree(repository / "pets" / "1")
    watched.refresh()
    assert scrape(watched).of("model_ready", model="pets", version="1") is None


def test_a_version_that_the_policy_leaves_out_is_not_refused(repository: Path, serve: Serve) -> None:
    """It is neither ready nor refused: nobody has to be woken for it."""
    models.put(repository, "pets", 2, models.classifier(seed=2))
    told = scrape(serve(models=repository, http_port=0, version_policy="latest:1"))
    assert told.of("model_ready", model="pets", version="1") == 0
    assert told.of("model_refused", model="pets", version="1") == 0


def test_metrics_say_what_runs_where(watched: LiveServer) -> None:
    """Build, device, workers and the process's own memory are told; the format is the one that was asked for."""
    told = scrape(watched)
    assert told.of("device_info", device="cpu") == 1
    assert told.of("workers") == 1
    assert any(name == "topclass_build_info" for name, _ in told.samples)
    assert told.samples["process_resident_memory_bytes", frozenset()] > 1e6
    assert told.kind.startswith("text/plain")
    assert watched.app.gateway
    assert Scraped(watched.app.gateway.address(), "application/openmetrics-text").kind.startswith(
        "application/openmetrics-text"
    )


def test_two_processes_count_together_and_a_death_takes_no_count_along(
    repository: Path, tmp_path: Path, start: Start
) -> None:
    """Whichever process is asked tells the sum of both; one that is killed leaves what it had told, and what it was
    doing goes; at the end no file is left."""
    shutil.rmtree(repository / "pets")
    models.put(repository, "pets", 1, models.with_card(models.classifier(), reference=REFERENCE))
    process = start("--models", str(repository), *TWO, "--log-level", "debug", TMPDIR=str(tmp_path))
    log, where = Log(process), address(tmp_path)
    http = json.loads((tmp_path / "ready").read_text())["http"]
    children, calls = log.ready(), 0
    while set(log.pids(r"pid (?=\d+ DEBUG\s+Predict OK)")) != set(children):  # until both have answered
        with connect(where) as channel:
            inference_pb2_grpc.InferenceServiceStub(channel).Predict(pb.PredictRequest(tensor=tensor(pictures(2))))
        calls += 1
        assert calls < 200
    until(lambda: Scraped(http).requests("OK") == calls)  # the others count at least every second
    for _ in range(8):  # the kernel chooses who is asked
        told = Scraped(http)
        assert told.requests("OK") == calls
        assert told.of("rows_total", model="pets", version="1") == 2 * calls
        assert told.of("batch_rows_count", model="pets") == calls
        assert told.of("model_ready", model="pets", version="1") == 1
        assert told.of("workers") == 2
        said = [told.of("predicted_rows_total", model="pets", version="1", **{"class": c}) for c in models.LABELS]
        assert sum(value or 0 for value in said) == 2 * calls
        assert told.of("drift_rows", model="pets", version="1") == 2 * calls
    os.kill(children[0], 9)
    log.ready(3)
    told = Scraped(http)
    assert told.requests("OK") == calls
    assert told.of("workers") == 2
    assert (told.of("drift_rows", model="pets", version="1") or 0) < 2 * calls  # what it was doing goes
    process.terminate()
    assert process.wait(30) == 0
    assert not any(map(alive, children))
    assert not list(tmp_path.glob("topclass-metrics-*"))
