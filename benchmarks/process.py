"""Servers as processes of their own, what they cost, and who else used the machine meanwhile; all from /proc."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server import cpus

ROOT = Path(__file__).parents[1]
START_SECONDS = 60
_TICKS = os.sysconf("SC_CLK_TCK")
TICK_SECONDS = 1 / _TICKS
_PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    found = [pid]
    for parent in found:  # it grows while it is walked
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that the process and its descendants used so far: user and system, of those that ended too."""
    ticks = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):  # it has just ended; its parent counts it
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory of the process and its descendants; pages that they share count for each."""
    pages = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
    return pages * _PAGE


@dataclass(frozen=True)
class Running:
    """A server process and where it listens; http is empty where it has no such port."""

    process: subprocess.Popen[bytes]
    address: str
    http: str = ""

    def rss_bytes(self) -> int:
        """Its resident memory."""
        return rss_bytes(self.process.pid)

    def cpu_seconds(self) -> float:
        """The processor time that it used so far, user and system."""
        return cpu_seconds(self.process.pid)


@contextlib.contextmanager
def started(command: Sequence[str], ready: Path) -> Iterator[Running]:
    """A server that writes the ready-file of `server/ready.py`; ended, and its status and log checked, afterwards."""
    log = ready.with_name(f"{ready.name}.log")
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stderr)
    try:
        limit = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None:
                raise SystemExit(f"the server ended with status {process.returncode}; its log:\n{_end(log)}")
            if time.monotonic() > limit:
                raise SystemExit(f"the server is not ready after {START_SECONDS} s; its log:\n{_end(log)}")
            time.sleep(0.002)
        where = json.loads(ready.read_text())
        yield Running(process, where["grpc"], where.get("http", ""))
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0 or "Traceback" in log.read_text():
        raise SystemExit(f"the server ended with status {process.returncode}; its log:\n{_end(log)}")


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


@contextlib.contextmanager
def server(models: Path, *flags: str) -> Iterator[Running]:
    """`python -m server` on free ports of the loopback address, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        command = [sys.executable, "-m", "server", "--models", str(models), "--grpc-port", "0", "--device", "cpu"]
        more = ["--ready-file", str(ready), "--stop-delay-seconds", "0", "--log-level", "warning", "--http-port", "0"]
        with started([*command, *more, *flags], ready) as running:
            yield running


@contextlib.contextmanager
def plain(models: Path, *flags: str) -> Iterator[Running]:
    """`benchmarks/plain.py` on a free port of the loopback address."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        with started([sys.executable, "-m", "benchmarks.plain", str(models), str(ready), *flags], ready) as running:
            yield running


def machine() -> str:
    """The machine, for the line under a table."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {cpus.granted()} processors, Python {platform.python_version()}, {platform.system()}"


class Foreign:
    """The processors that others kept busy since it was made: all that this machine did, less this process's tree."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy(), cpu_seconds(os.getpid())

    def processors(self) -> float:
        """Their mean until now; 0.1 is a tenth of one processor."""
        others = _busy() - self._busy - (cpu_seconds(os.getpid()) - self._own)
        return max(0.0, others / (time.monotonic() - self._began))


def foreign_load(seconds: float = 1) -> float:
    """The processors that others keep busy now, measured for so long."""
    foreign = Foreign()
    time.sleep(seconds)
    return foreign.processors()


def _busy() -> float:
    """Seconds that all processors spent for processes: user, nice, system; not interrupts, not another guest's time."""
    return sum(int(field) for field in _lines("/proc/stat")[0].split()[1:4]) / _TICKS


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return [""]
