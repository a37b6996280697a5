"""What Prometheus is told: counters and histograms on a registry of their own, made once and handed down.

Labels are bounded by what the server has: its methods, statuses, and the versions of its repository. What a caller
sends never becomes a label: a request whose model was not found has the empty one.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.lanes import Observe
from server.versions import Entry
from topclass import __version__

# From a cached small model to a request of 100,000 rows.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# Waiting and computing begin lower: a piece is about 2 ms.
SHORT_SECONDS = (0.0001, 0.00025, *SECONDS[:-2])
LONGEST_REASON = 200  # characters of a label; ListModels has all
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
# The variable by which prometheus_client learns, when it is imported, that several processes share a folder.
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """All metrics of one server process; with several processes, each can tell the sum over all."""

    def __init__(self, shared: Path | None = None):
        """shared: the folder in which all processes of one server count, named to the library by SHARED_FOLDER too."""
        self._shared = shared
        self.registry = registry = CollectorRegistry()
        model, version = ("model",), ("model", "version")
        self._requests = Counter(
            "topclass_requests_total",
            "Requests by how they ended. Each message of a stream is one. No model: it was not found, or not reached.",
            ("method", *version, "code"), registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "topclass_request_seconds", "From a request's arrival to its answer.", ("method", *model),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._queue = Histogram(
            "topclass_queue_seconds", "What each request waited for a worker.", model,
            buckets=SHORT_SECONDS, registry=registry,
        )  # fmt: skip
        self._compute = Histogram(
            "topclass_compute_seconds", "What each batch took on its worker.", model,
            buckets=SHORT_SECONDS, registry=registry,
        )  # fmt: skip
        self._batch = Histogram(
            "topclass_batch_rows", "Rows of each batch, of however many requests.", model,
            buckets=ROWS, registry=registry,
        )  # fmt: skip
        self._rows = Counter("topclass_rows_total", "Rows that were computed.", version, registry=registry)
        self._loads = Counter(
            "topclass_model_loads_total", "Versions that were tried: ready, or refused.", (*model, "result"),
            registry=registry,
        )  # fmt: skip
        self._ready = self._gauge("topclass_model_ready", "1: this version answers.", version, "livemin")
        self._refused = self._gauge(
            "topclass_model_refused", "1: this version's files were refused; ListModels and the log say why.", version,
            "livemax",
        )  # fmt: skip
        self._refusals = self._gauge(
            "topclass_model_refusal_info", "1: why this version's files were refused, in words.", (*version, "reason"),
            "livemax",
        )  # fmt: skip
        self._waiting = self._gauge("topclass_queue_rows", "Rows that wait for a worker.", (), "livesum")
        self._calls = self._gauge("topclass_calls_in_progress", "gRPC calls in progress.", (), "livesum")
        self._workers = self._gauge("topclass_workers", "Threads that compute.", (), "livesum")
        self._device = self._gauge("topclass_device_info", "Where models compute.", ("device",), "livemax")
        build = self._gauge("topclass_build_info", "What is running.", ("version", "python"), "livemax")
        build.labels(__version__, platform.python_version()).set(1)
        self._versions, self._reasons = set[tuple[str, str]](), set[tuple[str, str, str]]()
        self._series: dict[tuple[str, str, str, str], tuple[Counter, Histogram]] = {}  # a look-up here is cheap
        if shared is None:
            ProcessCollector(registry=registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str], shared: str) -> Gauge:
        """shared: how the gauges of several processes become one."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=shared)  # type: ignore[arg-type]

    def request(self, method: str, model: str, version: str, code: str, started: float) -> None:
        """One request has ended. model, version: of what answers it, else empty. started: of time.perf_counter()."""
        self.requests(method, model, version, code, [started])

    def requests(self, method: str, model: str, version: str, code: str, started: Sequence[float]) -> None:
        """Several have ended just now, in the same way."""
        series = self._series.get((method, model, version, code))
        if series is None:
            series = self._requests.labels(method, model, version, code), self._seconds.labels(method, model)
            self._series[method, model, version, code] = series
        count, seconds = series
        count.inc(len(started))
        now = time.perf_counter()
        for each in started:
            seconds.observe(now - each)

    def lane(self, model: str, version: int) -> Observe:
        """What a version's lane tells of each batch."""
        queue, compute, batch = self._queue.labels(model), self._compute.labels(model), self._batch.labels(model)
        total = self._rows.labels(model, str(version))

        def computed(rows: int, seconds: float, waited: Sequence[float]) -> None:
            compute.observe(seconds)
            batch.observe(rows)
            total.inc(rows)
            for each in waited:
                queue.observe(each)

        return computed

    def loaded(self, model: str, ready: bool) -> None:
        """A version was tried."""
        self._loads.labels(model, "ready" if ready else "refused").inc()

    def models(self, entries: Iterable[Entry]) -> None:
        """What the repository holds now. What is gone is told no longer; among several processes, as 0."""
        now, reasons = set[tuple[str, str]](), set[tuple[str, str, str]]()
        for entry in entries:
            labels = (entry.name, str(entry.version))
            now.add(labels)
            self._ready.labels(*labels).set(entry.served is not None)
            # With a signature and a reason: its files were tried. Without: the policy, or someone, does not want it.
            refused = bool(entry.reason) and entry.signature is not None
            self._refused.labels(*labels).set(refused)
            if refused:
                reasons.add((*labels, entry.reason[:LONGEST_REASON]))
        for labels in self._versions - now:
            for gauge in (self._ready, self._refused):
                if self._shared:
                    gauge.labels(*labels).set(0)  # the library cannot take a series out of a shared file
                else:
                    gauge.remove(*labels)
        self._versions = self._versions | now if self._shared else now
        self._tell_reasons(reasons)

    def _tell_reasons(self, now: set[tuple[str, str, str]]) -> None:
        for labels in now:
            self._refusals.labels(*labels).set(1)
        for labels in self._reasons - now:
            if self._shared:
                self._refusals.labels(*labels).set(0)
            else:
                self._refusals.remove(*labels)
        self._reasons = self._reasons | now if self._shared else now

    def runs_on(self, device: str, workers: int) -> None:
        """Where models compute, and by how many threads."""
        self._device.labels(device).set(1)
        self._workers.set(workers)

    def now(self, waiting_rows: int, calls: int) -> None:
        """What waits and runs at this moment."""
        self._waiting.set(waiting_rows)
        self._calls.set(calls)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that a request's `accept` header prefers, and its content type."""
        encode, kind = choose_encoder(accept)
        return encode(_Told(self._collector())), kind

    def _collector(self) -> Collector:
        if self._shared is None:
            return self.registry
        together = CollectorRegistry()
        MultiProcessCollector(together, path=os.fspath(self._shared))
        return together


class _Told(Collector):
    """Without the time at which each series began: as many series again, which nobody asks for."""

    def __init__(self, collector: Collector):
        self._collector = collector

    def collect(self) -> Iterable[Metric]:
        for metric in self._collector.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
