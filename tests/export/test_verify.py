import base64
import json
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.card import exact_decimal, golden
from export.errors import FileFormatError, ParityError
from export.verify import CARD_KEY, TOLERANCE, Row, batch_sizes, compare, open_session, read_card, run, verify_file
from export.wire import graph_sha256, read_metadata, with_metadata

from .conftest import make_inputs, proven_bytes


def rows_and_answers(data: bytes) -> tuple[list[Row], np.ndarray]:
    """Give samples and the file's own answers to them, to be spoiled by a test."""
    inputs = make_inputs((2, 3), 12)
    return [Row(f"sample {i}", each) for i, each in enumerate(inputs)], run(open_session(data), inputs)


def with_card(data: bytes, card: dict[str, Any]) -> bytes:
    """Give the same graph with another card."""
    bare = onnx.load_from_string(data)
    del bare.metadata_props[:]
    return with_metadata(bare.SerializeToString(), CARD_KEY, json.dumps(card))


def test_equal_twins() -> None:
    """Equal answers give a certificate that names every batch size up to the number of rows."""
    data = proven_bytes()
    proof = compare(data, *rows_and_answers(data))
    assert proof["batch_sizes"] == [1, 2, 3, 7, 12]
    assert proof["max_abs_difference"] <= 1e-6
    assert (proof["argmax_agreement"], proof["provider"]) == (1.0, "CPUExecutionProvider")


def test_parity_error_names_the_worst() -> None:
    """A probability off by more than the tolerance is refused, with sample, batch size and difference."""
    data = proven_bytes()
    rows, expected = rows_and_answers(data)
    expected[7, 1] += 0.01
    with pytest.raises(ParityError, match=r"differ by 0\.01 \(allowed: 1e-05\) on sample 7 at batch size 1"):
        compare(data, rows, expected)


def test_parity_error_for_a_flip() -> None:
    """Another top class is refused only where Keras' two best differ by more than the tolerance."""
    data = proven_bytes()
    rows, expected = rows_and_answers(data)
    expected[:] = [0.5 + 4e-6, 0.5 - 4e-6, 0.0]
    tied = expected[:, [1, 0, 2]]
    model = constant_model(tied[0])
    assert compare(model, rows, expected)["argmax_agreement"] == 0.0
    expected[:] = [0.5 + 6e-6, 0.5 - 6e-6, 0.0]
    with pytest.raises(ParityError, match="choose classes 0 and 1 for sample 0 at batch size 1"):
        compare(constant_model(np.array([0.5 - 3e-6, 0.5 + 3e-6, 0.0], np.float32)), rows, expected)


def constant_model(answer: np.ndarray) -> bytes:
    """Make a model that gives every picture the same answer."""
    proto = onnx.load_from_string(proven_bytes())
    del proto.metadata_props[:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((6, 3), np.float32), "zeros"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(answer.astype(np.float32), "answer"))
    proto.graph.node[2].input[1] = "zeros"
    proto.graph.node[3].CopyFrom(onnx.helper.make_node("Add", ["logits", "answer"], ["probabilities"]))
    return bytes(proto.SerializeToString())


def test_not_finite_is_no_parity() -> None:
    """NaN on both sides is refused: NaN equals nothing, and must not pass for it."""
    data = proven_bytes()
    rows, expected = rows_and_answers(data)
    expected[3] = np.nan
    with pytest.raises(ParityError, match="Keras gives values that are not finite for sample 3"):
        compare(data, rows, expected)
    with pytest.raises(ParityError, match="ONNX gives values that are not finite for sample 0"):
        compare(constant_model(np.array([np.nan, 0, 0])), rows, np.full((12, 3), 1 / 3, np.float32))


def test_other_shape_is_no_parity() -> None:
    """A file with another number of classes than Keras is refused."""
    data = proven_bytes()
    rows, expected = rows_and_answers(data)
    with pytest.raises(ParityError, match=r"ONNX gives \[12, 3\] at batch size 1, Keras \[12, 2\]"):
        compare(data, rows, expected[:, :2])


@given(st.integers(1, 2000), st.integers(1, 1 << 26))
def test_batch_sizes_fit(rows: int, elements: int) -> None:
    """Batches are never larger than the rows or the memory allow, and the smallest is one row."""
    sizes = batch_sizes(rows, elements)
    assert sizes[0] == 1
    assert sizes[-1] <= rows
    assert len(sizes) == 1 or sizes[-1] * elements <= 1 << 24


