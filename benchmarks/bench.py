"""`make bench`: this server beside a plain grpcio one and ONNX Runtime alone, as ratios of one run.

    make bench                            every case, some 20 minutes, and the figures in docs/benchmarks.md
    make bench ARGS=--quick               what the bars need, under two minutes
    make bench ARGS="--only mlp/uint8"    cases by name or pattern

The exit status: 0 all bars held; 1 one is missed, each is named, or an answer was wrong, or h2load is not there; 2 a
case is void, since other processes used more than a tenth of a processor, or no case has the name that was asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import cases, h2load, measure, networks, process, table, verdict
from benchmarks.messages import Truth
from benchmarks.process import ROOT, Running
from benchmarks.verdict import Started

PAGE = ROOT / "docs" / "benchmarks.md"
QUICK_SECONDS, QUICK_ROUNDS, SECONDS, ROUNDS = 0.5, 3, 1.5, 3


def main(arguments: Sequence[str]) -> int:
    """Measures, prints, judges; the exit status."""
    options = _options(arguments)
    wanted = cases.chosen(options.only, cases.QUICK if options.quick else cases.CASES)
    if not wanted:
        print(f"no case fits {', '.join(options.only)}; they are named like {cases.CASES[0].name}", file=sys.stderr)
        return 2
    h2load.find()
    transports = available()
    measured, started = list[measure.Measured](), dict[str, Started]()
    about = _about(options, transports)
    print("\n".join(about), table.line(table.HEAD), sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if not options.only:
            started = _starts(Path(folder), transports, 3 if options.quick else 5)
        for network in networks.NETWORKS:
            todo = [case for case in wanted if case.network == network]
            if todo:
                measured += _network(Path(folder), network, todo, transports, options)
    return _conclude(options, measured, started, transports, about)


def available() -> list[str]:
    """The server's transports, as its --help tells of them; grpcio alone where it has no such setting."""
    text = subprocess.run(
        [sys.executable, "-m", "server", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    setting = text.partition("\n  --transport ")[2].partition("\n  --")[0]
    return ["grpcio", "native"] if "native" in setting else ["grpcio"]


def _network(
    folder: Path, network: str, todo: Sequence[cases.Case], transports: Sequence[str], options: argparse.Namespace
) -> list[measure.Measured]:
    """All cases of one network, on servers that have nothing else loaded."""
    repository = folder / network
    repository.mkdir()
    networks.publish(repository, network)
    truth, found = Truth(repository), list[measure.Measured]()
    with contextlib.ExitStack() as stack:
        names = (measure.PLAIN, measure.TUNED, *transports)
        servers = {name: stack.enter_context(_start(name, repository, transports)) for name in names}
        for case in todo:
            found.append(measure.measure(case, servers, repository, truth, options.seconds, options.rounds))
            print(*map(table.line, table.rows(found[-1])), sep="\n", flush=True)
    return found


def _start(name: str, repository: Path, transports: Sequence[str]) -> contextlib.AbstractContextManager[Running]:
    if name in (measure.PLAIN, measure.TUNED):
        return process.plain(repository, *(["tuned"] if name == measure.TUNED else []))
    return process.server(repository, *(["--transport", name] if len(transports) > 1 else []))


def _starts(folder: Path, transports: Sequence[str], times: int) -> dict[str, Started]:
    """Of each server with one MLP: the medians of several starts, taken in turns."""
    repository = folder / "alone"
    repository.mkdir()
    networks.publish(repository, "mlp", both=False)
    truth = Truth(repository)
    seen: dict[str, list[tuple[float, int]]] = {name: [] for name in (measure.PLAIN, *transports)}
    for _ in range(times):
        for name, found in seen.items():
            found.append(measure.first_answer(functools.partial(_start, name, repository, transports), truth))
    return {
        name: Started(float(np.median([s for s, _ in found])), int(np.median([r for _, r in found])))
        for name, found in seen.items()
    }


def _conclude(
    options: argparse.Namespace, measured: Sequence[measure.Measured], started: dict[str, Started],
    transports: Sequence[str], about: Sequence[str],
) -> int:  # fmt: skip
    for name, each in started.items():
        print(f"{name}: {each.seconds:.2f} s to the first right answer, {each.rss_bytes / 1e6:.0f} MB resident")
    ours = {name: each for name, each in started.items() if name != measure.PLAIN}
    verdicts = verdict.judge(measured, ours, transports)
    print(*table.told(verdicts), sep="\n")
    for name in verdict.unjudged([each.case for each in measured]):
        print(f"not run {name}")
    void = [f"{each.case.name} {each.foreign:.2f}" for each in measured if each.void]
    print(f"others used {max(each.foreign for each in measured):.2f} processors at most, in one case")
    if void:
        print(f"VOID, as others used more than {measure.FOREIGN_MOST} processors: {', '.join(void)}")
    if options.out and void:
        print(f"not written to {options.out}: run it again when nothing else does")
    elif options.out:
        table.put(options.out, table.markdown(measured, started, verdicts, about))
        print(f"written to {options.out}")
    if any(each.held is False for each in verdicts):
        return 1
    return 2 if void else 0


def _about(options: argparse.Namespace, transports: Sequence[str]) -> list[str]:
    """The machine, the date, the versions, the command."""
    packages = ["onnxruntime", "grpcio", "protobuf", "numpy", *(["pygrpc-native"] if "native" in transports else [])]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    flags = [*(["--quick"] if options.quick else []), *(f"--only {each}" for each in options.only)]
    how = f"{options.rounds} rounds of {options.seconds:g} s for each server, in turns"
    command = " ".join(["make bench", *([f'ARGS="{" ".join(flags)}"'] if flags else [])])
    return [f"{process.machine()}; {datetime.date.today()}; {versions}.", f"`{command}`: {how}; medians."]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Measure the server's speed.")
    parser.add_argument("--quick", action="store_true", help="only what the bars need")
    parser.add_argument(
        "--only", action="append", default=[], metavar="CASE", help="a name, a part, a pattern; repeats"
    )
    parser.add_argument("--seconds", type=float, help=f"of a round (default: {SECONDS}, with --quick {QUICK_SECONDS})")
    parser.add_argument("--rounds", type=int, help=f"of each case (default: {ROUNDS}, with --quick {QUICK_ROUNDS})")
    parser.add_argument(
        "--out", type=Path, help="the page that takes the figures (default: docs/benchmarks.md when all cases run)"
    )
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if not options.seconds > 0 or options.rounds < 1:
        parser.error("--seconds must be more than 0, --rounds at least 1")
    if options.out is None and not options.quick and not options.only:
        options.out = PAGE
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end, too
    sys.exit(main(sys.argv[1:]))
