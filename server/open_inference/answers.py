"""Probabilities as a ModelInferResponse: raw, typed, or as the text of the classification extension."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server import predictions, wire
from server.errors import InvalidInput
from server.lanes import Answer
from server.open_inference import parameters, shared_memory
from server.open_inference.shared_memory import Place, Regions
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.versions import Served

OUTPUT = "probabilities"
_FLOAT = 4  # bytes
MOST_TEXTS = 1_000_000  # classes as text in one answer: a second of work, and more than anybody reads


@dataclass(frozen=True)
class Wanted:
    """What a request wants of its answer.

    classes: 0 for probabilities, else how many classes as text. place: where in shared memory; None: in the reply.
    """

    id: str
    classes: int
    typed: bool
    place: Place | None

    def texts(self, rows: int) -> int:
        """How many classes are written as text."""
        return rows * self.classes


def wanted(request: pb.ModelInferRequest, served: Served, regions: Regions | None) -> Wanted:
    """What the request asks for; InvalidInput where the model does not give that. regions: see tensors.rows."""
    if len(request.outputs) > 1:
        raise InvalidInput(f"the request asks for {len(request.outputs)} outputs; the model gives one, {OUTPUT!r}")
    classes, place = 0, None
    for output in request.outputs:
        if output.name != OUTPUT:
            raise InvalidInput(f"the request asks for output {output.name[:64]!r}; the model gives one, {OUTPUT!r}")
        place = shared_memory.place(output.parameters, regions)
        if "classification" in output.parameters:
            classes = parameters.whole(output.parameters, "classification")
            if classes < 1:
                raise InvalidInput(f"the parameter 'classification' is {classes}; it must be 1 or more classes")
    typed = parameters.flag(request.parameters, "typed_output") and not place
    return Wanted(request.id, min(classes, served.model.classes), typed, place)


def check(want: Wanted, rows: int, served: Served) -> None:
    """InvalidInput where an answer of so many rows is more text than the server writes, or than its place can hold."""
    if want.place and not want.classes:
        shared_memory.fits(want.place, rows * served.model.classes * _FLOAT)
    if want.texts(rows) > MOST_TEXTS:
        raise InvalidInput(
            f"the request asks for {want.classes} classes of {rows} rows as text; the most is {MOST_TEXTS} in all: ask "
            "for fewer, or for the probabilities themselves"
        )


async def put_away(response: pb.ModelInferResponse, want: Wanted, regions: Regions | None) -> None:
    """Moves the answer to where in shared memory it is wanted, if it is; its entry among the raw ones stays, empty.

    Triton keeps that entry too, and its C++ client crashes without it.
    """
    if not want.place or not regions:
        return
    [output] = response.outputs
    [data] = response.raw_output_contents
    await regions.write(want.place, data)
    response.raw_output_contents[:] = [b""]
    output.parameters[shared_memory.REGION].string_param = want.place.region.name
    output.parameters[shared_memory.SIZE].int64_param = len(data)
    if want.place.offset:
        output.parameters[shared_memory.OFFSET].int64_param = want.place.offset


def write(answer: Answer, want: Wanted, served: Served) -> pb.ModelInferResponse:
    """The answer; InvalidInput names a row that has no finite probabilities."""
    probabilities, scores = predictions.split(answer.rows, served.model.classes)
    predictions.winners(probabilities)
    response = pb.ModelInferResponse(model_name=served.name, model_version=str(served.version), id=want.id)
    _say_where_from(response, answer, served)
    if scores is not None and served.model.ood_threshold is not None:
        _say_how_strange(response, scores, served.model.ood_threshold)
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


def _say_how_strange(response: pb.ModelInferResponse, scores: np.ndarray, threshold: float) -> None:
    """The rows' scores and verdicts, as text with commas: parameters hold no lists, and JSON no NaN."""
    strange = predictions.out_of_distribution(scores, threshold)
    response.parameters["ood_score"].string_param = ",".join([f"{score:.6g}" for score in scores.tolist()])
    response.parameters["out_of_distribution"].string_param = ",".join(["01"[each] for each in strange.tolist()])
    response.parameters["ood_threshold"].double_param = threshold


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
