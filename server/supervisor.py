"""Several server processes on one port: started together, watched, restarted when they die, stopped together.

Each is `python -m server` with the same settings and a socket to this process, its lifeline. Over it the process says
that it is ready; when it closes, the process stops as on SIGTERM. So none outlives its supervisor, however that ends,
and a signal that a terminal or systemd sends to every process is never taken for a second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from server import cpus
from server.config import PREFIX, Config
from server.errors import StartError
from server.metrics import SHARED_FOLDER
from server.ports import bound
from server.ready import write_ready

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # before a restart; doubled while processes die before they are ready
FAILED_STARTS = 5  # in a row, over all processes, before giving up; the very first of all only once
KILL_SECONDS = 10  # beyond what a process may take to stop


class Supervisor:
    """Keeps `config.processes` server processes. `run` once."""

    def __init__(self, config: Config, environment: Mapping[str, str]):
        self._config = config
        # What they say is in the flags already.
        self._environment = {name: value for name, value in environment.items() if not name.startswith(PREFIX)}
        self._stop = asyncio.Event()
        self._ready: dict[int, int] = {}  # place → pid of those that answer
        self._failed_starts = 0
        self._answered = self._gave_up = False  # answered: all of them, once
        self._pids: dict[int, int] = {}
        self._held = contextlib.ExitStack()  # the ports, and the folder of the metrics

    async def run(self) -> int:
        """Serves until SIGTERM or SIGINT, which stops all; the exit status. StartError where they cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        with self._held as held:
            settings = self._child_config(held)
            log.info("%d processes on port %d", self._config.processes, settings.grpc_port)
            statuses = await asyncio.gather(*(self._keep(number, settings) for number in range(self._config.processes)))
        if self._config.ready_file:
            self._config.ready_file.unlink(missing_ok=True)
        if self._gave_up:
            raise StartError("the server processes end before they are ready; their own lines above say why")
        log.info("all processes stopped")
        return int(any(status not in (0, -signal.SIGTERM, -signal.SIGINT) for status in statuses))

    def _child_config(self, held: contextlib.ExitStack) -> Config:
        """What each process is told; the ports that are taken for all of them, and where they count, are held."""
        config = self._config
        workers = config.workers or max(1, cpus.granted() // config.processes)
        settings = dataclasses.replace(config, workers=workers, processes=1, ready_file=None)
        grpc = held.enter_context(reserve(config, config.grpc_port)).getsockname()[1]
        if config.http_port < 0:
            return dataclasses.replace(settings, grpc_port=grpc)
        http = held.enter_context(reserve(config, config.http_port)).getsockname()[1]
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="topclass-metrics-"))
        self._environment[SHARED_FOLDER] = folder
        return dataclasses.replace(settings, grpc_port=grpc, http_port=http, shared_metrics=Path(folder))

    def _on_signal(self, number: int) -> None:
        if self._stop.is_set():
            log.warning("second signal: killing all processes at once")
            for pid in self._pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._held.close()
            sys.stderr.flush()
            os._exit(128 + number)
        log.info("stopping all processes")
        self._stop.set()

    async def _keep(self, number: int, settings: Config) -> int:
        """Runs one process, and another when it dies, until all are stopped; the last one's exit status."""
        while True:
            started = time.monotonic()
            status, was_ready = await self._run_one(number, settings)
            if self._stop.is_set():
                return status
            self._count(was_ready)
            if self._stop.is_set():
                return status
            pause = min(FIRST_PAUSE * 2**self._failed_starts, LONGEST_PAUSE)
            log.error(
                "process %d ended by itself after %.1f s (%s); it is started again in %g s",
                number, time.monotonic() - started, _said(status), pause,
            )  # fmt: skip
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause)
            if self._stop.is_set():
                return 0

    def _count(self, was_ready: bool) -> None:
        """Gives up after too many failed starts in a row, and at once where none has ever answered."""
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        if self._failed_starts >= (FAILED_STARTS if self._answered else 1):
            self._gave_up = True
            self._stop.set()

    async def _run_one(self, number: int, settings: Config) -> tuple[int, bool]:
        """One process from start to end: its exit status, and whether it was ready."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            # A session of its own: a terminal's Ctrl-C comes to the supervisor alone, which tells everyone.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "server", *settings.flags(), f"--lifeline={theirs.fileno()}",
                pass_fds=[theirs.fileno()], env=self._environment, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            theirs.close()
            self._pids[number] = process.pid
            talk = asyncio.create_task(self._listen(number, process.pid, ours, settings))
            stop = asyncio.create_task(self._stop_one(process, ours))
            try:
                status = await process.wait()
            finally:
                for task in (talk, stop):
                    task.cancel()
                await asyncio.gather(talk, stop, return_exceptions=True)
            self._pids.pop(number, None)
            if settings.shared_metrics:  # its counts stay, so that sums never shrink; what it was doing goes
                mark_process_dead(process.pid, settings.shared_metrics)
            was_ready = self._ready.pop(number, None) is not None
        return status, was_ready

    async def _listen(self, number: int, pid: int, ours: socket.socket, settings: Config) -> None:
        if not await asyncio.get_running_loop().sock_recv(ours, 1):
            return
        self._ready[number] = pid
        self._failed_starts = 0
        log.info("process %d is ready: pid %d", number, pid)
        if len(self._ready) == self._config.processes and not self._answered:
            self._answered = True
            grpc = settings.address(settings.grpc_port)
            http = settings.address(settings.http_port) if settings.http_port >= 0 else ""
            where = f"grpc {grpc}" + (f", http {http}" if http else "")
            log.info("ready: %s, pids %s", where, " ".join(map(str, self._ready.values())))
            if self._config.ready_file:
                write_ready(self._config.ready_file, grpc, http)

    async def _stop_one(self, process: asyncio.subprocess.Process, ours: socket.socket) -> None:
        await self._stop.wait()
        ours.shutdown(socket.SHUT_WR)
        await asyncio.sleep(self._config.stop_delay_seconds + self._config.drain_seconds + KILL_SECONDS)
        log.error("pid %d does not stop; killing it", process.pid)
        process.kill()


def reserve(config: Config, port: int) -> socket.socket:
    """A socket that holds the port for all processes and never listens; StartError where a stranger has the port.

    Processes of one user may share a port by SO_REUSEPORT without asking each other, so first the port is tried
    without it.
    """
    bound(config, port, listening=False).close()
    return bound(config, port, shared=True, listening=False)


def _said(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
