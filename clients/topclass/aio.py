"""The client for asyncio: the same calls as in client.py, awaited."""

# ruff: noqa: ASYNC109  # a timeout is the deadline that the server is told, not only how long to wait here

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import grpc
import grpc.aio
import numpy as np

from topclass import calls, wire
from topclass.balance import Balance
from topclass.calls import Call, Caller, Deadline, LabelStore, Pause, Send
from topclass.groups import Item, Many, loaded, taken
from topclass.results import ModelDetails, ModelInfo, Prediction, Result
from topclass.source import Source
from topclass.target import Target
from topclass.windows import check_many
from topclass.wire import Inputs, Query

T = TypeVar("T")


class AsyncClient:
    """Calls a topclass server from asyncio. It belongs to the event loop that it is first used in.

    The arguments and the methods are those of Client. Cancelling the task that waits cancels the call.
    """

    def __init__(
        self,
        address: str | Sequence[str] = "127.0.0.1:8001",
        *,
        channels: int = 1,
        timeout: float = 30.0,
        retries: int = 5,
        root_certificates: bytes | str | Path | None = None,
        token: str | None = None,
    ):
        self._target = Target.of(address, channels, root_certificates, token)
        self._timeout = timeout
        self._caller = Caller(Balance(self._target.addresses), retries)
        self._store = LabelStore()
        self._turns = itertools.count()
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

    @overload
    def predict_many(
        self,
        items: Iterable[Inputs] | AsyncIterable[Inputs],
        model: str = "",
        *,
        batch_size: None = None,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise"] = "raise",
    ) -> AsyncGenerator[Result, None]: ...

    @overload
    def predict_many(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        model: str = "",
        *,
        batch_size: int,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise"] = "raise",
    ) -> AsyncGenerator[Prediction, None]: ...

    @overload
    def predict_many(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        model: str = "",
        *,
        batch_size: int | None = None,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise", "return"],
    ) -> AsyncGenerator[Any, None]: ...

    def predict_many(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        model: str = "",
        *,
        batch_size: int | None = None,
        version: int = 0,
        alias: str = "",
        sha256: str | None = None,
        top_k: int = 0,
        probabilities: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        window: int = 8,
        on_error: Literal["raise", "return"] = "raise",
    ) -> AsyncGenerator[Any, None]:
        """Classify as many as come; see Client.predict_many. `items` may be async.

        With a `batch_size` a request goes as soon as there is room in the window, with what has come until then: a
        lone item waits for nobody, and many that come at once travel together.
        """
        check_many(window, batch_size, on_error)
        query = Query(model, version, alias, sha256, top_k, probabilities, priority)
        many = Many(self._caller, self._store, query, partial(self._deadline, timeout), batch_size)
        return self._in_order(many, items, window, on_error == "raise")

    async def _in_order(
        self, many: Many, items: Iterable[Any] | AsyncIterable[Any], window: int, raising: bool
    ) -> AsyncGenerator[Any, None]:
        size = many.batch_size or 1
        changed = asyncio.Event()
        # While the window is full, one more request gathers.
        capacity = window if many.batch_size is None else (window + 1) * size
        source = Source(items, capacity, size, changed)
        pending: deque[asyncio.Task[list[Any]]] = deque()
        try:
            while True:
                while source.waiting and len(pending) < window:
                    group = source.take(taken(source.waiting, size))
                    pending.append(asyncio.create_task(self._job(many, group)))
                    pending[-1].add_done_callback(lambda _: changed.set())
                if pending and pending[0].done():
                    outcomes = pending.popleft().result()
                    for answer in many.answers(outcomes, raising):
                        yield answer
                        source.room.release()
                    await asyncio.sleep(0)  # the source fills the window up again before the next answer
                elif pending or not source.ended:
                    changed.clear()
                    await changed.wait()
                else:
                    source.check()
                    return
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(source.close(), *pending, return_exceptions=True)

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
        for channel in itertools.chain.from_iterable(self.__dict__.get("_channels", ())):
            await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @cached_property
    def _channels(self) -> list[list[grpc.aio.Channel]]:
        # Made at the first call, because a channel belongs to the event loop that runs when it is made.
        return [[self._connect(each) for _ in range(self._target.channels)] for each in self._target.addresses]

    def _connect(self, address: str) -> grpc.aio.Channel:
        options = self._target.options(address)
        if self._target.credentials:
            return grpc.aio.secure_channel(address, self._target.credentials, options=options)
        return grpc.aio.insecure_channel(address, options=options)

    @cached_property
    def _methods(self) -> list[list[dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]]]:
        return [
            [{name: channel.unary_unary(name) for name in calls.METHODS} for channel in row] for row in self._channels
        ]

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    async def _predict(self, inputs: Inputs, query: Query, timeout: float | None) -> Result:
        deadline = self._deadline(timeout)
        if not isinstance(inputs, np.ndarray):
            inputs = await asyncio.to_thread(wire.read_pictures, inputs)
        return await self._run(calls.predict(self._caller, self._store, inputs, query, deadline))

    async def _job(self, many: Many, group: list[Any]) -> list[Any]:
        """The outcomes of items that go in one request; files are read in a thread."""
        if many.batch_size is not None:
            if not isinstance(group[0], np.ndarray):
                group = await asyncio.to_thread(lambda: [loaded(item) for item in group])
        elif not isinstance(group[0], np.ndarray):
            try:
                group = [await asyncio.to_thread(wire.read_pictures, group[0])]
            except (TypeError, OSError) as error:
                return [error]
        return await self._run(many.job(group))

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
        row = self._methods[step.place]
        method = row[next(self._turns) % len(row)][step.method]
        return await method(step.request, timeout=step.timeout, metadata=self._target.metadata)
