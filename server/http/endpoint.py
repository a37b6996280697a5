"""One path of the HTTP port: a call that is counted, bounded, told its status, and dropped when its caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from server.config import Config
from server.errors import NotAllowed, ServingError
from server.http import body, faults
from server.interceptor import REQUEST_ID, Call, Interceptor, carried


@dataclass(frozen=True)
class Arrived:
    """A request that is here in full. path: what its path names; body: as its sender meant it."""

    path: dict[str, str]
    query: QueryParams
    headers: Headers
    body: bytearray


Handler = Callable[[Arrived, Call], Coroutine[Any, Any, Response]]


def refuse_other_sites(arrived: Arrived, what: str) -> None:
    """NotAllowed where a browser brings a wish to change something from somebody else's page."""
    if arrived.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise NotAllowed(f"a page of another site may not {what} here")


@dataclass(frozen=True)
class Operation:
    """One method of one path. name: what metrics and the log call it, and the document that describes it."""

    verb: str
    path: str
    name: str
    handler: Handler


class Endpoint:
    """An operation as an ASGI application."""

    def __init__(self, operation: Operation, calls: Interceptor, config: Config):
        self._operation, self._calls, self._config = operation, calls, config

    def route(self) -> Route:
        """Where it is answered."""
        return Route(self._operation.path, self, methods=[self._operation.verb], name=self._operation.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def tell(fault: ServingError) -> None:
            response = faults.response(fault)
            response.headers[REQUEST_ID] = call.request_id
            await response(scope, receive, send)

        call = Call(f"http/{self._operation.name}", carried=carried(Headers(scope=scope).items()))
        try:
            async with self._calls.watched(call, tell):
                response = await self._answer(Request(scope), receive, call)
                response.headers[REQUEST_ID] = call.request_id
                await response(scope, receive, send)
        except body.CallerLeftError:
            pass  # it is counted as cancelled

    async def _answer(self, request: Request, receive: Receive, call: Call) -> Response:
        content = bytearray()
        if self._operation.verb != "GET":
            content = await body.read(request.headers, receive, self._config)
        arrived = Arrived(request.path_params, request.query_params, request.headers, content)
        answer = self._operation.handler(arrived, call)
        return await (answer if self._operation.verb == "GET" else _unless_gone(answer, receive()))


async def _unless_gone(answer: Coroutine[Any, Any, Response], gone: Awaitable[Any]) -> Response:
    """The answer; CallerLeftError, and the work for it is dropped, where its caller leaves before."""
    working, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(gone)
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise body.CallerLeftError
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working, leaving  # a fault's trace leads here, and the task to the fault: a cycle
