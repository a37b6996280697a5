"""Faults as HTTP: the one table of statuses, and a fault as a response."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from starlette.responses import JSONResponse

from server.errors import ServingError, TooLarge, TooSlow

STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# HTTP has a word of its own for these. After them the rest of the body may be on its way, so the connection ends.
OF_BODY: Mapping[type[ServingError], int] = {TooSlow: 408, TooLarge: 413}


def response(fault: ServingError) -> JSONResponse:
    """The status, `{"error": words}`, and what else the caller may want to know, as headers."""
    headers = {}
    if fault.row is not None:
        headers["topclass-row"] = str(fault.row)
    if fault.retry_after_ms or fault.code is grpc.StatusCode.UNAVAILABLE:
        headers["retry-after"] = str(max(1, -(-fault.retry_after_ms // 1000)))
    if type(fault) in OF_BODY:
        headers["connection"] = "close"
    return JSONResponse({"error": str(fault)}, OF_BODY.get(type(fault), STATUS[fault.code]), headers)
