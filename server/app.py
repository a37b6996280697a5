"""Wires the parts: the order of starting and the order of stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from server import cpus, device
from server.batching import Batcher
from server.config import Config
from server.errors import StartError
from server.interceptor import Gate, Interceptor
from server.repository import Repository
from server.service import InferenceService

log = logging.getLogger(__name__)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
HEALTH_NAMES = ("", InferenceService.NAME)


class App:
    """A server with its repository, batcher and health. `start`, then `stop`; both on one event loop."""

    def __init__(self, config: Config):
        self.config = config
        self.gate = Gate()
        self.port = 0
        self._health = health.aio.HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Loads and proves every model, then listens. StartError says why it cannot."""
        if not self.config.models.is_dir():
            raise StartError(
                f"there is no model repository {self.config.models}: make the folder, or name it with --models"
            )
        chosen = device.choose(self.config.device)
        workers = self.config.workers or cpus.granted()
        log.info("device %s, %d workers; %s", chosen, workers, self.config.describe())
        self._batcher = Batcher(
            workers=workers, max_rows=self.config.max_queue_rows, max_bytes=self.config.max_queue_bytes
        )
        self._decoders = ThreadPoolExecutor(workers, "decoder")
        self.repository = Repository(self.config, chosen, self._batcher)
        try:
            await self.repository.refresh()
            await self._tell_health()
            await self._listen()
        except BaseException:
            self._batcher.close()
            self._decoders.shutdown(cancel_futures=True)
            raise
        if self.config.watch_seconds:
            self._tasks.append(asyncio.create_task(self._watch()))
        self._announce()

    async def stop(self) -> None:
        """Says NOT_SERVING, goes on for a moment, refuses what is new, finishes what was accepted, ends the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._health.enter_graceful_shutdown()
        log.info("stopping: NOT_SERVING; new calls are served for another %g s", self.config.stop_delay_seconds)
        await asyncio.sleep(self.config.stop_delay_seconds)
        self.gate.open = False
        log.info("stopping: draining, at most %g s", self.config.drain_seconds)
        await self._server.stop(self.config.drain_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._batcher.drain(), 1.0)
        self._batcher.close()
        self._decoders.shutdown(cancel_futures=True)
        if self.config.ready_file:
            self.config.ready_file.unlink(missing_ok=True)
        log.info("stopped")

    async def _listen(self) -> None:
        limit = self.config.max_message_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", self.config.max_streams),
                ("grpc.so_reuseport", 0),  # else a second server on the same port starts, and takes half the calls
            ]
        )
        service = InferenceService(self.repository, self.config, self._decoders)
        interceptor = Interceptor(self.gate)
        methods = {
            "Predict": interceptor.unary("Predict", service.predict),
            "PredictStream": interceptor.stream("PredictStream", service.predict_stream),
            "GetModel": interceptor.unary("GetModel", service.get_model),
            "ListModels": interceptor.unary("ListModels", service.list_models),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.NAME, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self.config.reflection:
            names = (service.NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        address = f"{_bracketed(self.config.host)}:{self.config.grpc_port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}: is the port in use, or the address not this machine's?"
            ) from error
        await self._server.start()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.watch_seconds)
            try:
                await self.repository.refresh()
                await self._tell_health()
            except Exception:
                log.exception("looking for new versions failed; the next look is in %g s", self.config.watch_seconds)

    async def _tell_health(self) -> None:
        ready = bool(self.repository.ready()) or self.config.allow_empty
        for name in HEALTH_NAMES:
            await self._health.set(name, SERVING if ready else NOT_SERVING)

    def _announce(self) -> None:
        ready = self.repository.ready()
        where = f"grpc {_bracketed(self.config.host)}:{self.port}"
        if ready or self.config.allow_empty:
            models = ", ".join(f"{served.name} v{served.version}" for served in ready) or "no model"
            log.info("ready: %s, %s", where, models)
        else:
            log.warning("listening, not ready: %s; %s holds no model that can be served", where, self.config.models)
        if self.config.ready_file:
            _write_atomically(
                self.config.ready_file, json.dumps({"grpc": f"{_bracketed(self.config.host)}:{self.port}"})
            )


async def serve(config: Config) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once."""
    app = App(config)
    asked = asyncio.Event()

    def on_signal(number: int) -> None:
        if asked.is_set():
            log.warning("second signal: exiting at once")
            sys.stderr.flush()
            os._exit(128 + number)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await app.start()
    await asked.wait()
    await app.stop()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
