"""The OpenAPI document of what the HTTP port answers. A test holds it to the operations that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import topclass
from server.http.classify import QUERY
from server.http.endpoint import Operation
from server.http.faults import OF_BODY, STATUS

Json = dict[str, Any]

_TEXT, _NUMBER, _FLAG, _OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": "object"}


def _many(items: Json) -> Json:
    return {"type": "array", "items": items}


def _of(*required: str, **properties: Json) -> Json:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_SHAPE = _many(_NUMBER)
SCHEMAS: dict[str, Json] = {
    "Error": _of("error", error=_TEXT | {"description": "What is wrong, and what would be right."}),
    "Classification": _of(
        "predictions", "model", "version",
        predictions=_many(_of(
            "top_class", "label", "probability",
            top_class=_NUMBER, label=_TEXT, probability={"type": "number"},
            probabilities=_many({"type": "number"}) | {"description": "Of every class, in order."},
            top_k=_many(_of(class_index=_NUMBER, label=_TEXT, probability={"type": "number"})),
            ood_score={"type": "number"}, out_of_distribution=_FLAG,
        )),
        model=_TEXT, version=_NUMBER, model_sha256=_TEXT, provider=_TEXT, labels=_many(_TEXT),
        timing=_of(queue_us=_NUMBER, compute_us=_NUMBER, batch_rows=_NUMBER),
    ),
    "Pictures": {"description": "Pictures in base64, as a list or as its one field.", "oneOf": [
        _many({"type": "string", "contentEncoding": "base64"}),
        _of("images", images=_many({"type": "string", "contentEncoding": "base64"})),
    ]},
    "InferRequest": _of(
        "inputs",
        id=_TEXT, parameters=_PARAMETERS,
        inputs=_many(_of(
            "name", "datatype", "shape",
            name=_TEXT, datatype={"enum": ["UINT8", "FP32"]}, shape=_SHAPE, parameters=_PARAMETERS,
            data={"type": "array", "description": "Numbers, flat or nested as the shape says."},
        )),
        outputs=_many(_of("name", name=_TEXT, parameters=_PARAMETERS)),
    ),
    "InferResponse": _of(
        "model_name", "model_version", "outputs",
        model_name=_TEXT, model_version=_TEXT, id=_TEXT,
        parameters=_PARAMETERS | {"description": "sha256, provider, queue_us, compute_us, batch_rows."},
        outputs=_many(_of(
            name=_TEXT, datatype={"enum": ["FP32", "BYTES"]}, shape=_SHAPE, parameters=_PARAMETERS,
            data={"type": "array"},
        )),
    ),
    "ServerMetadata": _of("name", "version", "extensions", name=_TEXT, version=_TEXT, extensions=_many(_TEXT)),
    "ModelMetadata": _of(
        name=_TEXT, versions=_many(_TEXT), platform=_TEXT,
        inputs=_many(_of(name=_TEXT, datatype=_TEXT, shape=_SHAPE)),
        outputs=_many(_of(name=_TEXT, datatype=_TEXT, shape=_SHAPE)),
    ),
    "ModelIndex": _many(_of(name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)),
}  # fmt: skip

_WHERE: dict[str, tuple[Json, str]] = {
    "model": (_TEXT, "The model's name."),
    "version": (_NUMBER, "Its version; without, the one that answers."),
    "region": (_TEXT, "The name that a part of shared memory has, or is to have."),
    "alias": (_TEXT, "The name of a version, such as champion."),
    "top_k": (_NUMBER, "So many of the most probable classes, ranked, for each picture."),
    "sha256": (_TEXT, "Answer only if the model file has it; 409 otherwise."),
    "priority": (_NUMBER, "0 goes first, 9 last."),
    "probabilities": (_FLAG, "Whether to send those of all classes; true unless said otherwise."),
    "labels": (_FLAG, "Whether to send the labels of all classes; false unless said otherwise."),
}

# For each operation: its summary, what its answer looks like, and what it takes.
_INFER = (
    "Tensors as JSON, or behind it as bytes: then the header Inference-Header-Content-Length is the length of the "
    "JSON, and each such input has the parameter binary_data_size. With length 0 the whole body is the one input. "
    "Parameters of the request: priority (1 first, 10 last), timeout (µs), binary_data_output; of an output: "
    "binary_data, classification (so many classes as text, value:index:label)."
)
_TAKEN: dict[str, tuple[str, str, Json, dict[str, Json]]] = {
    "Classify": (
        "Pictures to labels and probabilities",
        "Files of a form, pictures in base64, or one picture as the body. PNG, JPEG, WEBP, GIF or BMP; each is "
        "stretched to the model's size.",
        _ref("Classification"),
        {
            "multipart/form-data": _of(file=_many({"type": "string", "contentMediaType": "application/octet-stream"})),
            "application/json": _ref("Pictures"),
            "image/*": {"type": "string", "contentMediaType": "application/octet-stream"},
        },
    ),
    "ModelInfer": (
        "A batch through a model", _INFER, _ref("InferResponse"),
        {"application/json": _ref("InferRequest"), "application/octet-stream": {"type": "string"}},
    ),
    "ModelMetadata": ("What a model takes and gives", "Shapes begin with the batch, -1.", _ref("ModelMetadata"), {}),
    "ModelReady": ("Whether a model answers", "503 where it does not.", _of(name=_TEXT, ready=_FLAG), {}),
    "ModelConfig": ("How a model is served", "Labels, sha256 and provider are in its parameters.", _OBJECT, {}),
    "ModelStatistics": (
        "What became of requests", "Since each version was loaded, of every protocol together.",
        _of(model_stats=_many(_OBJECT)), {},
    ),
    "ServerMetadata": ("What this server is", "And the extensions that work here.", _ref("ServerMetadata"), {}),
    "ServerLive": ("Whether the server runs", "200 if it answers at all.", _of(live=_FLAG), {}),
    "ServerReady": ("Whether the server is ready", "503 where it is not.", _of(ready=_FLAG), {}),
    "Models": ("The models that answer", "By name.", _of(models=_many(_TEXT)), {}),
    "RepositoryIndex": (
        "Every version, its state and the reason", "With {\"ready\": true} only those that answer.", _ref("ModelIndex"),
        {"application/json": _of(ready=_FLAG)},
    ),
    "RepositoryModelLoad": (
        "Load a model", "Only where the server was started with --allow-control.", _OBJECT,
        {"application/json": _OBJECT},
    ),
    "RepositoryModelUnload": (
        "Unload a model", "Only where the server was started with --allow-control.", _OBJECT,
        {"application/json": _OBJECT},
    ),
    "SystemSharedMemoryStatus": (
        "Which shared memory is registered", "This and the two after it only where the server was started with "
        "--shared-memory. Tensors have the parameters shared_memory_region, _byte_size and _offset.",
        _many(_of(name=_TEXT, key=_TEXT, offset=_NUMBER, byte_size=_NUMBER)), {},
    ),
    "SystemSharedMemoryRegister": (
        "Name a part of a file in /dev/shm", "The file must be there, and long enough.", _OBJECT,
        {"application/json": _of("key", "byte_size", key=_TEXT, offset=_NUMBER, byte_size=_NUMBER)},
    ),
    "SystemSharedMemoryUnregister": (
        "Forget a name, or all", "One that is not there is no error.", _OBJECT, {"application/json": _OBJECT},
    ),
}  # fmt: skip
_GROUPS = {
    "/v1": "Pictures",
    "/v2/systemsharedmemory": "Shared memory",
    "/v2/models": "Models",
    "/v2/repository": "Repository",
    "/v2": "Server",
}
_REFUSED = {
    "400": "The request is wrong; the words say what was given and what would be right.",
    "401": "This server wants a token.",
    "404": "No such model or version; the words say which there are.",
    "408": "The body came too slowly.",
    "409": "Another model file than the one asked for, a name that is taken, or no server for that.",
    "413": "The body is too large.",
    "429": "The queue is full; Retry-After says when to come back.",
    "500": "A fault of the server; the words hold the request id that its log has.",
    "501": "A part of the protocol that this server does not have.",
    "503": "Not ready, or stopping.",
    "504": "The timeout passed before the request was computed.",
}

STATUSES = frozenset(STATUS.values()) | frozenset(OF_BODY.values())


def document(operations: Sequence[Operation]) -> Json:
    """The document of these operations, OpenAPI 3.1."""
    paths: Json = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.verb.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "topclass",
            "version": topclass.__version__,
            "description": "Image and table classifiers over HTTP: pictures to labels, and the Open Inference "
            "Protocol, version 2. Beside these there are /metrics for Prometheus, and /livez and /readyz for probes.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                status: {"description": words, "content": {"application/json": {"schema": _ref("Error")}}}
                for status, words in _REFUSED.items()
            },
        },
        "security": [{}, {"token": []}],
    }


def _operation(operation: Operation) -> Json:
    summary, description, answer, taken = _TAKEN[operation.name]
    named = [part.strip("{}").removesuffix("}:classify") for part in operation.path.split("/") if "{" in part]
    query = [name for name in QUERY if name not in named] if operation.name == "Classify" else []
    if "alias" in named:
        query.remove("version")
    elif "version" in named and query:
        query.remove("alias")
    found: Json = {
        "summary": summary,
        "description": description,
        "operationId": operation.verb.lower() + "".join(part.title() for part in operation.path.split("/") if part),
        "tags": [next(group for start, group in _GROUPS.items() if operation.path.startswith(start))],
        "parameters": [_parameter(name, "path") for name in named] + [_parameter(name, "query") for name in query],
        "responses": {"200": {"description": "Done.", "content": {"application/json": {"schema": answer}}}}
        | {status: {"$ref": f"#/components/responses/{status}"} for status in _REFUSED},
    }
    if taken:
        content = {kind: {"schema": schema} for kind, schema in taken.items()}
        found["requestBody"] = {
            "content": content,
            "required": not operation.name.startswith("Repository") and not operation.name.endswith("Unregister"),
        }
    return found


def _parameter(name: str, place: str) -> Json:
    schema, words = _WHERE[name]
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": words}
