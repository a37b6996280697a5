"""What is measured, and the bars: how much faster and cheaper than the plain server each case must be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from benchmarks.messages import WIRES
from benchmarks.networks import NETWORKS

SHAPES = ((1, 1), (1, 8), (1, 64), (1, 256), (32, 1), (32, 4), (1024, 1), (1024, 4))
STREAM_IN_FLIGHT = 256


@dataclass(frozen=True)
class Case:
    """So many pictures a call, so many calls at a time; or messages of a stream."""

    network: str
    wire: str
    rows: int
    concurrent: int
    stream: bool = False

    @property
    def name(self) -> str:
        """As --only takes it: mlp/uint8/32@4; mlp/uint8/stream@256."""
        return f"{self.network}/{self.wire}/{'stream' if self.stream else self.rows}@{self.concurrent}"


@dataclass(frozen=True)
class Bar:
    """Floors against the plain server. transport: empty for the one that is chosen where nothing is asked for."""

    case: Case
    transport: str
    rate: float  # times its requests/s, at least
    cpu: float  # times its processor time for each request, at most

    @property
    def name(self) -> str:
        """For the line that says whether it is held."""
        return f"{self.case.name}{f' on {self.transport}' if self.transport else ''}"


CASES = [
    *(Case(network, wire, *shape) for network in NETWORKS for wire in WIRES for shape in SHAPES),
    *(Case(network, "uint8", 1, STREAM_IN_FLIGHT, stream=True) for network in NETWORKS),
]
LOADED = Case("mlp", "uint8", 1, 64)
BARS = [
    Bar(Case("mlp", "uint8", 1, 1), "native", 2.0, 0.45),
    Bar(LOADED, "native", 16, 0.08),
    Bar(LOADED, "grpcio", 1.6, 0.65),
    Bar(Case("mlp", "uint8", 32, 4), "", 2.8, 0.35),
    Bar(Case("mlp", "uint8", 1024, 4), "", 2.8, 0.40),
    Bar(Case("mlp", "uint8", 1024, 1), "", 2.8, 0.45),
    Bar(Case("mlp", "v2", 1, 64), "native", 9, 0.14),
]
LIMIT_CASE, LIMIT_SHARE = Case("lenet", "uint8", 1024, 4), 0.90  # of raw ONNX Runtime's pictures per processor second
TAIL = 4.0  # p99 of LOADED, in p50s, at most
START_SECONDS, RSS_BYTES = 1.0, 150e6  # to the first right answer; with the MLP loaded
QUICK = [*dict.fromkeys(bar.case for bar in BARS), LIMIT_CASE, Case("mlp", "uint8", 1, STREAM_IN_FLIGHT, stream=True)]


def chosen(patterns: Iterable[str], cases: Iterable[Case]) -> list[Case]:
    """Those whose name fits one of the patterns, `mlp/*` or a part such as `mlp/uint8`; all where there is none."""
    wanted = list(patterns)
    return [
        case for case in cases
        if not wanted or any(fnmatch(case.name, each) or each in case.name for each in wanted)
    ]  # fmt: skip
