"""Traces, as a real collector gets them over OTLP from real servers."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.app import App
from server.config import Config
from server.errors import StartError
from server.interceptor import Call
from tests.conftest import LiveServer
from tests.server.collector import Collector, collecting
from tests.server.conftest import ROOT
from tests.server.test_neighbours import Hold, until
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb

Serve = Callable[..., LiveServer]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
REQUEST = pb.PredictRequest(tensor=tensor(pictures(2)))


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that servers in this test send to."""
    yield from collecting(monkeypatch)


def attributes(span: Any) -> dict[str, str]:
    """Those of a span, as text."""
    return {item.key: str(getattr(item.value, str(item.value.WhichOneof("value")))) for item in span.attributes}


def test_a_call_is_a_span_in_its_callers_trace_with_its_parts_below(
    repository: Path, serve: Serve, collector: Collector
) -> None:
    """decode, queue, compute and encode follow each other within it; the batch's span and its own name each other."""
    server = serve(models=repository, tracing=True)
    server.stub.Predict(REQUEST, metadata=(*CALLER, ("x-request-id", "mine")))
    [span], [batch] = collector.named("Predict"), collector.named("batch")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(span) == {
        "rpc.response.status_code": "OK", "protocol": "grpc", "model": "pets", "version": "1", "request_id": "mine",
    }  # fmt: skip
    parts = collector.children(span)
    assert set(parts) == {"decode", "queue", "compute", "encode", "batch"}
    times = [span.start_time_unix_nano]
    for name in ("decode", "queue", "compute", "encode"):
        times += [parts[name].start_time_unix_nano, parts[name].end_time_unix_nano]
    assert times == sorted(times)
    assert times[-1] == span.end_time_unix_nano
    assert abs(times[-1] / 1e9 - time.time()) < 60
    assert [link.span_id for link in batch.links] == [span.span_id]
    assert [link.span_id for link in parts["compute"].links] == [batch.span_id]
    assert attributes(batch)["topclass.rows"] == "2"
    assert collector.resource["service.name"] == "topclass"


def test_calls_that_share_a_batch_are_all_linked_to_its_span(
    repository: Path, serve: Serve, collector: Collector
) -> None:
    """Three calls that waited together are three links of one batch, and each one's compute leads to it."""
    server = serve(models=repository, tracing=True, workers=1)
    hold = Hold(server)
    calls = [server.stub.Predict.future(REQUEST)]
    assert hold.entered.wait(10)
    calls += [server.stub.Predict.future(REQUEST) for _ in range(3)]
    until(lambda: server.app._batcher.waiting_rows == 6)
    hold.go.set()
    for call in calls:
        call.result(10)
    spans = collector.named("Predict", 4)
    [batch] = [batch for batch in collector.named("batch", 2) if len(batch.links) == 3]
    linked = {link.span_id for link in batch.links}
    assert linked < {span.span_id for span in spans}
    assert attributes(batch)["topclass.requests"] == "3"
    for span in spans:
        if span.span_id in linked:
            assert [link.span_id for link in collector.children(span)["compute"].links] == [batch.span_id]


def test_messages_of_a_stream_are_spans_below_the_streams(repository: Path, serve: Serve, collector: Collector) -> None:
    """Each message has its own status and its own parts."""
    server = serve(models=repository, tracing=True)
    bad = pb.PredictRequest(tensor=tensor(pictures(0)))
    messages = [pb.PredictStreamRequest(id=str(n), request=r) for n, r in enumerate((REQUEST, bad))]
    list(server.stub.PredictStream(iter(messages), metadata=CALLER))
    spans = collector.named("PredictStream", 3)
    [stream] = [span for span in spans if span.parent_span_id.hex() == PARENT]
    below = [span for span in spans if span.parent_span_id == stream.span_id]
    statuses = {attributes(span)["rpc.response.status_code"] for span in below}
    assert statuses == {"OK", "INVALID_ARGUMENT"}
    assert len({attributes(span)["request_id"] for span in spans}) == 1


