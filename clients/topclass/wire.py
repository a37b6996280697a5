"""From arrays and pictures to the bytes of a request, and from the bytes of an answer to arrays. No gRPC here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from topclass.results import InputSpec, ModelDetails, ModelInfo, Ranked, Result, Timing
from topclass.v1 import inference_pb2 as pb

Inputs: TypeAlias = NDArray[Any] | Sequence[str | Path | bytes]
"""An array (uint8 pictures or float rows), or picture files: their paths or their bytes."""

# Serialized messages concatenate: these bytes behind any PredictRequest set its include_labels (field 8) to true.
INCLUDE_LABELS = b"\x40\x01"
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


def predict_request(inputs: Inputs, query: Query) -> bytes:
    """The bytes of one PredictRequest. TypeError or OSError where the inputs cannot be sent as they are."""
    message = pb.PredictRequest(
        model=query.model,
        version=query.version,
        alias=query.alias,
        priority=query.priority,
        model_sha256=query.sha256 or "",
        top_k=query.top_k,
        omit_probabilities=not query.probabilities,
    )
    if isinstance(inputs, np.ndarray):
        _fill_tensor(message.tensor, inputs)
    else:
        message.images.images.extend(read_pictures(inputs))
        message.images.SetInParent()  # an empty list is an empty batch, not a request without input
    return message.SerializeToString()


def _fill_tensor(tensor: pb.Tensor, array: NDArray[Any]) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("the inputs are a masked array, and a mask cannot be sent: fill it first (x.filled(…))")
    if array.dtype == np.uint8:
        tensor.dtype = pb.DATA_TYPE_UINT8
    elif array.dtype.kind == "f" and array.dtype.itemsize in (4, 8):
        tensor.dtype = pb.DATA_TYPE_FLOAT32
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and the server names its row
            array = array.astype("<f4", copy=False)
    else:
        raise TypeError(
            f"the inputs are an array of {array.dtype}, and nothing is converted in silence: "
            "pictures are uint8 from 0 to 255 (x.astype(np.uint8)), tables float32 (x.astype(np.float32))"
        )
    tensor.shape.extend(array.shape)
    tensor.data = array.tobytes()  # row-major, whatever the strides are


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


@dataclass(frozen=True, slots=True)
class Reply:
    """One PredictResponse, parsed; the labels are empty unless the request asked for them."""

    message: pb.PredictResponse

    @property
    def sha256(self) -> str:
        """The sha256 of the model file that answered."""
        return self.message.model_sha256

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all classes, or none."""
        return tuple(self.message.labels)

    def result(self, labels: tuple[str, ...]) -> Result:
        """The answer as arrays; `labels` are those of the model file that answered."""
        message, rows = self.message, self.message.predictions
        count = len(rows)
        return Result(
            labels=labels,
            top_class=np.fromiter((row.top_class for row in rows), np.int64, count),
            top_label=tuple([row.label for row in rows]),
            probability=np.fromiter((row.probability for row in rows), np.float32, count),
            probabilities=_matrix(message),
            top_k=_rankings(message),
            ood_score=_ood_scores(message),
            out_of_distribution=np.fromiter((row.out_of_distribution for row in rows), np.bool_, count),
            model=message.model,
            version=message.version,
            sha256=message.model_sha256,
            provider=message.provider,
            timing=Timing(message.timing.queue_us, message.timing.compute_us, message.timing.batch_rows),
        )


def read_reply(data: bytes) -> Reply:
    """The reply in the bytes of a PredictResponse."""
    return Reply(pb.PredictResponse.FromString(data))


def _matrix(message: pb.PredictResponse) -> NDArray[np.float32]:
    rows = message.predictions
    classes = len(rows[0].probabilities) if rows else 0
    cells = chain.from_iterable([row.probabilities for row in rows])
    return np.fromiter(cells, np.float32, len(rows) * classes).reshape(len(rows), classes)


def _rankings(message: pb.PredictResponse) -> tuple[tuple[Ranked, ...], ...]:
    if not message.predictions or not message.predictions[0].top_k:
        return ()
    return tuple(
        tuple(Ranked(entry.class_index, entry.label, entry.probability) for entry in row.top_k)
        for row in message.predictions
    )


def _ood_scores(message: pb.PredictResponse) -> NDArray[np.float32] | None:
    rows = message.predictions
    if not rows or not rows[0].HasField("ood_score"):
        return None
    return np.fromiter((row.ood_score for row in rows), np.float32, len(rows))


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
