"""Fixtures: tiny models, and real servers on port 0 with real channels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from server import native
from server.app import App
from server.config import Config, checked
from tests import models
from topclass.v1 import inference_pb2_grpc

# What callers are promised, whatever speaks gRPC: these files run on each transport, the others on what `auto` takes.
CONTRACT = {
    "test_bad_input", "test_faults", "test_fuzz", "test_life", "test_metrics", "test_neighbours", "test_open_inference",
    "test_open_inference_errors", "test_predict", "test_swap",
}  # fmt: skip
TRANSPORTS = (
    "grpcio",
    pytest.param("native", marks=pytest.mark.skipif(not native.AVAILABLE, reason="pygrpc-native is not installed")),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of CONTRACT that start a server run once for each transport."""
    if metafunc.module.__name__.rpartition(".")[2] in CONTRACT and {"serve", "start"} & set(metafunc.fixturenames):
        metafunc.fixturenames.append("transport")
        metafunc.parametrize("transport", TRANSPORTS, indirect=True)


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """What speaks gRPC in this test."""
    return str(getattr(request, "param", "auto"))


@dataclass
class LiveServer:
    """A server in this process, on its own event loop in its own thread."""

    app: App
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    channel: grpc.Channel
    stopped: bool = False

    @property
    def address(self) -> str:
        """Where it listens: host:port."""
        return f"127.0.0.1:{self.app.transport.port}"

    @property
    def models(self) -> Path:
        """Its repository."""
        return self.app.config.models

    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        """The generated stub over a real channel."""
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    def run(self, coroutine: Any) -> Any:
        """Runs a coroutine on the server's loop and gives its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def refresh(self) -> None:
        """Looks for new versions now."""
        self.run(self.app.repository.refresh())
        self.run(self.app._tell_health())

    def stop_async(self) -> concurrent.futures.Future[None]:
        """Begins to stop, as SIGTERM does."""
        self.stopped = True
        return asyncio.run_coroutine_threadsafe(self.app.stop(), self.loop)

    def close(self) -> None:
        """Stops it and ends its thread."""
        self.channel.close()
        if not self.stopped:
            self.stop_async().result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


def start_server(config: Config) -> LiveServer:
    """A live server; what `App.start` raises, this raises."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server", daemon=True)
    thread.start()
    try:
        app = asyncio.run_coroutine_threadsafe(_start(config), loop).result(60)
    except BaseException:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        raise
    limit = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    return LiveServer(app, loop, thread, grpc.insecure_channel(f"127.0.0.1:{app.transport.port}", options=limit))


async def _start(config: Config) -> App:
    app = App(config)
    await app.start()
    return app


@pytest.fixture(autouse=True)
def quick_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers in this process wait less for connections to end; those in processes of their own do as users' do."""
    monkeypatch.setattr("server.transport.GOODBYE_SECONDS", 0.02)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one model: `pets`, version 1, uint8 [N, 4, 4] → cat, dog, emu."""
    folder = tmp_path / "models"
    folder.mkdir()
    models.put(folder, "pets", 1, models.with_card(models.classifier()))
    return folder


@pytest.fixture
def serve(tmp_path: Path, transport: str) -> Iterator[Callable[..., LiveServer]]:
    """A function that starts a server: serve(models=…, any other setting). All of them are stopped in the end."""
    started: list[LiveServer] = []
    usual = Config(
        grpc_port=0,
        http_port=-1,
        device="cpu",
        workers=2,
        watch_seconds=0,
        stop_delay_seconds=0,
        drain_seconds=10,
        transport=transport,
    )

    def start(**settings: Any) -> LiveServer:
        settings.setdefault("models", tmp_path / "models")
        if "token_file" in settings or "tls_certificate" in settings:
            settings.setdefault("transport", "auto")
        started.append(start_server(checked(replace(usual, **settings))))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def server(repository: Path, serve: Callable[..., LiveServer]) -> LiveServer:
    """A live server of `repository`."""
    return serve(models=repository)
