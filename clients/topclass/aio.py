"""The client for asyncio: the same calls as in client.py, awaited."""

# ruff: noqa: ASYNC109  # a timeout is the deadline that the server is told, not only how long to wait here

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc
import grpc.aio
import numpy as np

from topclass import calls, wire
from topclass.calls import Call, Caller, Deadline, LabelStore, Pause, Send
from topclass.results import ModelDetails, ModelInfo, Result
from topclass.target import OPTIONS, Target
from topclass.windows import check_window
from topclass.wire import Inputs, Query

T = TypeVar("T")


class AsyncClient:
    """Calls a topclass server from asyncio. It belongs to the event loop that it is first used in.

    The arguments and the methods are those of Client. Cancelling the task that waits cancels the call.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8001",
        *,
        timeout: float = 30.0,
        retries: int = 5,
        root_certificates: bytes | str | Path | None = None,
        token: str | None = None,
    ):
        self._target = Target.of(address, root_certificates, token)
        self._timeout = timeout
        self._caller = Caller(address, retries)
        self._store = LabelStore()
        self._closed = False

    async def predict(
        self,
        inputs: Inputs,
        model: str = "",
        *,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
    ) -> Result:
        """Classify one batch; see Client.predict. Picture files are read in a thread, not on the event loop."""
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        return await self._predict(inputs, query, timeout)

    async def predict_many(
        self,
        batches: Iterable[Inputs] | AsyncIterable[Inputs],
        model: str = "",
        *,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
    ) -> AsyncGenerator[Result, None]:
        """Classify many batches, at most `window` at once; see Client.predict_many. `batches` may be async."""
        check_window(window)
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        pending: deque[asyncio.Task[Result]] = deque()
        try:
            async for batch in _each(batches):
                pending.append(asyncio.create_task(self._predict(batch, query, timeout)))
                if len(pending) == window:
                    yield await pending[0]
                    pending.popleft()
            while pending:
                yield await pending[0]
                pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """Every version of every model that the server knows, the broken ones too."""
        return await self._run(calls.models(self._caller, self._deadline(timeout)))

    async def model(self, name: str = "", version: int = 0, *, timeout: float | None = None) -> ModelDetails:
        """One model: its labels, what it takes, its card. Empty: the only one served; 0: the version that answers."""
        return await self._run(calls.model(self._caller, name, version, self._deadline(timeout)))

    async def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """What the server says of itself: "serving", "not serving" or "unknown". TopclassError if it says nothing."""
        return await self._run(calls.health(self._caller, service, self._deadline(timeout)))

    async def healthy(self, service: str = "", *, timeout: float | None = None) -> bool:
        """True if the server is serving; False if it says otherwise, or does not answer."""
        return await self._run(calls.healthy(self._caller, service, self._deadline(timeout)))

    async def wait_ready(self, timeout: float | None = None, service: str = "") -> None:
        """Return once the server is serving; Unavailable, with its last answer, if that takes over `timeout` s."""
        return await self._run(calls.wait_ready(self._caller, service, self._deadline(timeout)))

    async def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        self._closed = True
        if "_channel" in self.__dict__:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        # Made at the first call, because a channel belongs to the event loop that runs when it is made.
        if self._target.credentials:
            return grpc.aio.secure_channel(self._target.address, self._target.credentials, options=OPTIONS)
        return grpc.aio.insecure_channel(self._target.address, options=OPTIONS)

    @cached_property
    def _methods(self) -> dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]:
        return {name: self._channel.unary_unary(name) for name in calls.METHODS}

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    async def _predict(self, inputs: Inputs, query: Query, timeout: float | None) -> Result:
        deadline = self._deadline(timeout)
        if not isinstance(inputs, np.ndarray):
            inputs = await asyncio.to_thread(wire.read_pictures, inputs)
        return await self._run(calls.predict(self._caller, self._store, inputs, query, deadline))

    async def _run(self, steps: Call[T]) -> T:
        """Carry out the steps of a call, one after the other, and return what it returns."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _do(self, step: Send | Pause) -> bytes:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return b""
        if self._closed:
            raise ValueError("this client is closed")
        method = self._methods[step.method]
        return await method(step.request, timeout=step.timeout, metadata=self._target.metadata)


async def _each(batches: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncIterator[Inputs]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
