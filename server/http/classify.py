"""Pictures to labels with nothing but HTTP: `POST /v1/models/{model}:classify`."""

from __future__ import annotations

import asyncio
import binascii
import re
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response

from server import checks
from server.config import Config
from server.errors import InvalidInput
from server.http import documents, multipart
from server.http.documents import Documents, field, plain, what
from server.http.endpoint import Arrived, Operation
from server.interceptor import Call
from server.service import InferenceService
from topclass.v1 import inference_pb2 as pb

QUERY = ("top_k", "version", "alias", "sha256", "priority", "probabilities", "labels")
_LARGE = 64 << 10  # bytes of a body, or of an answer, from which it is taken apart or written in a thread


class ClassifyRoutes:
    """The operations under /v1. Each is one Predict of topclass.v1."""

    def __init__(self, service: InferenceService, reader: Documents, config: Config):
        self._service, self._reader, self._config = service, reader, config

    def operations(self) -> list[Operation]:
        """All of them."""
        model = "/v1/models/{model}"
        starts = (model, f"{model}/versions/{{version}}", f"{model}/aliases/{{alias}}")
        return [Operation("POST", f"{start}:classify", "Classify", self._classify) for start in starts]

    async def _classify(self, arrived: Arrived, call: Call) -> Response:
        request = self._request(arrived.path, arrived.query)
        request.images.SetInParent()
        request.images.images.extend(await self._pictures(arrived))
        answer = await self._service.answer(request, memoryview(b""), call)
        if len(answer) < _LARGE:
            return Response(_json(answer), media_type=documents.JSON)
        return Response(await asyncio.to_thread(_json, answer), media_type=documents.JSON)

    def _request(self, path: dict[str, str], query: QueryParams) -> pb.PredictRequest:
        """What path and query ask for; InvalidInput for what they may not say, or say twice."""
        said = path | {name: value for name, value in query.items() if name not in path}
        if unknown := [name for name in query if name not in QUERY]:
            raise InvalidInput(f"the query says {unknown[0][:64]!r}; it may say {', '.join(QUERY)}")
        if twice := [name for name in query if name in path or len(query.getlist(name)) > 1]:
            raise InvalidInput(f"the request says {twice[0]!r} twice")
        return pb.PredictRequest(
            model=said["model"],
            version=checks.version(said.get("version", "")),
            alias=said.get("alias", ""),
            model_sha256=said.get("sha256", ""),
            top_k=_number(said, "top_k"),
            priority=_number(said, "priority"),
            omit_probabilities=not _flag(said, "probabilities", "true"),
            include_labels=_flag(said, "labels", "false"),
        )

    async def _pictures(self, arrived: Arrived) -> list[bytes]:
        kind = arrived.headers.get("content-type", "")
        essence = kind.partition(";")[0].strip().lower()
        if essence == "multipart/form-data":
            if len(arrived.body) < _LARGE:
                return multipart.files(bytes(arrived.body), kind, self._config.max_request_rows)
            return await asyncio.to_thread(multipart.files, bytes(arrived.body), kind, self._config.max_request_rows)
        if essence == documents.JSON:
            return await self._listed(await self._reader.read(arrived.body))
        if essence.startswith("image/"):
            return [bytes(arrived.body)]
        raise InvalidInput(
            f"the body's content-type is {essence[:64]!r}; it must be multipart/form-data with files, {documents.JSON} "
            "with a list of pictures in base64, or image/… for one picture"
        )

    async def _listed(self, document: Any) -> list[bytes]:
        if isinstance(document, dict):
            document = field(document, "images", list, [])
        if not isinstance(document, list):
            raise InvalidInput(f"the body is {what(document)}; it must be a list of pictures in base64")
        checks.count(self._config, len(document))
        return await asyncio.to_thread(lambda: [_picture(index, text) for index, text in enumerate(document)])


def _picture(index: int, text: Any) -> bytes:
    if not isinstance(text, str):
        raise InvalidInput(f"picture {index} is {what(text)}; it must be text in base64", row=index)
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidInput(f"picture {index} is not in base64: {error}", row=index) from error


def _number(said: dict[str, str], name: str) -> int:
    text = said.get(name, "0")
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InvalidInput(f"{name} is {text[:64]!r}; it must be a whole number from 0")
    return int(text)


def _flag(said: dict[str, str], name: str, usual: str) -> bool:
    text = said.get(name, usual)
    if text not in ("true", "false"):
        raise InvalidInput(f"{name} is {text[:64]!r}; it must be true or false")
    return text == "true"


def _json(answer: bytes) -> bytes:
    """A serialized PredictResponse; lists that were not asked for are left out."""
    response = pb.PredictResponse.FromString(answer)
    document = plain(response)
    document["predictions"] = [_without_empty(row) for row in document["predictions"]]
    return documents.write(_without_empty(document) | {"predictions": document["predictions"]})


def _without_empty(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if not (hasattr(value, "__len__") and len(value) == 0)}
