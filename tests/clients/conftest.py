"""Clients of both kinds behind one face, and servers to call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients.fake import Fake, serving
from topclass import AsyncClient, Client


class Blocking:
    """An AsyncClient whose methods can be called without await, so that one test serves both clients."""

    def __init__(self, *arguments: Any, **options: Any):
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return self._runner.run(self._finish(method(*arguments, **options)))

        return call

    @staticmethod
    async def _finish(awaitable: Any) -> Any:
        if inspect.isasyncgen(awaitable):
            return [result async for result in awaitable]
        return await awaitable

    def end(self) -> None:
        """Close the client and its event loop."""
        self.close()
        self._runner.close()


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a client of either kind, with the arguments of Client."""
    made: list[Any] = []

    def make(*arguments: Any, **options: Any) -> Any:
        made.append((Client if request.param == "threads" else Blocking)(*arguments, **options))
        return made[-1]

    yield make
    for client in made:
        client.end() if isinstance(client, Blocking) else client.close()


@pytest.fixture
def client(connect: Callable[..., Any], server: Any) -> Any:
    """A client of the real server."""
    return connect(server.address)


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A server that does what the test tells it."""
    with serving(Fake()) as running:
        yield running
