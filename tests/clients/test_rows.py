"""An answer is read as the protobuf library reads it, whoever wrote it, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from server import wire as server_wire
from server.lanes import Answer
from topclass import rows, wire
from topclass.forms import Unusual
from topclass.v1 import inference_pb2 as pb

TAIL = pb.PredictResponse(model="größe", version=3, model_sha256="ab" * 32, provider="CPUExecutionProvider")
FIELDS = tuple(rows.Rows.__dataclass_fields__)


@pytest.fixture(autouse=True)
def from_one_row_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of few rows are read as those of many are."""
    monkeypatch.setattr(wire, "_SMALL", 0)
    monkeypatch.setattr(rows, "_FEW", 1)
    monkeypatch.setattr(rows, "_FEW_UNEQUAL", 1)


def by_library(message: bytes) -> rows.Rows | str:
    """What the library alone makes of it, or why it is refused."""
    try:
        return wire._rows(pb.PredictResponse.FromString(message))
    except DecodeError:
        return "it is not a topclass.v1.PredictResponse"
    except wire.Malformed as error:
        return str(error)


def plain(found: rows.Rows) -> list[object]:
    """For comparison: bit for bit, with types and shapes; but a NaN is a NaN, since Python's floats change its bits."""
    values = [getattr(found, name) for name in FIELDS]
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            value[np.isnan(value)] = np.nan
    return [(v.dtype, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values]


def same(message: bytes) -> None:
    """Asserts that the reader and the library agree on all of the message."""
    expected = by_library(message)
    if isinstance(expected, str):
        with pytest.raises(wire.Malformed) as caught:
            wire.read_reply(message)
        assert str(caught.value) == expected
        return
    reply = wire.read_reply(message)
    assert plain(reply.rows) == plain(expected)
    whole = pb.PredictResponse.FromString(message)
    result, rest = reply.result(()), [name for name in whole.DESCRIPTOR.fields_by_name if name != "predictions"]
    assert [getattr(reply.message, name) for name in rest] == [getattr(whole, name) for name in rest]
    assert [[rank.class_index for rank in ranks] for ranks in result.top_k] == (
        [[rank.class_index for rank in row.top_k] for row in whole.predictions]
        if whole.predictions and whole.predictions[0].top_k
        else []
    )


def is_a_table(message: bytes) -> bool:
    """True if the message is read without the library."""
    try:
        rows.read(message)
    except Unusual:
        return False
    return True


SPECIAL = np.array([0, -0.0, 1, np.nan, np.inf, 1e-45, 0.1], np.float32)


def make(labels: list[str], count: int, classes: int, seed: int, *, scored: bool, ranks: int) -> pb.PredictResponse:
    """Rows as a model gives them, of any values."""
    random = np.random.default_rng(seed)
    response = pb.PredictResponse()
    for _ in range(count):
        top = int(random.integers(len(labels)))
        values = np.where(
            random.random(classes + 2) < 0.3, random.choice(SPECIAL, classes + 2), random.random(classes + 2)
        )
        row = response.predictions.add(
            top_class=top,
            label=labels[top],
            probability=values[0],
            probabilities=values[2:],
            out_of_distribution=random.random() < 0.2,
        )
        if scored:
            row.ood_score = values[1]
        for rank in range(ranks):
            row.top_k.add(class_index=rank, label="x", probability=0.5)
    return response


def predictions(*, wild: bool = False) -> st.SearchStrategy[pb.PredictResponse]:
    """Answers of a model; `wild`: put together of those of several, which have other fields and other labels."""
    rows_of_one = st.builds(
        make,
        st.lists(st.text(max_size=12), min_size=1, max_size=12),
        st.integers(0, 3 if wild else 30),
        st.integers(0, 3 if wild else 20),
        st.integers(0, 2**32 - 1),
        scored=st.booleans(),
        ranks=st.sampled_from([0, 0, 0, 2]),
    )

    def joined(parts: list[pb.PredictResponse]) -> pb.PredictResponse:
        whole = pb.PredictResponse()
        for part in [*parts, TAIL]:
            whole.MergeFrom(part)
        return whole

    return st.lists(rows_of_one, min_size=1, max_size=6 if wild else 1).map(joined)


@settings(max_examples=150, deadline=None)
@given(predictions())
def test_what_the_library_wrote(response: pb.PredictResponse) -> None:
    """Any model's rows, with and without probabilities, scores, ranks and zeros, come out bit for bit."""
    same(response.SerializeToString())


@settings(max_examples=100, deadline=None)
@given(predictions(wild=True))
def test_rows_that_do_not_go_together(response: pb.PredictResponse) -> None:
    """Rows of different fields are read where they make one table, and refused with the number of the first that
    does not."""
    same(response.SerializeToString())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=2, max_size=300), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_what_our_server_wrote(labels: list[str], count: int, seed: int) -> None:
    """What the server writes is read without the library, with any labels."""
    probabilities = np.random.default_rng(seed).dirichlet(np.full(len(labels), 0.3), count).astype(np.float32)
    for request in (pb.PredictRequest(include_labels=True), pb.PredictRequest(omit_probabilities=True)):
        writer = server_wire.ResponseWriter("m", 1, "f" * 64, "CPUExecutionProvider", labels)
        message = writer.write(Answer(probabilities, 0.5, 0.25, count), request)
        same(message)
        assert is_a_table(message)


