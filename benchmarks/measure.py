"""One case, all servers: taken in turns, A B C A B C, and every answer accounted for."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import h2load, process, raw, stream
from benchmarks.cases import Case
from benchmarks.messages import WIRES, Truth, WrongAnswer
from benchmarks.process import Foreign, Running

PLAIN, TUNED, LIMIT = "plain", "plain, tuned", "ONNX Runtime"
FOREIGN_MOST = 0.1  # processors; a case with more of them busy with other things is void
FEWEST_FOR_P99 = 200
_COUNTER = re.compile(r'^topclass_requests_total\{code="(\w+)".*\} ([\d.e+]+)$', re.M)


@dataclass(frozen=True)
class Sample:
    """One round of one server. cpu: seconds for each request; p50, p99: milliseconds, p99 NaN where calls were few."""

    rate: float
    cpu: float
    p50: float = float("nan")
    p99: float = float("nan")


@dataclass
class Measured:
    """A case's rounds: of each server, and of ONNX Runtime alone (requests/s, and seconds for each request)."""

    case: Case
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    foreign: float = 0.0

    @property
    def void(self) -> bool:
        """Whether others used the machine too much for these figures to count."""
        return self.foreign > FOREIGN_MOST

    def median(self, name: str, of: Callable[[Sample], float]) -> float:
        """The median of the rounds."""
        return float(np.median([of(sample) for sample in self.samples[name]]))

    def ratio(self, name: str, of: Callable[[Sample], float], to: str = PLAIN) -> float:
        """The median of one server's rounds, each over the other's of the same round."""
        pairs = zip(self.samples[name], self.samples[to], strict=True)
        return float(np.median([of(mine) / of(theirs) for mine, theirs in pairs]))


def rate(sample: Sample) -> float:
    """Requests per second."""
    return sample.rate


def cpu(sample: Sample) -> float:
    """Processor seconds for each request."""
    return sample.cpu


def answered(server: Running) -> dict[str, int]:
    """How many requests the server says it ended, by status; empty where it does not count them."""
    if not server.http:
        return {}
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    counts: dict[str, int] = {}
    for code, count in _COUNTER.findall(text):
        counts[code] = counts.get(code, 0) + int(float(count))
    return counts


class Subject:
    """A server and one case: checks its answers, then posts the case's message as often as asked."""

    def __init__(self, server: Running, case: Case, truth: Truth):
        self.server, self._case, self._truth = server, case, truth
        self._wire = WIRES[case.wire]
        pictures, model = self._wire.pictures(case.network, case.rows), case.network + self._wire.suffix
        self._message, self._right = self._wire.request(model, pictures), truth.probabilities(model, pictures)
        self.requests = 0

    def check(self) -> int:
        """Asks with a real client, for the message that is posted and for another. Bytes of the first's answer."""
        self._truth.check(self.server.address, self._wire, self._case.network, self._case.rows, seed=2)
        return self._truth.check(self.server.address, self._wire, self._case.network, self._case.rows)

    def calibrate(self, seconds: float) -> None:
        """Sets `requests` to as many as take so long. This is the warm-up, too."""
        count = self._case.concurrent * 2
        while True:
            took = self._run(count).seconds
            if took >= seconds / 4 or count >= 1_000_000:
                break
            count = self._rounded(count * min(8.0, max(2.0, seconds / 3 / took)))
        self.requests = self._rounded(count * seconds / took)

    def measure(self) -> Sample:
        """One round. WrongAnswer where an answer is not there, or not as large as it must be."""
        size = self.check()
        before, used = answered(self.server), self.server.cpu_seconds()
        result = self._run(self.requests)
        used = self.server.cpu_seconds() - used
        self._account(result, before, size)
        p99 = result.percentile_ms(99) if self.requests >= FEWEST_FOR_P99 else float("nan")
        used = max(used, process.TICK_SECONDS)  # less than that cannot be seen
        return Sample(result.rate, used / self.requests, result.percentile_ms(50), p99)

    def _run(self, requests: int) -> h2load.Result:
        if self._case.stream:
            return stream.run(self.server.address, self._message, self._right, requests, self._case.concurrent)
        return h2load.run(self.server.address, self._wire.path, self._message, requests, self._case.concurrent)

    def _rounded(self, count: float) -> int:
        """A multiple of the calls at a time, and of the streams."""
        step = self._case.concurrent
        return max(2, round(count / step)) * step

    def _account(self, result: h2load.Result, before: dict[str, int], size: int) -> None:
        """A call that failed brought no message. Our server also counts by status; its answers vary by some bytes."""
        where = f"{self._case.name} at {self.server.address}"
        due = result.requests * (size + 5)
        if not self.server.http:
            if not self._case.stream and result.data_bytes != due:
                raise WrongAnswer(f"{where}: {result.data_bytes} bytes of answers; right are {due}")
            return
        if result.data_bytes < 0.8 * due:
            raise WrongAnswer(f"{where}: {result.data_bytes} bytes of answers; right are about {due}")
        for _ in range(100):
            after = answered(self.server)
            more = {code: count - before.get(code, 0) for code, count in after.items() if count != before.get(code, 0)}
            if sum(more.values()) >= result.requests:
                break
            time.sleep(0.01)
        if more != {"OK": result.requests}:
            raise WrongAnswer(f"{where}: the server counts {more}; right is OK for all {result.requests}")


def measure(
    case: Case, servers: dict[str, Running], repository: Path, truth: Truth, seconds: float, rounds: int
) -> Measured:
    """All servers and ONNX Runtime alone, in turns, so many rounds of so many seconds each."""
    wire = WIRES[case.wire]
    file = repository / (case.network + wire.suffix) / "1" / "model.onnx"
    most = case.rows * case.concurrent
    subjects = {name: Subject(server, case, truth) for name, server in servers.items()}
    measured = Measured(case, {name: [] for name in (LIMIT, *servers)})
    pictures = wire.pictures(case.network, max(raw.CHUNKS))
    with contextlib.closing(raw.Raw(file, pictures, most, lone=most == 1)) as limit:
        for subject in subjects.values():
            subject.check()
            subject.calibrate(seconds)
        foreign = Foreign()
        for _ in range(rounds):
            speed = limit.run(seconds / 2)
            measured.samples[LIMIT].append(Sample(speed.rate / case.rows, speed.cpu * case.rows))
            for name, subject in subjects.items():
                measured.samples[name].append(subject.measure())
        for subject in subjects.values():
            subject.check()
        measured.foreign = foreign.processors()
    return measured


def first_answer(start: Callable[[], contextlib.AbstractContextManager[Running]], truth: Truth) -> tuple[float, int]:
    """(seconds from the start to the first right answer, resident bytes then) of a server with one MLP."""
    truth.probabilities("mlp", WIRES["uint8"].pictures("mlp", 1))
    began = time.monotonic()
    with start() as server:
        truth.check(server.address, WIRES["uint8"], "mlp", 1)
        return time.monotonic() - began, server.rss_bytes()
