"""From arrays and pictures to the bytes of a request, and from the bytes of an answer to arrays. No gRPC here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from topclass import rows
from topclass.forms import Unusual
from topclass.results import InputSpec, ModelDetails, ModelInfo, Ranked, Result, Timing
from topclass.rows import Rows
from topclass.v1 import inference_pb2 as pb

Inputs: TypeAlias = NDArray[Any] | Sequence[str | Path | bytes]
"""An array (uint8 pictures or float rows), or picture files: their paths or their bytes."""

# Serialized messages concatenate: these bytes behind any PredictRequest set its include_labels (field 8) to true.
INCLUDE_LABELS = b"\x40\x01"
_MOST_BYTES = (1 << 31) - (1 << 16)  # of elements: a message, which has more than these, holds 2 GiB
_SMALL = 512  # bytes of an answer that has few rows for certain; the library is the faster
# grpc.health.v1.HealthCheckResponse.ServingStatus, by number.
_HEALTH = ("unknown", "serving", "not serving", "service unknown")


@dataclass(frozen=True, slots=True)
class Query:
    """What a Predict asks beside its inputs."""

    model: str = ""
    version: int = 0
    alias: str = ""
    sha256: str | None = None
    top_k: int = 0
    probabilities: bool = True
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Dense:
    """An array as it is sent: its elements lie, row-major and little-endian, in `pieces`, one behind the other."""

    dtype: int
    shape: tuple[int, ...]
    pieces: tuple[NDArray[Any], ...]

    @property
    def rows(self) -> int | None:
        """How many rows; None for a single number."""
        return self.shape[0] if self.shape else None


Prepared: TypeAlias = Dense | list[bytes]


def prepared(inputs: Inputs) -> Prepared:
    """What to send: an array, or the bytes of picture files. TypeError or OSError where these inputs cannot be."""
    if isinstance(inputs, np.ndarray):
        dtype, array = _sendable(inputs)
        return Dense(dtype, inputs.shape, (array,))
    return read_pictures(inputs)


def stacked(rows: Sequence[NDArray[Any]]) -> Dense:
    """Rows of one dtype and shape as one batch, without copying them. TypeError where they cannot be sent."""
    pieces = [_sendable(row) for row in rows]
    return Dense(pieces[0][0], (len(rows), *rows[0].shape), tuple(array for _, array in pieces))


def predict_request(inputs: Prepared, query: Query, *, labels: bool = False) -> bytes:
    """The bytes of one PredictRequest; elements are copied once. `labels`: the answer shall have those of the model."""
    more = INCLUDE_LABELS if labels else b""
    if isinstance(inputs, Dense):
        size = sum(piece.nbytes for piece in inputs.pieces)
        elements: tuple[Any, ...] = inputs.pieces  # each a buffer, which numpy's types do not say
        return b"".join((_head(query, inputs.dtype, inputs.shape, size), *elements, more))
    # An empty list is an empty batch, not a request without input: the message `images` is there, and empty.
    images = pb.EncodedImages(images=inputs).SerializeToString()
    return b"".join((_rest(query), b"\x2a", _varint(len(images)), images, more))


@lru_cache(maxsize=256)
def _head(query: Query, dtype: int, shape: tuple[int, ...], size: int) -> bytes:
    """All of a PredictRequest that stands before the `size` bytes of its tensor's elements."""
    if size > _MOST_BYTES:
        raise ValueError(f"the inputs have {size:,} bytes, more than one message holds (2 GiB); send fewer rows")
    tensor = pb.Tensor(dtype=pb.DataType.ValueType(dtype), shape=shape).SerializeToString()
    tensor += b"\x1a" + _varint(size)
    return _rest(query) + b"\x22" + _varint(len(tensor) + size) + tensor