@settings(max_examples=300, deadline=None)
@given(predictions(), st.integers(0, 10**6), st.binary(max_size=6))
def test_cut_off_or_with_more_behind(response: pb.PredictResponse, at: int, more: bytes) -> None:
    """A message that ends too early, or goes on, is read as the library reads it, or refused."""
    message = response.SerializeToString()
    same(message[: at % (len(message) + 1)])
    same(message + more)
    same(message + response.SerializeToString())


@settings(max_examples=300, deadline=None)
@given(predictions(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged(response: pb.PredictResponse, damage: list[tuple[int, int]]) -> None:
    """With bytes changed at random a message is read as the library reads it, or refused; never anything else."""
    message = bytearray(response.SerializeToString())
    for at, value in damage:
        message[at % len(message)] = value
    same(bytes(message))


def delimited(tag: int, content: bytes) -> bytes:
    """One field; its length has two bytes, which protobuf allows for any length."""
    return bytes([tag, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


CLASS, LABEL, BEST, ALL = b"\x08\x01", b"\x12\x03dog", b"\x1d\0\0\0?", b"\x22\x08\0\0\0?\0\0\0?"


@pytest.mark.parametrize(
    ("fields", "table"),
    [
        ([CLASS, LABEL, BEST, ALL], True),
        ([ALL, BEST, LABEL, CLASS], True),
        ([LABEL], True),
        ([b"\x08\x81\x80\x80\x80\x00", LABEL], True),
        ([b"\x08\xff\xff\xff\xff\x7f", LABEL], True),
        ([b"\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x01", LABEL], False),
        ([CLASS, CLASS, LABEL], False),
        ([LABEL, b"\x12\x00"], False),
        ([CLASS, b"\x25\0\0\0?\x25\0\0\0?"], False),
        ([CLASS, b"\x78\x01"], False),
        ([CLASS, b"\x7a\x02hi"], False),
        ([b"\x0d\0\0\0\0"], False),
        ([b"\x12\x02\xc3\x28"], False),
        ([b"\x22\x05\0\0\0?\0"], False),
        ([b"\x38\x02", BEST], True),
        ([b"\x35\0\0\x80?", BEST], True),
        ([], True),
    ],
    ids=range(17),
)
def test_rows_of_any_form(fields: list[bytes], table: bool) -> None:
    """Fields in another order, padded or too large, repeated, unpacked, unknown: as the library has it."""
    message = delimited(0x0A, b"".join(fields)) * 5
    for tail in (b"", TAIL.SerializeToString(), b"\x0a\x00", b"\x0a"):
        same(message + tail)
    assert is_a_table(message) == table


def test_labels_that_do_not_go_with_the_class() -> None:
    """Two rows of one class with different labels keep each its own, of equal length or not."""
    for other in ("cow", "horse"):
        names = ["dog", other] * 40
        response = pb.PredictResponse(predictions=[pb.Prediction(top_class=1, label=name) for name in names])
        assert wire.read_reply(response.SerializeToString()).rows.top_label == tuple(names)


def test_a_character_across_two_rows_is_refused() -> None:
    """Labels that are text only if joined are no text."""
    same(delimited(0x0A, b"\x12\x01\xc3") + delimited(0x0A, b"\x12\x01\xa9"))


def test_very_many_classes() -> None:
    """Class numbers of any size cost no table over them."""
    found = [pb.Prediction(top_class=2**32 - 1 - row % 3, label=f"c{row % 3}") for row in range(90)]
    message = pb.PredictResponse(predictions=found).SerializeToString()
    same(message)
    assert is_a_table(message)


def test_values_do_not_hold_the_message() -> None:
    """Arrays of a result are their own, writable and aligned, not views of the bytes that came."""
    message = delimited(0x0A, CLASS + LABEL + BEST + ALL) * 100
    found, end = rows.read(message)
    assert end == len(message)
    for array in (found.top_class, found.probability, found.probabilities, found.out_of_distribution):
        assert array.flags.owndata or array.base.flags.owndata
        assert array.flags.writeable
        assert array.flags.aligned
