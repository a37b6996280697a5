"""Wires the parts: the order of starting and the order of stopping."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

from server import cpus, device, service, transports
from server.batching import Batcher
from server.config import Config
from server.errors import StartError
from server.express import Express
from server.gateway import Gateway
from server.http.api import routes
from server.interceptor import Call, Interceptor, Unary
from server.lifeline import Lifeline
from server.logs import AccessLog
from server.metrics import Metrics
from server.open_inference import service as open_inference
from server.open_inference.service import OpenInferenceService
from server.open_inference.stubs import grpc_service_pb2 as open_inference_pb2
from server.ready import write_ready
from server.repository import Repository
from server.service import InferenceService
from server.tracing import Tracing
from server.transport import Handlers
from server.transports import Transport
from server.watch import changes

log = logging.getLogger(__name__)
SAMPLE_SECONDS = 1.0


class App:
    """A server with its repository, batcher and health. `start`, then `stop`; both on one event loop."""

    def __init__(self, config: Config):
        self.config = config
        self.metrics = Metrics(config.shared_metrics, config.drift_seconds) if config.http_port >= 0 else None
        self.gateway: Gateway | None = None
        # The libraries read their variables, OTEL_…, from there, too.
        self.tracing = Tracing.make(os.environ) if config.tracing else None
        self.calls = Interceptor(self.metrics, self.tracing, AccessLog(config.access_log), config.max_calls)
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Loads and proves every model, then listens. StartError says why it cannot."""
        if not self.config.models.is_dir():
            raise StartError(
                f"there is no model repository {self.config.models}: make the folder, or name it with --models"
            )
        chosen = device.choose(self.config.device, self.config.gpu_memory_mb)
        workers = self.config.workers or cpus.granted()
        log.info("device %s, %d workers; %s", chosen, workers, self.config.describe())
        self._batcher = Batcher(
            workers=workers,
            max_rows=self.config.max_queue_rows,
            max_bytes=self.config.max_queue_bytes,
            window_seconds=self.config.batch_window_ms / 1e3,
            pin=self.config.pin_workers,
        )
        self._decoders = ThreadPoolExecutor(workers, "decoder")
        self.repository = Repository(self.config, chosen, self._batcher, self.metrics, self.tracing)
        self._inference = InferenceService(self.repository, self.config, self._decoders, self.metrics)
        self._open_inference = OpenInferenceService(self.repository, self.config, self._is_ready, self.metrics)
        try:
            self.transport = self._make_transport()
            self.gateway = self._make_gateway(str(chosen), workers)
            await self.repository.refresh()
            await self._tell_health()
            if self.gateway:
                self.gateway.bind()
            await self.transport.listen()
            if self.gateway:
                await self.gateway.serve()
        except BaseException:
            if self.gateway:
                await self.gateway.close()
            self._batcher.close()
            self._decoders.shutdown(cancel_futures=True)
            raise
        if self.config.watch != "off" and self.config.watch_seconds:
            self._tasks.append(asyncio.create_task(self._watch()))
        if self.config.shared_metrics:
            self._tasks.append(asyncio.create_task(self._keep_sampling()))
        self._announce()

    async def stop(self) -> None:
        """Says NOT_SERVING, goes on for a moment, refuses what is new, finishes what was accepted, ends the workers."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.transport.say_goodbye()
        log.info("stopping: NOT_SERVING; new calls are served for another %g s", self.config.stop_delay_seconds)
        await asyncio.sleep(self.config.stop_delay_seconds)
        log.info("stopping: draining %d calls, at most %g s", self.calls.in_progress, self.config.drain_seconds)
        try:
            await asyncio.wait_for(self.calls.drain(), self.config.drain_seconds)
        except TimeoutError:
            log.warning("stopping: %d calls were not finished in time", self.calls.in_progress)
        await self.transport.close()
        if self.gateway:
            await self.gateway.close()
        self._batcher.close()
        if self.metrics:
            self.metrics.flush()  # for the siblings that go on
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.shutdown)
        self._decoders.shutdown(cancel_futures=True)
        if self.config.ready_file:
            self.config.ready_file.unlink(missing_ok=True)
        log.info("stopped")

    def _make_transport(self) -> Transport:
        readers = {"Predict": service.plain, "ModelInfer": open_inference.plain}
        self._express = Express(self.repository, self.config, self.calls, readers)
        fast = [(InferenceService.NAME, "Predict"), (OpenInferenceService.NAME, "ModelInfer")]
        files = [open_inference_pb2.DESCRIPTOR]
        return transports.choose(self.config, self._services(), files, self._express, self.calls, fast)

    def _services(self) -> dict[str, Handlers]:
        methods = self._inference
        return {
            methods.NAME: {
                "Predict": self.calls.unary("Predict", methods.predict, self._express.at_once),
                "PredictStream": self.calls.stream("PredictStream", methods.predict_stream),
                "GetModel": self.calls.unary("GetModel", methods.get_model),
                "ListModels": self.calls.unary("ListModels", methods.list_models),
                "LoadModel": self.calls.unary("LoadModel", self._then_tell_health(methods.load_model)),
                "UnloadModel": self.calls.unary("UnloadModel", self._then_tell_health(methods.unload_model)),
            },
            OpenInferenceService.NAME: self._field_handlers(),
        }

    def _field_handlers(self) -> Handlers:
        at_once, methods = {"ModelInfer": self._express.at_once}, self._field_methods()
        handlers = {name: self.calls.unary(name, handler, at_once.get(name)) for name, handler in methods.items()}
        stream = self._open_inference.model_stream_infer
        return handlers | {"ModelStreamInfer": self.calls.stream("ModelStreamInfer", stream)}

    def _field_methods(self) -> dict[str, Unary]:
        """The unary methods of the Open Inference Protocol, whatever transport asks them."""
        return self._open_inference.unary() | {
            "RepositoryModelLoad": self._then_tell_health(self._open_inference.repository_model_load),
            "RepositoryModelUnload": self._then_tell_health(self._open_inference.repository_model_unload),
        }

    def _then_tell_health(self, handler: Unary) -> Unary:
        async def answer(message: bytes, call: Call) -> bytes:
            try:
                return await handler(message, call)
            finally:
                await self._tell_health()

        return answer

    async def _watch(self) -> None:
        async for _ in changes(self.config.models, self.config.watch, self.config.watch_seconds):
            try:
                await self.repository.refresh()
                await self._tell_health()
            except Exception:
                log.exception("looking for new versions failed; the next look is in %g s", self.config.watch_seconds)

    async def _tell_health(self) -> None:
        await self.transport.tell_health(self._is_ready())
        if self.metrics:
            self.metrics.models(self.repository.entries())

    def _make_gateway(self, device: str, workers: int) -> Gateway | None:
        metrics = self.metrics
        if metrics is None:
            return None
        metrics.runs_on(device, workers)

        async def exposition(accept: str) -> tuple[bytes, str]:
            self._sample(metrics)
            return await asyncio.to_thread(metrics.exposition, accept)

        asked = routes(self._inference, self._open_inference, self._field_methods(), self.calls, self.config)
        refused, tokens = self.calls.refused, self.transport.tokens
        return Gateway(self.config, tokens, lambda: self.transport.ready, exposition, asked, refused)

    def _sample(self, metrics: Metrics) -> None:
        metrics.now(self._batcher.waiting_rows, self.calls.in_progress)
        metrics.flush()

    async def _keep_sampling(self) -> None:
        """For its siblings: whichever process is asked for metrics tells those of all."""
        while self.metrics:
            self._sample(self.metrics)
            await asyncio.sleep(SAMPLE_SECONDS)

    def _is_ready(self) -> bool:
        return not self._stopping and (bool(self.repository.ready()) or self.config.allow_empty)

    def _announce(self) -> None:
        ready = self.repository.ready()
        http = self.gateway.address() if self.gateway else ""
        where = f"grpc {self.transport.address()}" + (f", http {http}" if http else "")
        if ready or self.config.allow_empty:
            models = ", ".join(f"{served.name} v{served.version}" for served in ready) or "no model"
            log.info("ready: %s, %s", where, models)
        else:
            log.warning("listening, not ready: %s; %s holds no model that can be served", where, self.config.models)
        if self.config.ready_file:
            write_ready(self.config.ready_file, self.transport.address(), http)


async def serve(config: Config) -> None:
    """Serves until SIGTERM, SIGINT or the end of its supervisor, then drains; a second signal ends it at once."""
    app = App(config)
    lifeline = Lifeline(config.lifeline) if config.lifeline >= 0 else None
    asked, signals = asyncio.Event(), itertools.count()  # the supervisor's wish to stop is no signal

    def on_signal(number: int) -> None:
        if next(signals):
            log.warning("second signal: exiting at once")
            sys.stderr.flush()
            os._exit(128 + number)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    await app.start()
    if lifeline:
        lifeline.tell_ready()
        follow = asyncio.create_task(_follow(lifeline))
        follow.add_done_callback(lambda _: asked.set())
    await asked.wait()
    await app.stop()


async def _follow(lifeline: Lifeline) -> None:
    await lifeline.lost()
    log.info("the supervisor wants this process to stop, or is gone")
