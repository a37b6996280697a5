from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import h2load

PRINTED = """starting benchmark...
Application protocol: h2c
progress: 100% done

finished in 916.11ms, 4.37 req/s, 476.73KB/s
requests: 4 total, 4 started, 4 done, {succeeded} succeeded, 0 failed, 0 errored, 0 timeout
status codes: 4 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 436.74KB (447219) total, 6.45KB (6600) headers (space savings 95.93%), 321.80KB (329525) data
                     min         max         mean         sd        +/- sd
time for request:    12.63ms     69.44ms     28.68ms      4.97ms    90.45%
"""
LOG = ["1795247927777551\t200\t1000", "1795247927777552\t200\t2000", "2\t200\t3000", "3\t200\t4000"]


def test_figures_are_read_from_what_h2load_prints_and_logs() -> None:
    """Seconds, bytes of messages, and the time of each call."""
    result = h2load.parse(PRINTED.format(succeeded=4), LOG, 4)
    assert (result.requests, result.seconds, result.data_bytes) == (4, 0.91611, 329525)
    assert result.rate == pytest.approx(4 / 0.91611)
    np.testing.assert_allclose(result.took, [0.001, 0.002, 0.003, 0.004])
    assert result.percentile_ms(50) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("printed", "seconds"), [("2.50s", 2.5), ("310us", 310e-6), ("1.5m", 90), ("1.00ms", 0.001)]
)  # fmt: skip
def test_every_unit_of_time_is_known(printed: str, seconds: float) -> None:
    """h2load chooses the unit."""
    output = PRINTED.format(succeeded=4).replace("916.11ms", printed)
    assert h2load.parse(output, LOG, 4).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("succeeded", "log"),
    [(3, LOG), (4, LOG[:3]), (4, [*LOG[:3], "3\t503\t9"]), (4, [*LOG[:3], "3\t-1\t9"])],
    ids=["not all succeeded", "not all logged", "a bad status", "a broken stream"],
)
def test_a_call_that_failed_on_the_level_of_http_voids_the_run(succeeded: int, log: list[str]) -> None:
    """The message says how many ended well."""
    with pytest.raises(h2load.NoLoad, match=r"of 4 calls ended with HTTP status 200"):
        h2load.parse(PRINTED.format(succeeded=succeeded), log, 4)


def test_other_output_is_no_result() -> None:
    """A version that prints something else is not misread."""
    with pytest.raises(h2load.NoLoad, match="something else than its figures: hello"):
        h2load.parse("hello", [], 0)


def test_without_h2load_the_cure_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package to install stands in the message."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(h2load.NoLoad, match="apt-get install nghttp2-client"):
        h2load.find()


def test_a_frame_is_five_bytes_and_the_message() -> None:
    """Not compressed, then the length, big-endian."""
    assert h2load.frame(b"x" * 258) == b"\0\0\0\1\2" + b"x" * 258


def test_calls_are_spread_evenly_over_the_connections() -> None:
    """At most eight connections; a number that cannot be even is refused."""
    shapes = {1: (1, 1), 4: (4, 1), 8: (8, 1), 64: (8, 8), 256: (8, 32)}
    assert {calls: h2load.shape(calls) for calls in shapes} == shapes
    with pytest.raises(ValueError, match="12 calls at a time over 8 connections"):
        h2load.shape(12)
