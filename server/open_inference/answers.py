"""Probabilities as a ModelInferResponse: raw, typed, or as the text of the classification extension."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server import wire
from server.errors import InvalidInput, Unsupported
from server.lanes import Answer
from server.open_inference import parameters
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.open_inference.tensors import SHARED_MEMORY
from server.versions import Served

OUTPUT = "probabilities"
MOST_TEXTS = 1_000_000  # classes as text in one answer: a second of work, and more than anybody reads


@dataclass(frozen=True)
class Wanted:
    """What a request wants of its answer. classes: 0 for probabilities, else how many classes as text."""

    id: str
    classes: int
    typed: bool

    def texts(self, rows: int) -> int:
        """How many classes are written as text."""
        return rows * self.classes


def wanted(request: pb.ModelInferRequest, served: Served) -> Wanted:
    """What the request asks for; InvalidInput where the model does not give that."""
    if len(request.outputs) > 1:
        raise InvalidInput(f"the request asks for {len(request.outputs)} outputs; the model gives one, {OUTPUT!r}")
    classes = 0
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidInput(f"the request asks for output {output.name[:64]!r}; the model gives one, {OUTPUT!r}")
        if SHARED_MEMORY in output.parameters:
            raise Unsupported("this server has no shared memory: take the tensor from the reply")
        if "classification" in output.parameters:
            classes = parameters.whole(output.parameters, "classification")
            if classes < 1:
                raise InvalidInput(f"the parameter 'classification' is {classes}; it must be 1 or more classes")
    typed = parameters.flag(request.parameters, "typed_output")
    return Wanted(request.id, min(classes, served.model.classes), typed)


def check(want: Wanted, rows: int) -> None:
    """InvalidInput where an answer of so many rows would be more text than the server writes."""
    if want.texts(rows) > MOST_TEXTS:
        raise InvalidInput(
            f"the request asks for {want.classes} classes of {rows} rows as text; the most is {MOST_TEXTS} in all: ask "
            "for fewer, or for the probabilities themselves"
        )


def write(answer: Answer, want: Wanted, served: Served) -> pb.ModelInferResponse:
    """The answer; InvalidInput names a row that has no finite probabilities."""
    probabilities, _ = wire.split(answer.rows, served.model.classes)
    wire.winners(probabilities)
    response = pb.ModelInferResponse(model_name=served.name, model_version=str(served.version), id=want.id)
    _say_where_from(response, answer, served)
    if want.classes:
        _put_texts(response, _texts(probabilities, want.classes, served.model.labels), want)
    else:
        _put_probabilities(response, probabilities, want)
    return response


def _say_where_from(response: pb.ModelInferResponse, answer: Answer, served: Served) -> None:
    response.parameters["sha256"].string_param = served.model.sha256
    response.parameters["provider"].string_param = served.model.provider
    response.parameters["queue_us"].int64_param = round(answer.queue_seconds * 1e6)
    response.parameters["compute_us"].int64_param = round(answer.compute_seconds * 1e6)
    response.parameters["batch_rows"].int64_param = answer.batch_rows


def _put_probabilities(response: pb.ModelInferResponse, rows: np.ndarray, want: Wanted) -> None:
    if rows.nbytes > wire.MOST_ANSWER - (1 << 20):
        raise InvalidInput(
            f"the answer would have {len(rows)} rows of {rows.nbytes // len(rows)} bytes, more than one message holds; "
            "send fewer rows"
        )
    output = response.outputs.add(name=OUTPUT, datatype="FP32", shape=rows.shape)
    flat = np.ascontiguousarray(rows, "<f4")
    if want.typed:
        output.contents.fp32_contents.extend(flat.ravel().tolist())
    else:
        response.raw_output_contents.append(flat.tobytes())


def _put_texts(response: pb.ModelInferResponse, texts: list[bytes], want: Wanted) -> None:
    size = sum(map(len, texts)) + 8 * len(texts)
    if size > wire.MOST_ANSWER - (1 << 20):
        raise InvalidInput(f"the answer would have {size} bytes, more than one message holds; ask for fewer classes")
    shape = [len(texts) // want.classes, want.classes]
    output = response.outputs.add(name=OUTPUT, datatype="BYTES", shape=shape)
    if want.typed:
        output.contents.bytes_contents.extend(texts)
    else:
        response.raw_output_contents.append(b"".join(len(text).to_bytes(4, "little") + text for text in texts))


def _texts(rows: np.ndarray, classes: int, labels: tuple[str, ...]) -> list[bytes]:
    """ "probability:index:label", the most probable classes of each row first."""
    ranked = np.argsort(-rows, axis=1, kind="stable")[:, :classes]
    values = np.take_along_axis(rows, ranked, axis=1)
    return [
        f"{value:.6f}:{index}:{labels[index]}".encode()
        for value, index in zip(values.ravel().tolist(), ranked.ravel().tolist(), strict=True)
    ]
