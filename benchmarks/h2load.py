"""`h2load` of nghttp2: one framed gRPC message posted again and again by a client that costs next to nothing.

It knows nothing of gRPC: a call that ends with a bad grpc-status counts as succeeded, as that status is in a trailer.
An answer that failed has no message, so `Result.data_bytes` shows it where all answers have one size; where they have
not, the server must be asked what it answered.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LIMIT_SECONDS = 300
CONNECTIONS = 8
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class NoLoad(SystemExit):
    """h2load is not there, or did not do its work; the message says what to do."""


@dataclass(frozen=True)
class Result:
    """What one run saw. took: seconds of each call, float64 [requests]; data_bytes: all messages with their frames."""

    requests: int
    seconds: float
    data_bytes: int
    took: np.ndarray

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    def percentile_ms(self, q: float) -> float:
        """The q-th percentile of the calls' times, in milliseconds."""
        return float(np.percentile(self.took, q) * 1e3)


def find() -> str:
    """The program's path; NoLoad with the cure where it is missing."""
    found = shutil.which("h2load")
    if found is None:
        raise NoLoad("h2load is not installed; on Debian and Ubuntu: apt-get install nghttp2-client")
    return found


def frame(message: bytes) -> bytes:
    """The message as gRPC puts it on the wire: not compressed, its length in four bytes, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def shape(concurrent: int) -> tuple[int, int]:
    """(connections, calls at a time on each) for so many calls at a time: at most CONNECTIONS, all equally busy."""
    connections = min(concurrent, CONNECTIONS)
    if concurrent % connections:
        raise ValueError(f"{concurrent} calls at a time over {connections} connections; it must be a multiple of them")
    return connections, concurrent // connections


def run(address: str, path: str, message: bytes, requests: int, concurrent: int) -> Result:
    """Posts the message so many times. NoLoad where a call failed on the level of HTTP, or not all ended."""
    connections, streams = shape(concurrent)
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(frame(message))
        command = [
            find(), f"--requests={requests}", f"--clients={connections}", f"--max-concurrent-streams={streams}",
            f"--data={body}", "--header=content-type: application/grpc", "--header=te: trailers", f"--log-file={log}",
            f"http://{address}{path}",
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise NoLoad(f"h2load: {requests} calls of {path} did not end within {LIMIT_SECONDS} s") from error
        if done.returncode:
            raise NoLoad(f"h2load ended with status {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")
        return parse(done.stdout, log.read_text().splitlines(), requests)


def parse(output: str, log: Sequence[str], requests: int) -> Result:
    """A Result from what h2load printed and logged; NoLoad where not all of `requests` calls ended with HTTP 200."""
    counts = re.search(r"^requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded", output, re.M)
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s|m)\b", output, re.M)
    data = re.search(r"^traffic: .*\((\d+)\) data$", output, re.M)
    if not (counts and finished and data):
        raise NoLoad(f"h2load printed something else than its figures: {output[-2000:]}")
    lines = [line.split("\t") for line in log]
    good = [int(fields[2]) for fields in lines if fields[1] == "200"]
    if not int(counts[1]) == int(counts[2]) == len(good) == requests:
        raise NoLoad(f"{len(good)} of {requests} calls ended with HTTP status 200: {output[-2000:]}")
    seconds = float(finished[1]) * _UNITS[finished[2]]
    return Result(requests, seconds, int(data[1]), np.array(good) * 1e-6)
