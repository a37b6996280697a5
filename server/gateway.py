"""The HTTP port, on the event loop of the server. Guarded as the gRPC port is; knows no models."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.config import Config
from server.ports import bound
from server.tls import context
from server.tokens import Refused, Tokens, tell_nobody

HEALTH = ("/livez", "/readyz")
CLOSE_SECONDS = 2  # for responses on their way; then their connections are cut
# The same for no token and for a wrong one.
WORDS = "this server wants a token: send the header 'Authorization: Bearer TOKEN' with one that it knows"
Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]


class Gateway:
    """An HTTP server. `bind`, then `serve`, then `close`."""

    def __init__(
        self,
        config: Config,
        tokens: Tokens | None,
        ready: Callable[[], bool],
        metrics: Exposition,
        routes: Sequence[Route] = (),
        refused: Refused = tell_nobody,
    ):
        """tokens: who may ask; None: everybody. ready: what /readyz says. routes: what else is answered.

        metrics: gives what /metrics answers, and its content type, for the value of the header `accept`.
        refused: is told of requests without a token.
        """
        self.port = 0
        self._config, self._ready, self._metrics = config, ready, metrics
        app: ASGIApp = Starlette(
            routes=[
                *routes,
                Route("/livez", self._live),
                Route("/readyz", self._readiness),
                Route("/metrics", self._tell_metrics),
            ],
            exception_handlers={HTTPException: _fault},
        )
        self._app = app if tokens is None else _Guard(app, tokens, config.open_health, refused)
        self._tls = context(config)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def bind(self) -> None:
        """Takes the port; StartError where it cannot be had. Who connects waits for `serve`."""
        # Only among siblings is a port shared: else a second server would take half the requests.
        self._socket = bound(self._config, self._config.http_port, shared=self._config.lifeline >= 0)
        self.port = self._socket.getsockname()[1]

    async def serve(self) -> None:
        """Answers from now on."""
        tls = self._tls
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http="h11",
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                log_level="error",
                timeout_graceful_shutdown=CLOSE_SECONDS,
                ssl_context_factory=None if tls is None else lambda *_: tls,
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        started = asyncio.create_task(self._server.answering.wait())
        await asyncio.wait({started, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            await self._serving  # raises what kept it from starting

    def address(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return self._config.address(self.port)

    async def close(self) -> None:
        """Finishes the requests in progress; idle connections are closed."""
        if self._server and self._serving:
            self._server.should_exit = True
            await self._serving
        elif self.port:
            self._socket.close()

    async def _live(self, _request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _readiness(self, _request: Request) -> Response:
        ready = self._ready()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    async def _tell_metrics(self, request: Request) -> Response:
        body, kind = await self._metrics(request.headers.get("accept", ""))
        return Response(body, media_type=kind)


class _Server(uvicorn.Server):
    """Signals are the whole server's business, not this port's."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.answering = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answering.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Guard:
    """Stands before every path."""

    def __init__(self, app: ASGIApp, tokens: Tokens, open_health: bool, refused: Refused):
        self._app, self._tokens, self._open_health, self._refused = app, tokens, open_health, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if not (self._open_health and scope["path"] in HEALTH):
            sent = [value.decode("latin-1") for key, value in scope["headers"] if key == b"authorization"]
            if not self._tokens.know(sent):
                self._refused("http/", "UNAUTHENTICATED")
                app = JSONResponse({"error": WORDS}, 401, {"www-authenticate": "Bearer"})
        await app(scope, receive, send)


async def _fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
    words = {
        404: f"no {request.url.path[:200]!r} here; GET /docs or /openapi.json lists what there is",
        405: f"{request.method[:20]} is not possible here; {allowed or 'GET'} is",
    }
    return JSONResponse({"error": words.get(error.status_code, error.detail)}, error.status_code, error.headers)
