"""Arbitrary bytes, and good requests with changed bytes, to every decoder: clean refusals, no fault, no hang, no leak.

`make fuzz` goes on for as long as wanted, guided by coverage; this is the short form for every run.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from server.config import Config
from server.errors import InvalidInput, ServingError
from server.images import Limits, decode
from server.interceptor import Call
from server.model import InputSpec
from server.service import InferenceService
from tests import models
from tests.conftest import LiveServer, start_server
from tests.server.test_predict import pictures, tensor
from topclass.v1 import inference_pb2 as pb

LIMITS = Limits(1 << 20, 1 << 20)
MIB = 1 << 20
SECONDS = 5  # for one call; on a busy machine most of it is waiting
# What a caller can do wrong. INTERNAL and UNKNOWN would be ours; nothing here may be either.
CALLERS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
}
METHODS = ("Predict", "PredictStream", "GetModel", "ListModels", "LoadModel", "UnloadModel")
quickly = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    """A picture file of 9 x 7 pixels."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


FILES = [
    picture("PNG"),
    picture("PNG", "L"),
    picture("PNG", "P"),
    picture("PNG", "RGBA"),
    picture("PNG", "1"),
    picture("JPEG"),
    picture("JPEG", "CMYK"),
    picture("JPEG", "L", progressive=True),
    picture("WEBP"),
    picture("WEBP", lossless=True),
    picture("GIF", "P"),
    picture("GIF", "P", save_all=True, append_images=[Image.new("P", (9, 7))]),
    picture("BMP"),
    picture("BMP", "P"),
]
ROWS = tensor(pictures(2))
REQUESTS = [
    pb.PredictRequest(model="pets", version=1, tensor=ROWS, top_k=2, include_labels=True, priority=3),
    pb.PredictRequest(images=pb.EncodedImages(images=FILES[:3]), omit_probabilities=True),
    pb.PredictRequest(model_sha256="0" * 64, tensor=ROWS),
    pb.PredictRequest(tensor=tensor(pictures(1500))),  # large enough for the decoder that does not copy
    pb.GetModelRequest(model="pets", version=1),
    pb.PredictStreamRequest(id="a", request=pb.PredictRequest(tensor=ROWS)),
]
SEEDS = [request.SerializeToString() for request in REQUESTS]


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds, in which some bytes are changed, inserted, repeated or cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["set", "insert", "cut", "repeat"])):
            case "set" if at < len(data):
                data[at] = draw(st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(max_size=12))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "repeat":
                data[at:at] = data[at : at + 20] * draw(st.integers(1, 5))
    return bytes(data)


anything = st.binary(max_size=200) | mutated(SEEDS)
numbers = st.integers(0, 2**32 - 1) | st.integers(0, 5)
tensors = st.builds(
    pb.Tensor,
    dtype=st.integers(0, 3),
    shape=st.lists(numbers, max_size=40),
    data=st.binary(max_size=64),
)
requests = st.builds(
    pb.PredictRequest,
    model=st.text(max_size=5),
    version=st.integers(0, 2**63),
    top_k=numbers,
    priority=st.integers(0, 12),
    include_labels=st.booleans(),
    omit_probabilities=st.booleans(),
    tensor=tensors,
) | st.builds(pb.PredictRequest, tensor=tensors)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One live server for all the examples."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    models.put(folder, "pets", 1, models.with_card(models.classifier()))
    live = start_server(
        Config(models=folder, grpc_port=0, device="cpu", workers=1, watch_seconds=0, stop_delay_seconds=0)
    )
    yield live
    live.close()


@pytest.fixture(scope="module")
def service(server: LiveServer) -> Iterator[InferenceService]:
    """Its service, without a transport."""
    with ThreadPoolExecutor(1) as decoders:
        yield InferenceService(server.app.repository, server.app.config, decoders)


def ask(server: LiveServer, service: InferenceService, method: str, message: bytes) -> grpc.StatusCode:
    """The status of one call, straight to the service. A fault of ours is raised; one that takes long fails."""
    before = time.monotonic()
    try:
        if method == "PredictStream":
            [reply] = server.run(_stream(service, message))
            error = pb.PredictStreamResponse.FromString(reply).error
            code = next(each for each in grpc.StatusCode if each.value[0] == error.code)
            words = error.message
        else:
            handler = getattr(service, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method).lower())  # ListModels → list_models
            server.run(handler(message, Call(method)))
            code, words = grpc.StatusCode.OK, ""
    except ServingError as error:
        code, words = error.code, str(error)
    assert time.monotonic() - before < SECONDS
    assert code is grpc.StatusCode.OK or (code in CALLERS and words)
    assert len(words.encode()) < 2100
    return code


async def _stream(service: InferenceService, message: bytes) -> list[bytes]:
    async def messages() -> AsyncIterator[bytes]:
        yield message

    return [reply async for reply in service.predict_stream(messages(), Call("PredictStream"))]