def test_calls_over_http_are_in_their_callers_trace_too(repository: Path, serve: Serve, collector: Collector) -> None:
    """The W3C headers are those of HTTP."""
    server = serve(models=repository, tracing=True, http_port=0)
    assert server.app.gateway
    request = urllib.request.Request(
        f"http://{server.app.gateway.address()}/v2/models/pets/infer", b"{}", dict(CALLER), method="POST"
    )
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    [span] = collector.named("http/ModelInfer")
    assert span.trace_id.hex() == TRACE
    assert attributes(span)["protocol"] == "v2_http"
    assert attributes(span)["rpc.response.status_code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("sent", ["", "rubbish", "00-0-0-01", f"00-{TRACE}-{PARENT}-00", "é" * 10])
def test_what_callers_send_as_a_trace_is_followed_or_left(
    repository: Path, serve: Serve, collector: Collector, sent: str
) -> None:
    """Rubbish begins a trace of its own; a caller that does not sample is not recorded; both get their answers."""
    server = serve(models=repository, tracing=True, http_port=0)
    if sent.isascii():
        server.stub.Predict(REQUEST, metadata=(("traceparent", sent), ("tracestate", "=,=;" * 100)))
    else:
        assert server.app.gateway
        urllib.request.urlopen(
            urllib.request.Request(
                f"http://{server.app.gateway.address()}/v2/models/pets/ready",
                headers={"traceparent": sent.encode().decode("latin-1")},
            ),
            timeout=10,
        ).close()
    server.stub.Predict(REQUEST, metadata=(("x-request-id", "last"),))
    until(lambda: any(attributes(span).get("request_id") == "last" for span in list(collector.spans)))
    roots = [span for span in collector.spans if not span.parent_span_id]
    assert len(roots) == (1 if sent.endswith("-00") else 2)
    assert all(span.trace_id.hex() != TRACE for span in collector.spans)


def test_the_standard_variables_decide(
    repository: Path, serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's name, headers for the collector, and the sampler are OTEL_…'s; no secret of theirs is logged."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pets")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=swordfish")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    server = serve(models=repository, tracing=True)
    server.stub.Predict(REQUEST)
    server.stub.Predict(REQUEST, metadata=CALLER)
    collector.named("Predict")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert collector.resource["service.name"] == "pets"
    assert collector.resource["deployment.environment"] == "test"
    assert ("api-key", "swordfish") in [tuple(pair) for pair in collector.metadata]


def test_a_collector_that_hangs_or_is_gone_holds_up_neither_calls_nor_the_stop(
    repository: Path, serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand calls are answered meanwhile, their spans are dropped, and the server stops within seconds."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    server = serve(models=repository, tracing=True)
    collector.stuck.set()
    server.stub.Predict(REQUEST)
    assert collector.asked.wait(10)
    for calls in range(20):
        if calls == 10:
            collector.close()
            collector.stuck.set()
        waiting = [server.stub.Predict.future(REQUEST) for _ in range(100)]
        assert all(len(call.result(10).predictions) == 2 for call in waiting)
    began = time.monotonic()
    server.stop_async().result(30)
    assert time.monotonic() - began < 8
    collector.stuck.clear()


def test_a_cancelled_and_a_failed_call_have_their_spans(repository: Path, serve: Serve, collector: Collector) -> None:
    """Who leaves while waiting has decode and queue; a fault of ours is an error of the span, without our words."""
    server = serve(models=repository, tracing=True, workers=1)
    hold = Hold(server)
    first = server.stub.Predict.future(REQUEST)
    assert hold.entered.wait(10)
    left = server.stub.Predict.future(REQUEST, metadata=CALLER)
    until(lambda: server.app._batcher.waiting_rows == 2)
    left.cancel()
    [span] = collector.named("Predict")
    assert attributes(span)["rpc.response.status_code"] == "CANCELLED"
    assert set(collector.children(span)) == {"decode", "queue"}
    hold.go.set()
    first.result(10)
    [served] = server.app.repository.ready()
    served.lane.compute = lambda _: 1 / 0  # type: ignore[assignment]
    with pytest.raises(grpc.RpcError):
        server.stub.Predict(REQUEST)
    spans = collector.named("Predict", 3)
    [failed] = [span for span in spans if attributes(span)["rpc.response.status_code"] == "INTERNAL"]
    assert failed.status.code == failed.status.STATUS_CODE_ERROR
    assert "division" not in str(collector.spans)


def test_off_nothing_of_opentelemetry_is_imported(repository: Path) -> None:
    """A server without --tracing does not load the libraries; they need not be installed."""
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom server.app import App\nfrom server.config import Config\n"
        "async def main():\n"
        f"    app = App(Config(models=Path({str(repository)!r}), grpc_port=0, http_port=0, stop_delay_seconds=0))\n"
        "    await app.start()\n    await app.stop()\n"
        "asyncio.run(main())\nsys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_off_a_call_has_no_trace(server: LiveServer) -> None:
    """Without tracing there is no object that could cost anything."""
    assert server.app.tracing is None
    assert Call("Predict").trace is None
    server.stub.Predict(REQUEST, metadata=CALLER)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "this server sends spans by grpc only"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-5", "a variable OTEL_… is wrong"),
    ],
)
def test_a_wrong_variable_ends_the_start_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """It is a StartError, not a trace that goes nowhere."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=words):
        App(Config(tracing=True))


def test_without_the_extra_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """--tracing without the libraries says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartError, match=r"pip install -r server/requirements-tracing\.txt"):
        App(Config(tracing=True))
