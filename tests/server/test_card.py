"""A model file and its card are input like any other: whatever is in them, they are served or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from server.card import MOST_TEXT, graph_sha256, read
from server.device import Devices
from server.errors import ModelRefused
from server.model import Model, load
from server.protobuf import delimited
from tests import models
from tests.conftest import LiveServer
from topclass.v1 import inference_pb2 as pb

GOOD: dict[str, Any] = json.loads(models.with_card(models.classifier()).metadata_props[0].value)
DEEP = 100_000


def changed(*path: str, to: Any) -> str:
    """A good card in which one entry is another."""
    card = json.loads(json.dumps(GOOD))
    inner = card
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return json.dumps(card)


HOSTILE = {
    "no JSON": "{",
    "no object": "[]",
    "a number": "7",
    "another schema": changed("schema", to=2),
    "a schema of a megabyte": changed("schema", to="x" * 1_000_000),
    "brackets without end": "[" * DEEP,
    "a deep golden answer": changed("golden", "probabilities", to=0)[:-1] + "[" * DEEP,
    "a number with a million digits": '{"schema": ' + "9" * 1_000_000 + "}",
    "labels that are a string": changed("labels", to="abc"),
    "labels that are numbers": changed("labels", to=[1, 2, 3]),
    "half a character": changed("labels", to=["\ud800", "b", "c"]),
    "a hash that is a number": changed("certificate", "graph_sha256", to=5),
    "no certificate": changed("certificate", to=None),
    "a dtype that is none": changed("golden", "dtype", to="object"),
    "a dtype that is a list": changed("golden", "dtype", to=["uint8"]),
    "an infinite shape": changed("golden", "shape", to=[float("inf"), 4, 4]),
    "a shape of NaN": changed("golden", "shape", to=[float("nan")]),
    "a shape that numpy would work out": changed("golden", "shape", to=[-1, 4, 4]),
    "an enormous shape": changed("golden", "shape", to=[2**62, 2**62]),
    "an empty golden test, which proves nothing": changed(
        "golden", to={"shape": [0, 4, 4], "dtype": "uint8", "inputs_base64": "", "probabilities": []}
    ),
    "no base64": changed("golden", "inputs_base64", to="%%%"),
    "base64 that is a number": changed("golden", "inputs_base64", to=1e300),
    "golden answers of NaN": changed("golden", "probabilities", to=[[float("nan")] * 3] * 2),
    "golden answers beyond float32": changed("golden", "probabilities", to=[[1e300, 0, 0]] * 2),
    "golden answers beyond float": changed("golden", "probabilities", to=[[10**400, 0, 0]] * 2),
    "a threshold of words": changed("out_of_distribution", to={"threshold": "high"}),
    "a threshold of NaN": changed("out_of_distribution", to={"threshold": float("nan")}),
    "a threshold that is true": changed("out_of_distribution", to={"threshold": True}),
    "a threshold beyond float": changed("out_of_distribution", to={"threshold": 10**400}),
    "no threshold": changed("out_of_distribution", to={}),
    "a threshold without golden scores": changed("out_of_distribution", to={"threshold": 1.0}),
    "golden scores of NaN": json.dumps(
        GOOD | {"out_of_distribution": {"threshold": 1}, "golden": GOOD["golden"] | {"ood_scores": [0, float("nan")]}}
    ),
    "golden scores that are too few": json.dumps(
        GOOD | {"out_of_distribution": {"threshold": 1}, "golden": GOOD["golden"] | {"ood_scores": [0]}}
    ),
    "ragged golden answers": changed("golden", "probabilities", to=[[1], [0, 1]]),
    "golden answers that are words": changed("golden", "probabilities", to=[["a", "b", "c"]] * 2),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_card_is_refused_with_a_short_reason(case: str) -> None:
    """ModelRefused in one line, and nothing else is raised."""
    with pytest.raises(ModelRefused) as caught:
        read(HOSTILE[case])
    assert "its card" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_gigantic_card_is_refused_before_it_is_read() -> None:
    """One character over the limit is too many, whatever it holds."""
    with pytest.raises(ModelRefused, match="the most is"):
        read(" " * (MOST_TEXT + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, *GOOD["golden"]]), inner),
    max_leaves=12,
)


@given(st.sampled_from(["schema", "labels", "certificate", "golden", "out_of_distribution"]), JSON, st.data())
def test_a_card_with_anything_in_it_is_read_or_refused(key: str, value: Any, data: st.DataObject) -> None:
    """Any JSON in the place of any entry that the server reads: a Card or ModelRefused."""
    inside = [(key, inner) for inner in GOOD["golden"]] if key == "golden" else []
    path = data.draw(st.sampled_from([(key,), *inside]))
    try:
        read(changed(*path, to=value))
    except ModelRefused:
        return


@given(st.text() | JSON.map(json.dumps))
def test_any_text_is_a_card_or_refused(text: str) -> None:
    """Whatever text stands where the card should: ModelRefused, since none of these is a card."""
    with pytest.raises(ModelRefused):
        read(text)


@given(st.binary(max_size=300))
def test_any_bytes_have_a_hash_or_are_refused(data: bytes) -> None:
    """The graph's hash of arbitrary bytes: 64 digits, or ModelRefused."""
    try:
        assert len(graph_sha256(data)) == 64
    except ModelRefused:
        return