@pytest.mark.parametrize("method", METHODS)
def test_arbitrary_and_damaged_bytes_are_answered_or_refused_as_the_callers_mistake(
    server: LiveServer, service: InferenceService, method: str
) -> None:
    """Every method, any bytes: an answer, or a status of the caller's with words; never our fault, never a hang."""

    @quickly
    @given(anything)
    def check(message: bytes) -> None:
        ask(server, service, method, message)

    check()


def test_any_request_that_can_be_parsed_is_answered_or_refused_as_the_callers_mistake(
    server: LiveServer, service: InferenceService
) -> None:
    """Requests with any number in any field: an answer, or a status of the caller's with words."""

    @quickly
    @given(requests)
    def check(request: pb.PredictRequest) -> None:
        ask(server, service, "Predict", request.SerializeToString())

    check()


def test_a_real_channel_carries_damaged_bytes_as_cleanly(server: LiveServer) -> None:
    """The same over the wire, for each method and for reflection: a status of the caller's, and the server goes on."""
    names = [f"/topclass.v1.InferenceService/{method}" for method in METHODS]

    @settings(quickly, max_examples=60)
    @given(st.sampled_from(names), anything)
    def check(name: str, message: bytes) -> None:
        try:
            for reply in server.channel.stream_stream(name)(iter([message]), timeout=SECONDS):
                if name.endswith("Stream"):
                    code = pb.PredictStreamResponse.FromString(reply).error.code
                    assert code in {0, *(each.value[0] for each in CALLERS)}
        except grpc.RpcError as error:
            if error.code() not in CALLERS or not error.details():
                raise

    check()
    assert len(server.stub.Predict(pb.PredictRequest(tensor=ROWS)).predictions) == 2


WORST = {
    "empty unknown fields": lambda size: b"\x78\x00" * (size // 2),
    "unknown fields beside a tensor": lambda size: SEEDS[0] + b"\x78\x00" * (size // 2),
    "empty pictures": lambda size: pb.PredictRequest(
        images=pb.EncodedImages.FromString(b"\x0a\x00" * (size // 2))
    ).SerializeToString(),
    "dimensions": lambda size: pb.PredictRequest(
        tensor=pb.Tensor(dtype=1, shape=[2**32 - 1] * (size // 5), data=b"x")
    ).SerializeToString(),
    "a name": lambda size: pb.PredictRequest(model="\U0001f600" * (size // 4), tensor=ROWS).SerializeToString(),
    "groups in groups": lambda size: b"\x7b" * size,
    "tensors that are merged": lambda size: pb.PredictRequest(tensor=ROWS).SerializeToString() * (size // 60),
}


@pytest.mark.parametrize("case", WORST)
def test_the_worst_requests_cost_little_more_than_their_size(
    server: LiveServer, service: InferenceService, case: str
) -> None:
    """Sixteen megabytes of the most expensive kind: done with within the time limit, without hundreds of megabytes."""
    message, before = WORST[case](16 * MIB), resident()
    ask(server, service, "Predict", message)
    assert resident() - before < 400 * MIB


GREY, COLOUR = InputSpec("image", np.dtype(np.uint8), (4, 4)), InputSpec("image", np.dtype(np.uint8), (5, 4, 3))


@settings(quickly, max_examples=600)
@given(st.binary(max_size=100) | mutated(FILES), st.sampled_from([GREY, COLOUR]))
def test_arbitrary_and_damaged_pictures_are_decoded_or_refused(file: bytes, spec: InputSpec) -> None:
    """Any bytes as a picture: an array of the model's shape or InvalidInput that names it, within the time limit."""
    before = time.monotonic()
    try:
        assert decode([file], spec, LIMITS).shape == (1, *spec.row)
    except InvalidInput as error:
        if error.row != 0:
            raise
    assert time.monotonic() - before < SECONDS


@pytest.mark.parametrize("file", FILES)
def test_every_kind_of_picture_that_is_fuzzed_is_a_good_one(file: bytes) -> None:
    """Undamaged, each is decoded to something that is not plain white."""
    assert decode([file], COLOUR, LIMITS).std() > 5


def test_memory_stays_flat_over_thousands_of_damaged_pictures_and_requests(
    server: LiveServer, service: InferenceService
) -> None:
    """The process grows by less than 8 MiB over 6,000 decodes and requests after 2,000 to warm up."""
    generator = random.Random(0)

    def round_(count: int) -> None:
        for _ in range(count):
            spoiled = [bytearray(generator.choice(seeds)) for seeds in (FILES, SEEDS)]
            for data in spoiled:
                for _ in range(3):
                    data[generator.randrange(len(data))] = generator.randrange(256)
            with contextlib.suppress(InvalidInput):
                decode([bytes(spoiled[0])], COLOUR, LIMITS)
            ask(server, service, "Predict", bytes(spoiled[1]))

    round_(2000)
    before = resident()
    round_(6000)
    assert resident() - before < 8 * MIB


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