def _rest(query: Query) -> bytes:
    return pb.PredictRequest(
        model=query.model,
        version=query.version,
        alias=query.alias,
        priority=query.priority,
        model_sha256=query.sha256 or "",
        top_k=query.top_k,
        omit_probabilities=not query.probabilities,
    ).SerializeToString()


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def _sendable(array: NDArray[Any]) -> tuple[int, NDArray[Any]]:
    """The number of the array's type on the wire, and its elements row-major, copied only where they are not."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("the inputs are a masked array, and a mask cannot be sent: fill it first (x.filled(…))")
    if array.dtype == np.uint8:
        return pb.DATA_TYPE_UINT8, np.ascontiguousarray(array)
    if array.dtype.kind == "f" and array.dtype.itemsize in (4, 8):
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and the server names its row
            return pb.DATA_TYPE_FLOAT32, np.ascontiguousarray(array, "<f4")
    raise TypeError(
        f"the inputs are an array of {array.dtype}, and nothing is converted in silence: "
        "pictures are uint8 from 0 to 255 (x.astype(np.uint8)), tables float32 (x.astype(np.float32))"
    )


def read_pictures(inputs: Sequence[str | Path | bytes]) -> list[bytes]:
    """The bytes of each picture file, undecoded. TypeError where there is something else, OSError from the files."""
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(
            f"the inputs are a {type(inputs).__name__}; expected a numpy array, "
            "or a list of picture files (paths or bytes)"
        )
    return [_encoded_picture(picture, index) for index, picture in enumerate(inputs)]


def _encoded_picture(picture: str | Path | bytes, index: int) -> bytes:
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, (str, Path)):
        return Path(picture).read_bytes()
    cure = "np.stack(the list)" if isinstance(picture, np.ndarray) else "a numpy array of them all"
    raise TypeError(
        f"inputs[{index}] is a {type(picture).__name__}; a list holds picture files, by path or as bytes. "
        f"For numbers, send {cure}"
    )


class Malformed(ValueError):
    """The bytes of an answer are not what they must be; the words say what is wrong."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One PredictResponse, parsed; `message` is all of it but its predictions."""

    message: pb.PredictResponse
    rows: Rows

    @property
    def sha256(self) -> str:
        """The sha256 of the model file that answered."""
        return self.message.model_sha256

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all classes, or none unless the request asked for them."""
        return tuple(self.message.labels)

    def result(self, labels: tuple[str, ...], sent: int | None = None) -> Result:
        """The answer as arrays; `labels` are those of the model file that answered, `sent` the rows it was asked.

        Malformed where the numbers of rows, or of labels and classes, are not the same.
        """
        message, rows = self.message, self.rows
        count, classes = rows.probabilities.shape
        if sent is not None and count != sent:
            raise Malformed(f"it has {count} predictions for {sent} rows")
        if labels and classes and len(labels) != classes:
            raise Malformed(f"it has {classes} probabilities in a row for {len(labels)} labels")
        return Result(
            labels=labels,
            top_class=rows.top_class,
            top_label=rows.top_label,
            probability=rows.probability,
            probabilities=rows.probabilities,
            top_k=_rankings(message),
            ood_score=rows.ood_score,
            out_of_distribution=rows.out_of_distribution,
            model=message.model,
            version=message.version,
            sha256=message.model_sha256,
            provider=message.provider,
            timing=Timing(message.timing.queue_us, message.timing.compute_us, message.timing.batch_rows),
        )


def read_reply(data: bytes) -> Reply:
    """The reply in the bytes of a PredictResponse; Malformed where they are none."""
    if len(data) >= _SMALL:
        with contextlib.suppress(Unusual, DecodeError):  # the library decides what is no message
            read, end = rows.read(data)
            message = pb.PredictResponse.FromString(data[end:])
            if not message.predictions:  # otherwise they do not stand together
                return Reply(message, read)
    try:
        message = pb.PredictResponse.FromString(data)
    except DecodeError as error:
        raise Malformed("it is not a topclass.v1.PredictResponse") from error
    return Reply(message, _rows(message))


def _rows(message: pb.PredictResponse) -> Rows:
    """The same by the library, for few rows and for unusual ones."""
    found = message.predictions
    count = len(found)
    probabilities = [row.probabilities for row in found]
    classes = len(probabilities[0]) if found else 0
    scored = bool(found) and found[0].HasField("ood_score")
    for index, row in enumerate(found):
        if len(probabilities[index]) != classes or row.HasField("ood_score") != scored:
            raise Malformed(f"row {index} has other fields than row 0")
    cells = np.fromiter(chain.from_iterable(probabilities), np.float32, count * classes)
    return Rows(
        top_class=np.array([row.top_class for row in found], np.int64),
        top_label=tuple([row.label for row in found]),
        probability=np.array([row.probability for row in found], np.float32),
        probabilities=cells.reshape(count, classes),
        ood_score=np.array([row.ood_score for row in found], np.float32) if scored else None,
        out_of_distribution=np.array([row.out_of_distribution for row in found], np.bool_),
    )


def _rankings(message: pb.PredictResponse) -> tuple[tuple[Ranked, ...], ...]:
    if not message.predictions or not message.predictions[0].top_k:
        return ()
    return tuple(
        tuple(Ranked(entry.class_index, entry.label, entry.probability) for entry in row.top_k)
        for row in message.predictions
    )


def model_request(model: str, version: int) -> bytes:
    """The bytes of one GetModelRequest."""
    return pb.GetModelRequest(model=model, version=version).SerializeToString()


def read_models(data: bytes) -> list[ModelInfo]:
    """The models in the bytes of a ListModelsResponse."""
    return [_model_info(model) for model in pb.ListModelsResponse.FromString(data).models]


def read_model(data: bytes) -> ModelDetails:
    """The model in the bytes of a GetModelResponse."""
    message = pb.GetModelResponse.FromString(data)
    return ModelDetails(
        info=_model_info(message.model),
        input=InputSpec(
            name=message.input.name,
            dtype=_word(pb.DataType.Name(message.input.dtype), "DATA_TYPE_"),
            shape=tuple(None if size < 0 else size for size in message.input.shape),
        ),
        labels=tuple(message.labels),
        card=json.loads(message.card_json) if message.card_json else {},
        max_rows=message.max_rows,
    )


def _model_info(model: pb.Model) -> ModelInfo:
    return ModelInfo(
        name=model.name,
        version=model.version,
        state=_word(pb.ModelState.Name(model.state), "MODEL_STATE_"),
        reason=model.reason,
        sha256=model.sha256,
        provider=model.provider,
        newest=model.newest,
        aliases=tuple(model.aliases),
    )


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def health_request(service: str) -> bytes:
    """The bytes of one grpc.health.v1.HealthCheckRequest: its only field, 1, is the service's name."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError(f"the name of the service has {len(name)} bytes; at most 127 are allowed")
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def read_health(data: bytes) -> str:
    """The status in the bytes of a HealthCheckResponse, whose only field, 1, is a small enum; 0 is not written."""
    number = data[1] if len(data) == 2 and data[0] == 0x08 else 0
    return _HEALTH[number] if number < len(_HEALTH) else "unknown"
