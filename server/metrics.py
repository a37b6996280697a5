"""What Prometheus is told: counters and histograms on a registry of their own, made once and handed down.

Labels are bounded by what the server has: its methods, statuses, and the versions of its repository. What a caller
sends never becomes a label: a request whose model was not found has the empty one.
"""

from __future__ import annotations

import itertools
import os
import platform
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from server.lanes import Observe, Part, Ticket
from server.quality import WINDOW, Answers, Quality
from server.tally import Histogram, Tally
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
# Our own methods; all others are the field's.
OWN = {"Predict", "PredictStream", "GetModel", "ListModels", "LoadModel", "UnloadModel"}
# What is kept before it is counted, when nobody asks: requests, and numbers of answers (a quarter of a megabyte).
REQUESTS_KEPT, NUMBERS_KEPT = 512, 65_536
BATCH_WEIGHT = 256  # in numbers, so that small batches are counted by a few hundred


def names(method: str) -> tuple[str, str]:
    """The protocol and the name of a method: `http/…` came by HTTP, what else there is by gRPC."""
    before, _, name = method.rpartition("/")
    if before:
        return "http" if name == "Classify" else "v2_http", name
    return "grpc" if name in OWN else "v2_grpc", name


class Metrics:
    """All metrics of one server process; with several processes, each can tell the sum over all."""

    def __init__(self, shared: Path | None = None, drift_seconds: float = 3600):
        """shared: the folder in which all processes of one server count, named to the library by SHARED_FOLDER too.

        drift_seconds: the window in which drift is looked for.
        """
        self._shared = shared
        self.registry = registry = CollectorRegistry()
        model, version = ("model",), ("model", "version")
        self._requests = Counter(
            "topclass_requests_total",
            "Requests by how they ended. Each message of a stream is one. No model: it was not found, or not reached.",
            ("protocol", "method", *version, "code"), registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "topclass_request_seconds", "From a request's arrival to its answer.",
            ("protocol", "method", *model),
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
        self._info = self._gauge(
            "topclass_model_info", "1: what computes this version, and which file it is.",
            (*version, "provider", "sha256"), "livemax",
        )  # fmt: skip
        self._waiting = self._gauge("topclass_queue_rows", "Rows that wait for a worker.", (), "livesum")
        self._calls = self._gauge("topclass_calls_in_progress", "gRPC calls in progress.", (), "livesum")
        self._workers = self._gauge("topclass_workers", "Threads that compute.", (), "livesum")
        self._device = self._gauge("topclass_device_info", "Where models compute.", ("device",), "livemax")
        build = self._gauge("topclass_build_info", "What is running.", ("version", "python"), "livemax")
        build.labels(__version__, platform.python_version()).set(1)
        self._quality = Quality(registry, drift_seconds)
        self._versions, self._reasons = set[tuple[str, str]](), set[tuple[str, ...]]()
        self._files = set[tuple[str, ...]]()
        self._series: dict[tuple[str, str, str, str], Tally[float]] = {}
        self._lanes: list[tuple[weakref.ref[Observe], Tally[_Batch]]] = []
        self._lock = threading.Lock()  # of the two
        if shared is None:
            ProcessCollector(registry=registry)

    def _gauge(self, name: str, text: str, labels: Iterable[str], shared: str) -> Gauge:
        """shared: how the gauges of several processes become one."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=shared)  # type: ignore[arg-type]

    def request(self, method: str, model: str, version: str, code: str, started: float) -> None:
        """One request has ended. model, version: of what answers it, else empty. started: of time.perf_counter().

        method: as `names` takes it.
        """
        series = self._series.get((method, model, version, code)) or self._new_series(method, model, version, code)
        series.add(time.perf_counter() - started)

    def requests(self, method: str, model: str, version: str, code: str, started: Sequence[float]) -> None:
        """The same of several at once."""
        for each in started:
            self.request(method, model, version, code, each)

    def _new_series(self, method: str, model: str, version: str, code: str) -> Tally[float]:
        protocol, name = names(method)
        count = self._requests.labels(protocol, name, model, version, code)
        seconds = self._seconds.labels(protocol, name, model)

        def ended(took: list[float]) -> None:
            count.inc(len(took))
            seconds.observe_all(took)

        with self._lock:
            return self._series.setdefault((method, model, version, code), Tally(ended, REQUESTS_KEPT))

    def lane(self, model: str, version: int, answers: Answers) -> Observe:
        """What a version's lane tells of each batch. answers: what they look like."""
        queue, compute, batch = self._queue.labels(model), self._compute.labels(model), self._batch.labels(model)
        total = self._rows.labels(model, str(version))
        quality = self._quality.of(model, str(version), answers)

        def count(batches: list[_Batch]) -> None:
            outs, seconds, waited = zip(*batches, strict=True)
            rows = list(map(len, outs))
            compute.observe_all(seconds)
            batch.observe_all(rows)
            total.inc(sum(rows))
            queue.observe_all(list(itertools.chain.from_iterable(waited)))
            quality.count(outs[0] if len(outs) == 1 else np.concatenate(outs))

        tally = Tally(count, NUMBERS_KEPT)

        def computed(_parts: Sequence[Part], out: np.ndarray, seconds: float, finished: Sequence[Ticket]) -> None:
            waited = [ticket.started - ticket.arrived for ticket in finished]
            tally.add((out, seconds, waited), out.size + BATCH_WEIGHT)

        with self._lock:
            self._lanes.append((weakref.ref(computed), tally))
        return computed

    def flush(self) -> None:
        """Counts all that was kept, and tells the windows of now."""
        with self._lock:
            series, lanes = list(self._series.values()), self._lanes
            # A lane that is gone adds nothing any more: it is counted this once, and forgotten.
            self._lanes = [lane for lane in lanes if lane[0]() is not None]
        for _, tally in lanes:
            tally.flush()
        self._quality.flush()
        for each in series:  # last: who sees a request sees what was computed for it
            each.flush()

    def loaded(self, model: str, ready: bool) -> None:
        """A version was tried."""
        self._loads.labels(model, "ready" if ready else "refused").inc()

    def models(self, entries: Iterable[Entry]) -> None:
        """What the repository holds now. What is gone is told no longer; among several processes, as 0."""
        now, reasons, files = set[tuple[str, str]](), set[tuple[str, ...]](), set[tuple[str, ...]]()
        for entry in entries:
            labels = (entry.name, str(entry.version))
            now.add(labels)
            self._ready.labels(*labels).set(entry.served is not None)
            # With a signature and a reason: its files were tried. Without: the policy, or someone, does not want it.
            refused = bool(entry.reason) and entry.signature is not None
            self._refused.labels(*labels).set(refused)
            if refused:
                reasons.add((*labels, entry.reason[:LONGEST_REASON]))
            if entry.served:
                files.add((*labels, entry.served.model.provider, entry.served.model.sha256))
            else:
                self._quality.forget(*labels)
        for labels in self._versions - now:
            self._quality.forget(*labels)
            for gauge in (self._ready, self._refused):
                self._take_out(gauge, labels)
        self._versions = self._versions | now if self._shared else now
        self._reasons = self._tell(self._refusals, self._reasons, reasons)
        self._files = self._tell(self._info, self._files, files)

    def _tell(self, gauge: Gauge, before: set[tuple[str, ...]], now: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """1 for each of these labels and nothing for those of before; what to call with the next time, as `before`."""
        for labels in now:
            gauge.labels(*labels).set(1)
        for labels in before - now:
            self._take_out(gauge, labels)
        return before | now if self._shared else now

    def _take_out(self, gauge: Gauge, labels: tuple[str, ...]) -> None:
        if self._shared:
            gauge.labels(*labels).set(0)  # the library cannot take a series out of a shared file
        else:
            gauge.remove(*labels)

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
        self.flush()
        encode, kind = choose_encoder(accept)
        return encode(_Told(self._collector(), self._quality)), kind

    def _collector(self) -> Collector:
        if self._shared is None:
            return self.registry
        together = CollectorRegistry()
        MultiProcessCollector(together, path=os.fspath(self._shared))
        return together


_Batch = tuple[np.ndarray, float, list[float]]  # answers [n, any], seconds, what each request had waited


class _Told(Collector):
    """Without the time at which each series began, as many series again, which nobody asks for; and with drift."""

    def __init__(self, collector: Collector, quality: Quality):
        self._collector, self._quality = collector, quality

    def collect(self) -> Iterable[Metric]:
        windows = None
        for metric in self._collector.collect():
            if metric.name == WINDOW:
                windows = metric
                continue
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
        yield from self._quality.drift(windows)
