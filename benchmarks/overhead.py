"""`make overhead`: what metrics and logs cost at 64 calls at a time, one picture each.

Two servers live at once, one with metrics and log lines (every hundredth call has one), one without either; they are
loaded in turns, A B B A …, so that whatever else the machine does meets both. Bar: in the median of all pairs of rounds
one after the other, less than 3 % of requests per second, and of the server's processor time for 1,000 requests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np

from benchmarks import h2load, load, process
from tests import models

BAR = 0.03
CONCURRENT = 64
ON = ("--http-port", "0", "--log-level", "info", "--access-log", "0.01")
OFF = ("--http-port", "-1", "--log-level", "error", "--access-log", "0")


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 where both bars are held."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description="What metrics and logs cost.")
    parser.add_argument("--rounds", type=int, default=10, help="for each server (default: 10)")
    parser.add_argument("--requests", type=int, default=20_000, help="of each round (default: 20,000)")
    options = parser.parse_args(arguments)
    message = load.request(np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        models.put(Path(folder), "lenet", 1, models.lenet())
        with process.server(Path(folder), *ON) as watched, process.server(Path(folder), *OFF) as bare:
            for server in (watched, bare):
                _round(server, message, options.requests // 4)
            foreign = process.Foreign()
            rounds: dict[str, list[tuple[float, float]]] = {"on": [], "off": []}
            for number in range(options.rounds):
                pair = [("on", watched), ("off", bare)]
                for name, server in pair if number % 2 else reversed(pair):
                    rounds[name].append(_round(server, message, options.requests))
            busy = foreign.processors()
            _must_have_counted(watched.http, (options.rounds + 0.25) * options.requests)
    on, off = np.array(rounds["on"]), np.array(rounds["off"])  # [rounds, 2]: rate, processor seconds
    slower, dearer = 1 - np.median(on[:, 0] / off[:, 0]), np.median(on[:, 1] / off[:, 1]) - 1
    rate, cpu = ({"on": np.median(on[:, k]), "off": np.median(off[:, k])} for k in (0, 1))
    print(f"{'':<28}{'off':>10}{'on':>10}{'costs':>9}   bar {BAR:.0%}")
    print(f"{'requests/s':<28}{rate['off']:>10.0f}{rate['on']:>10.0f}{slower:>9.1%}")
    print(f"{'CPU seconds/1,000 requests':<28}{cpu['off']:>10.4f}{cpu['on']:>10.4f}{dearer:>9.1%}")
    print(f"{process.machine()}; {busy:.2f} processors busy with other things meanwhile")
    held = bool(slower < BAR and dearer < BAR)
    print("held" if held else "NOT held")
    return 0 if held else 1


def _round(server: process.Running, message: bytes, requests: int) -> tuple[float, float]:
    """Requests per second, and the server's processor seconds for 1,000."""
    before = server.cpu_seconds()
    result = h2load.run(server.address, load.PREDICT, message, requests, CONCURRENT)
    return result.rate, (server.cpu_seconds() - before) / requests * 1000


def _must_have_counted(http: str, requests: float) -> None:
    """Else it would have been a comparison with nothing: SystemExit."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counted = sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("topclass_requests_total{") and 'code="OK"' in line
    )
    if counted < requests:
        raise SystemExit(f"{requests:.0f} requests were sent, and {counted:.0f} counted as answered")


if __name__ == "__main__":
    sys.exit(main())
