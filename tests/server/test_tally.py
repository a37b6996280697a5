"""Counting many things at once: nothing is lost or counted twice, whoever adds and asks at the same time."""

from __future__ import annotations

import math
import threading

import numpy as np
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry

from server.tally import Histogram, Tally


def test_a_histogram_of_many_at_once_is_that_of_one_by_one() -> None:
    """Buckets, sum and count are the library's own, bounds included; what is not finite is left out."""
    bounds = (0.1, 0.5, 1.0)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    many = Histogram("seconds", "x", ("model",), buckets=bounds, registry=ours).labels("pets")
    single = prometheus_client.Histogram("seconds", "x", ("model",), buckets=bounds, registry=theirs).labels("pets")
    values = [*np.random.default_rng(0).exponential(0.5, 1000), 0.1, 0.5, 1.0, -1.0, 1e9]
    many.observe_all([*values, math.nan, math.inf, -math.inf])
    many.observe_all([])
    many.observe_all(np.array([np.nan], np.float32))
    for value in values:
        single.observe(value)
    told = [
        {(s.name, *s.labels.values()): s.value for m in r.collect() for s in m.samples if "created" not in s.name}
        for r in (ours, theirs)
    ]
    assert told[0] == pytest.approx(told[1])


def test_many_threads_add_and_flush_and_each_thing_is_counted_once() -> None:
    """Eight threads add while two flush; in the end all is counted, and once."""
    counted: list[int] = []
    tally = Tally[int](counted.extend, 100)
    stop = threading.Event()

    def add(first: int) -> None:
        for thing in range(first, first + 20_000):
            tally.add(thing)

    def ask() -> None:
        while not stop.is_set():
            tally.flush()

    adding = [threading.Thread(target=add, args=(n * 20_000,)) for n in range(8)]
    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in adding + asking:
        thread.start()
    for thread in adding:
        thread.join()
    stop.set()
    for thread in asking:
        thread.join()
    tally.flush()
    assert sorted(counted) == list(range(160_000))


def test_what_is_kept_is_bounded_by_its_weight() -> None:
    """At `enough` it is counted by who adds, so that nothing grows where nobody asks."""
    counted: list[list[str]] = []
    tally = Tally[str](counted.append, 10)
    for _ in range(3):
        tally.add("light", 4)
    assert counted == [["light"] * 3]
    tally.add("heavy", 11)
    assert counted[1:] == [["heavy"]]


def test_what_cannot_be_counted_is_logged_and_never_raised(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that counts goes on; the next things are counted."""
    counted: list[int] = []

    def count(things: list[int]) -> None:
        if 0 in things:
            raise ValueError("zero")
        counted.extend(things)

    tally = Tally[int](count, 2)
    for thing in (0, 1, 2, 3):
        tally.add(thing)
    assert counted == [2, 3]
    assert "2 things could not be counted" in caplog.text