def test_a_file_of_a_hundred_million_empty_fields_is_refused_at_once() -> None:
    """A file that would take a minute to walk is given up within a second."""
    start = time.process_time()
    with pytest.raises(ModelRefused, match="more than"):
        graph_sha256(b"\x08\x01" * 20_000_000)
    assert time.process_time() - start < 5


MODEL = models.classifier().SerializeToString()


@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_served_or_refused(changes: list[tuple[int, int]]) -> None:
    """A file without a card in which some bytes are others: a Model or ModelRefused."""
    damaged = bytearray(MODEL)
    for at, byte in changes:
        damaged[at] = byte
    try:
        Model(bytes(damaged), Devices())
    except (ModelRefused, UnicodeDecodeError):  # the latter is what `load` makes the former of
        return


def with_metadata(key: bytes, value: bytes) -> bytes:
    """A model with one entry of metadata, of any bytes."""
    return MODEL + delimited(14, delimited(1, key) + delimited(2, value))


def external(location: str) -> bytes:
    """A model whose weights are in another file."""
    model = models.classifier()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    return model.SerializeToString()


FILES: dict[str, Callable[[], bytes]] = {
    "a card that is no text": lambda: with_metadata(b"topclass.card", b"\xff\xfe"),
    "metadata whose key is no text": lambda: with_metadata(b"\xff", b"x"),
    "a card with a lone surrogate": lambda: with_metadata(
        b"topclass.card",
        json.dumps(
            GOOD | {"labels": ["\ud800"] * 3, "certificate": {"graph_sha256": hashlib.sha256(MODEL).hexdigest()}}
        ).encode(),
    ),
    "weights in a file of the working folder": lambda: external("weights.bin"),
    "weights in a file above it": lambda: external("../weights.bin"),
    "weights anywhere": lambda: external("/etc/passwd"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_refused_with_a_reason_and_the_others_are_served(
    server: LiveServer, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ListModels says why it is not served; no other file is read for it; the other model goes on answering."""
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(models.weights(16, 3).tobytes())
    models.put(server.models, "hostile", 1, FILES[case]())
    server.refresh()
    states = {model.name: model.reason for model in server.stub.ListModels(pb.ListModelsRequest()).models}
    assert states["hostile"]
    assert states["pets"] == ""


def test_a_good_card_is_read(tmp_path: Path) -> None:
    """The card that all of these spoil is a good one."""
    assert read(json.dumps(GOOD)).labels == models.LABELS
    file = tmp_path / "model.onnx"
    file.write_bytes(MODEL)
    assert load(file, Devices()).classes == 3
