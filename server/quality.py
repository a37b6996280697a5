"""What Prometheus is told of the answers: classes, confidence, strangeness, and the rows that drift is seen in."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import GaugeMetricFamily

from server.drift import LEAST_ROWS, MOST_BINS, OTHER, Reference, Window, folded, psi
from server.tally import Histogram

CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1)
# Of our own models a score over 1 is out of distribution; others' cards may have any scale, of either sign.
SCORES = (-10, -1, 0, 0.2, 0.4, 0.6, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 100)
LONGEST_LABEL = 100  # characters of a class's name; GetModel has all
VERSION = ("model", "version")
# Each process tells the counts of its own window here, and whoever is scraped makes the indices of their sum.
WINDOW, PREDICTED, CONFIDENCE = "topclass_window_rows", "class", "confidence"


@dataclass(frozen=True)
class Answers:
    """What answers look like: float32 [n, C], or [n, C + 1] with a score of strangeness behind the probabilities.

    threshold: a score above it is out of distribution; None where there is no score.
    """

    labels: Sequence[str]
    reference: Reference | None = None
    threshold: float | None = None


class Quality:
    """The metrics of all versions' answers."""

    def __init__(self, registry: CollectorRegistry, window_seconds: float):
        self._seconds, self._lock = window_seconds, threading.Lock()
        self._counts: dict[tuple[str, str], Counted] = {}
        self._references: dict[tuple[str, str], Reference] = {}
        self.predicted = Counter(
            "topclass_predicted_rows_total",
            f"Rows by the class that the model said; of many classes the first {MOST_BINS - 1}, the rest together.",
            (*VERSION, "class"), registry=registry,
        )  # fmt: skip
        self.confidence = Histogram(
            "topclass_confidence_ratio", "The probability of the class that the model said, of each row.", VERSION,
            buckets=CONFIDENCES, registry=registry,
        )  # fmt: skip
        self.score = Histogram(
            "topclass_ood_score", "How unlike the training data each row is, as its model measures it.", VERSION,
            buckets=SCORES, registry=registry,
        )  # fmt: skip
        self.strange = Counter(
            "topclass_out_of_distribution_rows_total", "Rows whose score is over their model's threshold.", VERSION,
            registry=registry,
        )  # fmt: skip
        self.window = Gauge(
            WINDOW, "Rows of the sliding window.", (*VERSION, "of", "bin"), registry=registry,
            multiprocess_mode="livesum",
        )  # fmt: skip

    def of(self, model: str, version: str, answers: Answers) -> Counted:
        """What counts a version's answers; one that had this number before is forgotten."""
        counted = Counted(self, model, version, answers, self._seconds)
        with self._lock:
            self._counts[model, version] = counted
            self._references.pop((model, version), None)
            if answers.reference is not None:
                self._references[model, version] = answers.reference
        return counted

    def forget(self, model: str, version: str) -> None:
        """The version is gone: its window is told no longer."""
        with self._lock:
            counted = self._counts.pop((model, version), None)
            self._references.pop((model, version), None)
        if counted:
            counted.empty()

    def flush(self) -> None:
        """Tells the windows as they are now."""
        with self._lock:
            counts = list(self._counts.values())
        for counted in counts:
            counted.tell_windows()

    def drift(self, windows: Metric | None) -> Iterable[Metric]:
        """The indices, from the windows of all processes as they were collected."""
        sums: dict[tuple[str, str, str], dict[int, float]] = {}
        for sample in windows.samples if windows else ():
            at = sample.labels
            key = (at["model"], at["version"], at["of"])
            sums.setdefault(key, {})[int(at["bin"])] = sample.value
        index = GaugeMetricFamily(
            "topclass_drift_psi",
            "The population stability index of the window's answers against those on held-out data.",
            labels=(*VERSION, "of"),
        )
        rows = GaugeMetricFamily(
            "topclass_drift_rows", "Rows of the window that drift is looked for in.", labels=VERSION
        )
        with self._lock:
            references = dict(self._references)
        for (model, version), reference in sorted(references.items()):
            for of, expected in ((PREDICTED, folded(reference.predicted)), (CONFIDENCE, reference.confidence)):
                found = sums.get((model, version, of), {})
                actual = np.array([found.get(place, 0.0) for place in range(len(expected))])
                if of == PREDICTED:
                    rows.add_metric((model, version), actual.sum())
                if actual.sum() >= LEAST_ROWS:
                    index.add_metric((model, version, of), psi(expected, actual))
        return index, rows


class Counted:
    """The answers of one version."""

    def __init__(self, quality: Quality, model: str, version: str, answers: Answers, seconds: float):
        at = (model, version)
        self._classes, self._threshold, self._reference = len(answers.labels), answers.threshold, answers.reference
        names = [label[:LONGEST_LABEL] for label in answers.labels[:MOST_BINS]]
        if self._classes > MOST_BINS:
            names[-1] = OTHER
        self._predicted = [quality.predicted.labels(*at, name) for name in names]
        self._confidence = quality.confidence.labels(*at)
        if self._threshold is not None:
            self._score, self._strange = quality.score.labels(*at), quality.strange.labels(*at)
        self._windows: list[tuple[Window, list[Gauge]]] = []
        if self._reference is not None:
            for of, bins in ((PREDICTED, len(names)), (CONFIDENCE, len(self._reference.confidence))):
                gauges = [quality.window.labels(*at, of, str(place)) for place in range(bins)]
                self._windows.append((Window(bins, seconds), gauges))
        self._lock = threading.Lock()

    def count(self, answers: np.ndarray) -> None:
        """Counts the rows of batches, [n, C] or [n, C + 1], without those of which nothing finite was said."""
        probabilities = answers[:, : self._classes]
        said = probabilities.argmax(axis=1)
        sure = probabilities[np.arange(len(said)), said]
        finite = np.isfinite(sure)
        if not finite.all():
            said, sure = said[finite], sure[finite]
        by_class = folded(np.bincount(said, minlength=self._classes))
        for place in np.flatnonzero(by_class):
            self._predicted[place].inc(float(by_class[place]))
        self._confidence.observe_all(sure)
        if self._threshold is not None:
            scores = answers[:, self._classes]
            self._score.observe_all(scores)
            self._strange.inc(float(np.count_nonzero(scores > self._threshold)))
        if self._reference is not None:
            bins = np.searchsorted(self._reference.bounds, sure, side="right")
            by_confidence = np.bincount(bins, minlength=len(self._reference.confidence))
            with self._lock:
                for (window, _), counts in zip(self._windows, (by_class, by_confidence), strict=True):
                    window.add(counts)

    def tell_windows(self) -> None:
        """Sets the window's gauges."""
        with self._lock:
            for window, gauges in self._windows:
                for gauge, value in zip(gauges, window.total(), strict=True):
                    gauge.set(value)

    def empty(self) -> None:
        """Takes its rows out of the windows that are told."""
        with self._lock:
            for _, gauges in self._windows:
                for gauge in gauges:
                    gauge.set(0)
