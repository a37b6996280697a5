"""Whether the bars are held, each in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.measure import LIMIT, Measured, cpu, rate


@dataclass(frozen=True)
class Verdict:
    """One bar. held: None where this run could not tell, since others used the machine."""

    name: str
    found: str
    wanted: str
    held: bool | None


@dataclass(frozen=True)
class Started:
    """A server's seconds to the first right answer, and its resident bytes then."""

    seconds: float
    rss_bytes: int


def judge(measured: Sequence[Measured], started: Mapping[str, Started], transports: Sequence[str]) -> list[Verdict]:
    """Every bar whose case was run. A transport that the server has not got misses its bars."""
    by_case = {each.case: each for each in measured}
    verdicts: list[Verdict] = []
    for bar in cases.BARS:
        if bar.case in by_case:
            verdicts.append(_speed(bar, by_case[bar.case], bar.transport or usual(transports)))
    if cases.LIMIT_CASE in by_case:
        verdicts.append(_limit(by_case[cases.LIMIT_CASE], usual(transports)))
    if cases.LOADED in by_case:
        verdicts += [_tail(by_case[cases.LOADED], transport) for transport in transports]
    for transport, found in started.items():
        verdicts += _start(transport, found)
    return verdicts


def usual(transports: Sequence[str]) -> str:
    """The transport that the server chooses where nothing is asked for."""
    return "native" if "native" in transports else transports[0]


def unjudged(done: Sequence[Case]) -> list[str]:
    """The bars whose case was not run."""
    return [bar.name for bar in cases.BARS if bar.case not in done]


def _speed(bar: cases.Bar, measured: Measured, transport: str) -> Verdict:
    wanted = f"at least {bar.rate:g} x requests/s, at most {bar.cpu:g} x processor time"
    if transport not in measured.samples:
        return Verdict(bar.name, f"the server has no transport {transport}", wanted, False)
    faster, cheaper = measured.ratio(transport, rate), measured.ratio(transport, cpu)
    found = f"{faster:.2f} x requests/s, {cheaper:.3f} x processor time"
    return Verdict(bar.name, found, wanted, _held(measured, faster >= bar.rate and cheaper <= bar.cpu))


def _limit(measured: Measured, transport: str) -> Verdict:
    share = measured.ratio(LIMIT, cpu, transport)
    name, wanted = f"{measured.case.name} against ONNX Runtime alone", f"at least {cases.LIMIT_SHARE:g} x"
    return Verdict(
        name, f"{share:.2f} x its pictures a processor second", wanted, _held(measured, share >= cases.LIMIT_SHARE)
    )


def _tail(measured: Measured, transport: str) -> Verdict:
    tail = measured.median(transport, lambda sample: sample.p99 / sample.p50)
    name = f"{measured.case.name} on {transport}: p99"
    return Verdict(name, f"{tail:.1f} x p50", f"under {cases.TAIL:g} x p50", _held(measured, tail < cases.TAIL))


def _start(transport: str, found: Started) -> list[Verdict]:
    seconds, rss = found.seconds, found.rss_bytes
    return [
        Verdict(
            f"{transport}: start to first right answer, MLP", f"{seconds:.2f} s", f"under {cases.START_SECONDS:g} s",
            seconds < cases.START_SECONDS,
        ),
        Verdict(
            f"{transport}: resident memory, MLP", f"{rss / 1e6:.0f} MB", f"under {cases.RSS_BYTES / 1e6:.0f} MB",
            rss < cases.RSS_BYTES,
        ),
    ]  # fmt: skip


def _held(measured: Measured, held: bool) -> bool | None:
    return None if measured.void else held
