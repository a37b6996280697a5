"""An OTLP collector in this process: a gRPC server that takes what real exporters send."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is an extra: server/requirements-tracing.txt")
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.server.test_neighbours import until


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans. While `stuck` is set, it takes requests and does not answer."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self.metadata: list[Any] = []
        self.stuck, self.asked = threading.Event(), threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the proto's name
        """See the proto."""
        self.asked.set()
        while self.stuck.is_set() and context.is_active():
            self.stuck.wait(0.05)
            threading.Event().wait(0.05)
        for resource in request.resource_spans:
            self.resource = {item.key: item.value.string_value for item in resource.resource.attributes}
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.metadata = list(context.invocation_metadata())
        return pb.ExportTraceServiceResponse()

    def named(self, name: str, count: int = 1) -> list[Span]:
        """The spans of a name, when there are so many."""
        until(lambda: sum(span.name == name for span in list(self.spans)) >= count)
        return [span for span in self.spans if span.name == name]

    def children(self, parent: Span) -> dict[str, Span]:
        """The spans below one, by name."""
        return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}

    def close(self) -> None:
        """Ends it."""
        self.stuck.clear()
        self._server.stop(0)


def collecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, and the variables that lead to it."""
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{found.port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield found
    found.close()
