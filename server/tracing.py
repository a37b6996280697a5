"""Spans for OpenTelemetry: what a call did when, and which batch its rows were computed in.

Only `Tracing.make` imports the libraries, which are an extra. Everything else about them is said by the standard
variables OTEL_*. A thread of the library's own sends the spans: a collector that is slow or gone costs spans, no call.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import topclass
from server.errors import StartError
from server.lanes import Answer, Observe, Part, Ticket

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

log = logging.getLogger(__name__)
CARRIED = ("traceparent", "tracestate")
SHUTDOWN_SECONDS = 3.0  # for the last spans on their way; a collector that is gone does not hold up the stop
CURE = "pip install -r server/requirements-tracing.txt"
# Statuses that are the server's doing, by the convention for spans of gRPC servers.
FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


class Tracing:
    """Makes traces of calls. One for a server."""

    def __init__(self, provider: TracerProvider):
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api, self._provider = trace, provider
        self._tracer = provider.get_tracer("topclass", topclass.__version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def make(cls, environment: Mapping[str, str]) -> Tracing:
        """As the variables OTEL_* say; StartError, with the cure, where it cannot be had."""
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise StartError(f"tracing needs OpenTelemetry, and {error.name} is not installed: {CURE}") from error
        for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if environment.get(name, "grpc") != "grpc":
                raise StartError(f"{name} is {environment[name]!r}; this server sends spans by grpc only")
        own = Resource.create({"service.name": "topclass", "service.version": topclass.__version__})
        try:
            provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        except (ValueError, OSError) as error:
            raise StartError(f"tracing cannot start; a variable OTEL_… is wrong: {error}") from error
        return cls(provider)

    def begin(self, name: str, carried: Mapping[str, str]) -> Trace | None:
        """The trace of a call that arrived just now, in that of its caller; None where it is not sampled.

        carried: the values of CARRIED that it brought.
        """
        return self._begin(name, self._propagator.extract(carried), self._api.SpanKind.SERVER)

    def _begin(self, name: str, parent: Context, kind: Any) -> Trace | None:
        span = self._tracer.start_span(name, parent, kind)
        return Trace(self, span) if span.is_recording() else None

    def observe(self, model: str, version: int) -> Observe:
        """What a version's lane tells of each batch: a span in the trace of its first call, linked to all of them."""

        def computed(parts: Sequence[Part], out: np.ndarray, seconds: float, _finished: Sequence[Ticket]) -> None:
            traces = [ticket.trace for ticket, _, _ in parts if isinstance(ticket.trace, Trace)]
            if not traces:
                return
            now = time.time_ns()
            span = self._tracer.start_span(
                "batch",
                traces[0].context,
                links=[self._api.Link(trace.span_context) for trace in traces],
                attributes={
                    "topclass.model": model, "topclass.version": version,
                    "topclass.rows": len(out), "topclass.requests": len(parts),
                },
                start_time=now - int(seconds * 1e9),
            )  # fmt: skip
            span.end(now)
            for trace in traces:
                trace.batches.append(span.get_span_context())

        return computed

    def shutdown(self) -> None:
        """Sends what is left, for SHUTDOWN_SECONDS at most."""
        thread = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        thread.start()
        thread.join(SHUTDOWN_SECONDS)
        if thread.is_alive():
            log.warning("tracing: the collector did not take the last spans within %g s", SHUTDOWN_SECONDS)


class Trace:
    """The spans of one call, or of one message of a stream."""

    __slots__ = ("_answer", "_answered", "_span", "_submitted", "_tracing", "batches", "context", "span_context")

    def __init__(self, tracing: Tracing, span: Span):
        self._tracing, self._span = tracing, span
        self.span_context: SpanContext = span.get_span_context()
        self.context: Context = tracing._api.set_span_in_context(span)
        self.batches = list[Any]()  # the spans of those that its rows were computed in; workers add to it
        self._submitted = self._answered = 0
        self._answer: Answer | None = None

    def message(self, name: str) -> Trace | None:
        """The trace of one message of this one, which is a stream's."""
        return self._tracing._begin(name, self.context, self._tracing._api.SpanKind.INTERNAL)

    def submitted(self) -> None:
        """Its rows are decoded and begin to wait."""
        self._submitted = time.time_ns()

    def answered(self, answer: Answer) -> None:
        """Its rows are computed."""
        self._answered, self._answer = time.time_ns(), answer

    def end(self, status: str, attributes: Mapping[str, str]) -> None:
        """It has its status: the spans of its parts, whose times are known only now, and its own."""
        now, span, api = time.time_ns(), self._span, self._tracing._api
        began: int = getattr(span, "start_time", None) or now
        self._part("decode", began, self._submitted or now)
        if self._answer is not None:
            computed = min(self._submitted + int(self._answer.queue_seconds * 1e9), self._answered)
            links = [api.Link(batch) for batch in self.batches]
            self._part("queue", self._submitted, computed)
            self._part("compute", computed, self._answered, links, {"topclass.batch_rows": self._answer.batch_rows})
            self._part("encode", self._answered, now)
        elif self._submitted:
            self._part("queue", self._submitted, now)
        span.set_attributes({"rpc.response.status_code": status, **attributes})
        if status in FAULTS:
            span.set_status(api.StatusCode.ERROR)
        span.end(now)

    def _part(
        self, name: str, start: int, end: int, links: Sequence[Any] = (), attributes: Mapping[str, Any] | None = None
    ) -> None:
        span = self._tracing._tracer.start_span(
            name, self.context, links=links, attributes=attributes, start_time=start
        )
        span.end(max(start, end))
