"""For the tests of the HTTP port: requests made in one line, by the standard library's client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.conftest import LiveServer

JSON = {"content-type": "application/json"}
HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which says that it is JSON, and is."""
        assert self.headers["content-type"] == "application/json"
        return strict(self.body)

    @property
    def error(self) -> str:
        """The words of a refusal."""
        [(name, words)] = self.json.items()
        assert name == "error"
        assert isinstance(words, str)
        return words


def strict(text: bytes) -> Any:
    """The object in a document that has neither NaN nor Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def ask(
    server: LiveServer,
    path: str,
    body: bytes | str | Mapping[str, Any] | list[Any] | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "",
) -> Reply:
    """One request: GET without a body, POST with one; a list or dict is sent as JSON, an iterable in chunks."""
    assert server.app.gateway is not None
    connection = http.client.HTTPConnection("127.0.0.1", server.app.gateway.port, timeout=30)
    if isinstance(body, (dict, list)):
        body, headers = json.dumps(body), JSON | dict(headers or {})
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def behind(document: Mapping[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of the binary extension, and its header."""
    head = json.dumps(document).encode()
    return b"".join((head, *tensors)), {HEADER_LENGTH: str(len(head))}


def form(*files: bytes, boundary: str = "xx") -> tuple[bytes, dict[str, str]]:
    """A body of multipart/form-data with these files, and its header."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{index}.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + file
        + b"\r\n"
        for index, file in enumerate(files)
    ]
    body = b"".join((*parts, f"--{boundary}--\r\n".encode()))
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}
