"""What there is to say of a version in the protocol's words: metadata, configuration, statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence

from server.config import Config
from server.model import InputSpec
from server.open_inference.answers import OUTPUT
from server.open_inference.parameters import PRIORITIES
from server.open_inference.stubs import grpc_service_pb2 as pb
from server.open_inference.tensors import datatype
from server.versions import Entry, Served

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
_TYPES = {"UINT8": pb.TYPE_UINT8, "FP32": pb.TYPE_FP32}
_INT32 = (1 << 31) - 1


def metadata(served: Served, versions: Sequence[int], settings: Config) -> pb.ModelMetadataResponse:
    """What a version takes and gives; its shapes have the batch dimension."""
    spec, tensor = served.model.input, pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=served.name,
        versions=map(str, versions),
        platform=PLATFORM,
        inputs=[tensor(name=spec.name, datatype=datatype(spec.dtype), shape=[-1, *spec.row])],
        outputs=[tensor(name=OUTPUT, datatype="FP32", shape=[-1, served.model.classes])],
        properties=_kept(served) if settings.metadata_properties else {},
    )


def config(served: Served, settings: Config) -> pb.ModelConfig:
    """How a version is served; its shapes have no batch dimension."""
    spec, model = served.model.input, served.model
    return pb.ModelConfig(
        name=served.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=min(settings.max_request_rows, _INT32),
        input=[pb.ModelInput(name=spec.name, data_type=_type(spec), format=_format(spec), dims=spec.row)],
        output=[pb.ModelOutput(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[model.classes])],
        default_model_filename="model.onnx",
        dynamic_batching=_batching(settings),
        parameters={name: pb.ModelParameter(string_value=text) for name, text in _kept(served).items()},
    )


def statistics(served: Served) -> pb.ModelStatistics:
    """What became of a version's requests and batches. What it takes of memory is not said: nobody measures that."""
    counts = served.statistics
    done, batches = counts.requests, counts.batches
    return pb.ModelStatistics(
        name=served.name,
        version=str(served.version),
        last_inference=int(counts.last * 1000),
        inference_count=counts.rows,
        execution_count=batches,
        inference_stats=pb.InferStatistics(
            success=_duration(done, counts.seconds),
            fail=_duration(counts.failures, counts.failure_seconds),
            queue=_duration(done, counts.queue_seconds),
            compute_input=_duration(counts.moves, counts.input_seconds),
            compute_infer=_duration(done, counts.compute_seconds),
            compute_output=_duration(counts.moves, counts.output_seconds),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(*found)) for size, found in counts.sizes()
        ],
    )


def _kept(served: Served) -> dict[str, str]:
    """What else there is to know of a version."""
    model = served.model
    return {"labels": json.dumps(model.labels), "sha256": model.sha256, "provider": model.provider}


def index(entry: Entry) -> pb.RepositoryIndexResponse.ModelIndex:
    """A version in the list of all."""
    return pb.RepositoryIndexResponse.ModelIndex(
        name=entry.name, version=str(entry.version), state=entry.state.name, reason=entry.reason
    )


def _batching(settings: Config) -> pb.ModelDynamicBatching:
    return pb.ModelDynamicBatching(
        max_queue_delay_microseconds=round(settings.batch_window_ms * 1000),
        priority_levels=PRIORITIES,
        default_priority_level=1,
        default_queue_policy=pb.ModelQueuePolicy(
            timeout_action=pb.ModelQueuePolicy.REJECT, allow_timeout_override=True
        ),
    )


def _type(spec: InputSpec) -> pb.DataType.ValueType:
    return _TYPES[datatype(spec.dtype)]


def _format(spec: InputSpec) -> pb.ModelInput.Format.ValueType:
    colour = spec.is_picture and len(spec.row) == 3
    return pb.ModelInput.FORMAT_NHWC if colour else pb.ModelInput.FORMAT_NONE


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))
