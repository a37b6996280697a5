"""All that the HTTP port answers beside metrics and probes, as routes."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from server.config import Config
from server.http import documents, openapi, page
from server.http.classify import ClassifyRoutes
from server.http.documents import Documents
from server.http.endpoint import Endpoint
from server.http.memory import MemoryRoutes
from server.http.open_inference import OpenInferenceRoutes
from server.interceptor import Interceptor, Unary
from server.open_inference.service import OpenInferenceService
from server.service import InferenceService


def routes(
    service: InferenceService,
    open_inference: OpenInferenceService,
    methods: Mapping[str, Unary],
    calls: Interceptor,
    config: Config,
) -> list[Route]:
    """Routes to the two services that gRPC has. methods: the unary ones of open_inference by name, as it has them."""
    reader = Documents(config.max_json_bytes)
    field = OpenInferenceRoutes(open_inference, methods, reader)
    operations = [*ClassifyRoutes(service, reader, config).operations(), *field.operations()]
    operations += MemoryRoutes(methods, reader).operations()
    document = openapi.document(operations)
    text = page.html(document)

    async def describe(_request: Request) -> Response:
        return documents.response(document)

    async def show(_request: Request) -> Response:
        return HTMLResponse(text, headers=page.HEADERS)

    return [
        *(Endpoint(operation, calls, config).route() for operation in (*operations, *field.absent())),
        Route("/openapi.json", describe),
        Route("/docs", show),
    ]