def test_hash_is_that_of_the_bare_model() -> None:
    """The graph's sha256 is that of the serialized model before the metadata was added, and onnx reads the same."""
    import hashlib

    data = proven_bytes()
    proto = onnx.load_from_string(data)
    assert [entry.key for entry in proto.metadata_props] == [CARD_KEY]
    assert proto.SerializeToString() == data
    assert read_metadata(data)[CARD_KEY] == proto.metadata_props[0].value
    del proto.metadata_props[:]
    assert graph_sha256(data) == hashlib.sha256(proto.SerializeToString()).hexdigest()


def test_onnxruntime_reads_the_card() -> None:
    """ONNX Runtime hands out the same card as our own reading of the bytes."""
    data = proven_bytes()
    found = open_session(data).get_modelmeta().custom_metadata_map[CARD_KEY]
    assert json.loads(found) == read_card(data)


@given(st.binary(max_size=200))
def test_any_bytes_get_a_named_error(data: bytes) -> None:
    """Bytes that are no model are refused by FileFormatError and nothing else."""
    with pytest.raises(FileFormatError):
        verify_file(data)


@given(st.data())
def test_any_flipped_bit_of_the_graph_is_refused(draw: st.DataObject) -> None:
    """A single flipped bit anywhere in the graph never passes."""
    data = bytearray(PROVEN)
    length = len(data) - METADATA_BYTES
    data[draw.draw(st.integers(0, length - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises((FileFormatError, ParityError)):
        verify_file(bytes(data))


PROVEN = proven_bytes()
METADATA_BYTES = len(PROVEN) - (lambda p: (p.ClearField("metadata_props"), len(p.SerializeToString()))[1])(
    onnx.load_from_string(PROVEN)
)


def test_truncated_file() -> None:
    """A file cut short is refused wherever it was cut."""
    for length in range(0, len(PROVEN), 97):
        with pytest.raises(FileFormatError):
            verify_file(PROVEN[:length])


def test_other_golden_outputs() -> None:
    """A card whose golden outputs are not what the graph gives is refused with the difference."""
    card = read_card(PROVEN)
    card["golden"]["probabilities"][1][0] += 0.25
    with pytest.raises(ParityError, match=r"golden input 1 gives a probability that is off by 0\.25"):
        verify_file(with_card(PROVEN, card))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda card: card.update(schema=2), "schema 2; expected 1"),
        (lambda card: card.pop("certificate"), r"no certificate\.graph_sha256"),
        (lambda card: card["golden"].update(inputs_base64="!"), "golden inputs cannot be read"),
        (lambda card: card["golden"].update(shape=[2, 2, 3]), "golden inputs cannot be read"),
        (lambda card: card["golden"].update(dtype="float32"), "golden inputs cannot be read"),
        (
            lambda card: card.update(
                golden={"shape": [0, 2, 3], "dtype": "uint8", "inputs_base64": "", "probabilities": []}
            ),
            "no golden",
        ),
    ],
)
def test_broken_card(spoil: Any, words: str) -> None:
    """A card that lacks what it must have, or holds nonsense there, is refused by name."""
    card = read_card(PROVEN)
    spoil(card)
    with pytest.raises(FileFormatError, match=words):
        verify_file(with_card(PROVEN, card))


def test_golden_covers_classes() -> None:
    """Golden inputs are of different predicted classes as long as there are some."""
    answers = np.eye(6, dtype=np.float32)[[0, 0, 0, 2, 2, 4, 5, 5]]
    inputs = make_inputs((2, 3), 8)
    chosen = golden(inputs, answers)
    assert np.unique(np.array(chosen["probabilities"]).argmax(axis=1)).tolist() == [0, 2, 4, 5]
    raw = np.frombuffer(base64.b64decode(chosen["inputs_base64"]), np.uint8).reshape(chosen["shape"])
    assert np.array_equal(raw, inputs[[0, 3, 5, 6]])


@given(st.floats(0, 1, width=32))
def test_golden_numbers_are_exact(value: float) -> None:
    """A probability read back from the card is the same float32, bit for bit."""
    text = json.dumps(exact_decimal(np.float32(value)))
    assert np.float32(json.loads(text)) == np.float32(value)
    assert len(text) <= 16


def test_tolerance_is_the_promised_one() -> None:
    """The tolerance is the 1e-5 that the README promises."""
    assert TOLERANCE == 1e-5


def test_file_without_card() -> None:
    """An ONNX file that topclass did not write is refused as such."""
    proto = onnx.load_from_string(PROVEN)
    del proto.metadata_props[:]
    with pytest.raises(FileFormatError, match="topclass did not write it"):
        verify_file(proto.SerializeToString())
