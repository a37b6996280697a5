"""What a call gives back, from a real server over a real channel; every test runs on both clients."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from tests import models
from topclass import InvalidInput, Result

PICTURES = np.random.default_rng(7).integers(0, 256, (9, 4, 4), np.uint8)
PROBABILITIES = models.expected(PICTURES)


def png(picture: np.ndarray) -> bytes:
    """The picture as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def same(result: Result, expected: np.ndarray = PROBABILITIES) -> None:
    """The result holds these probabilities, and all else agrees with them."""
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(result.top_class, expected.argmax(axis=1))
    np.testing.assert_array_equal(result.probability, result.probabilities.max(axis=1))
    assert result.top_label == tuple(result.labels[index] for index in result.top_class)


def test_array(client: Any) -> None:
    """An array comes back as arrays, with the labels and the provenance of the model file."""
    result = client.predict(PICTURES, "pets")
    same(result)
    assert result.labels == ("cat", "dog", "emu")
    assert (result.top_class.dtype, result.probabilities.dtype) == (np.int64, np.float32)
    assert (result.model, result.version, result.provider) == ("pets", 1, "CPUExecutionProvider")
    assert result.sha256 == client.model("pets").sha256
    assert result.timing.batch_rows >= 9
    assert result.timing.compute_us > 0
    assert result.ood_score is None
    assert not result.out_of_distribution.any()
    assert result.top_k == ()


@pytest.mark.parametrize(
    "layout",
    [
        np.asfortranarray(PICTURES),
        np.repeat(PICTURES, 2, axis=2)[:, :, ::2],
        PICTURES[::-1].copy()[::-1],
        np.ascontiguousarray(PICTURES.transpose(2, 1, 0)).transpose(2, 1, 0),
    ],
    ids=["column-major", "strided", "reversed", "transposed"],
)
def test_memory_layout(client: Any, layout: np.ndarray) -> None:
    """However the array lies in memory, its rows are sent in its own order."""
    same(client.predict(layout))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_floats(connect: Callable[..., Any], serve: Callable[..., Any], tmp_path: Path, dtype: str) -> None:
    """Rows of numbers may be of either byte order and of double precision; they arrive as float32."""
    models.put(tmp_path / "models", "table", 1, models.classifier((5,), dtype=TensorProto.FLOAT))
    rows = np.random.default_rng(3).normal(0, 100, (6, 5))
    result = connect(serve().address).predict(rows.astype(dtype))
    same(result, models.expected(rows))
    assert result.labels == ("0", "1", "2")


def test_picture_files(client: Any, tmp_path: Path) -> None:
    """Picture files may be given by name, as a Path, and as bytes, in one list."""
    files = [png(picture) for picture in PICTURES[:3]]
    path = tmp_path / "one.png"
    path.write_bytes(files[0])
    same(client.predict([str(path), files[1], files[2], path]), PROBABILITIES[[0, 1, 2, 0]])


def test_top_k(client: Any) -> None:
    """top_k ranks the most probable classes of each row, and stops at the number of classes."""
    result = client.predict(PICTURES, top_k=2)
    for row, ranked in enumerate(result.top_k):
        order = np.argsort(-PROBABILITIES[row])[:2]
        assert [entry.class_index for entry in ranked] == order.tolist()
        assert [entry.label for entry in ranked] == [result.labels[index] for index in order]
        assert ranked[0].probability == result.probability[row]
    assert len(client.predict(PICTURES, top_k=99).top_k[0]) == 3


def test_without_probabilities(client: Any) -> None:
    """Without probabilities the matrix has no columns, and the rest is there."""
    result = client.predict(PICTURES, probabilities=False)
    assert result.probabilities.shape == (9, 0)
    np.testing.assert_allclose(result.probability, PROBABILITIES.max(axis=1), atol=1e-6)
    assert result[0].label == result.top_label[0]


def test_rows(client: Any) -> None:
    """A result has the length of its batch, and indexing and iteration give one prediction for each row."""
    result = client.predict(PICTURES)
    assert len(result) == 9
    assert [row.label for row in result] == list(result.top_label)
    assert result[-1].top_class == result.top_class[8]
    np.testing.assert_array_equal(result[2].probabilities, result.probabilities[2])
    with pytest.raises(IndexError):
        result[9]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.model = "other"


def test_repr(client: Any) -> None:
    """A result shows itself in one line: rows, model, and the first labels with their probability."""
    result = client.predict(PICTURES)
    label, percent = result.top_label[0], 100 * result.probability[0]
    assert repr(result).startswith(f"<Result 9 rows by pets v1: '{label}' {percent:.1f} %, ")
    assert repr(result).endswith(", … 6 more>")
    assert repr(result[0]) == f"<Prediction '{label}' {percent:.1f} %>"
    assert "1 row by" in repr(client.predict(PICTURES[:1]))


def test_many(client: Any) -> None:
    """predict_many answers any number of batches, in their order."""
    batches = [PICTURES[: 1 + index % 9] for index in range(40)]
    results = list(client.predict_many(batches, "pets", window=5))
    assert len(results) == 40
    for batch, result in zip(batches, results, strict=True):
        same(result, models.expected(batch))
    assert list(client.predict_many([])) == []


def test_many_files(client: Any, tmp_path: Path) -> None:
    """predict_many takes batches of picture files too."""
    path = tmp_path / "one.png"
    path.write_bytes(png(PICTURES[0]))
    (result,) = client.predict_many([[path, path]])
    same(result, PROBABILITIES[[0, 0]])


def test_models(client: Any, server: Any) -> None:
    """models lists every version with its state, the broken ones with the reason."""
    models.put(server.models, "pets", 2, b"not a model")
    server.refresh()
    good, broken = client.models()
    assert (good.name, good.version, good.state, good.newest) == ("pets", 1, "ready", True)
    assert (good.reason, good.provider, len(good.sha256)) == ("", "CPUExecutionProvider", 64)
    assert (broken.version, broken.state, broken.newest) == (2, "unavailable", False)
    assert broken.reason


def test_an_alias_names_the_version_that_answers(client: Any, server: Any) -> None:
    """predict(alias=…) is answered by the version of that name, with its labels, and models lists the names."""
    models.put(server.models, "pets", 2, models.classifier(seed=2))
    (server.models / "pets" / "aliases.json").write_text('{"champion": 2, "previous": 1}')
    server.refresh()
    assert client.predict(PICTURES, "pets").version == 2
    previous = client.predict(PICTURES, "pets", alias="previous")
    assert (previous.version, previous.labels) == (1, ("cat", "dog", "emu"))
    assert {info.version: info.aliases for info in client.models()} == {1: ("previous",), 2: ("champion",)}


def test_bulk_work_can_stand_aside(client: Any) -> None:
    """priority reaches the server, which refuses one that there is not."""
    same(client.predict(PICTURES, priority=9), PROBABILITIES)
    with pytest.raises(InvalidInput, match="the priority is 10"):
        client.predict(PICTURES, priority=10)


def test_model(client: Any) -> None:
    """model tells what goes in, what comes out, and what the file says of itself."""
    details = client.model("pets")
    assert (details.name, details.version, details.labels) == ("pets", 1, ("cat", "dog", "emu"))
    assert (details.input.name, details.input.dtype, details.input.shape) == ("image", "uint8", (None, 4, 4))
    assert details.card["schema"] == 1
    assert details.max_rows == 131_072
    assert client.model() == details


def test_health(client: Any) -> None:
    """A server that is ready is healthy, and waiting for it returns at once."""
    assert client.health() == "serving"
    assert client.health("topclass.v1.InferenceService") == "serving"
    assert client.healthy()
    client.wait_ready(timeout=5)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros((1, 4, 4), np.int64), r"int64.*uint8 from 0 to 255 \(x\.astype\(np\.uint8\)\), tables float32"),
        (np.zeros((1, 4, 4), bool), "array of bool"),
        (np.zeros((1, 4, 4), np.float16), "array of float16"),
        (np.ma.masked_equal(PICTURES, 0), "a masked array"),
        (np.array(["a.png"]), "array of <U5"),
        (np.array([None]), "array of object"),
        ("a.png", "a str; expected a numpy array, or a list of picture files"),
        (b"\x89PNG", "a bytes; expected a numpy array, or a list of picture files"),
        ([PICTURES[0]], r"inputs\[0\] is a ndarray.*np\.stack"),
        ([b"", 3.5], r"inputs\[1\] is a float"),
        (None, "a NoneType; expected a numpy array"),
    ],
)
def test_type_errors(client: Any, inputs: Any, words: str) -> None:
    """Inputs that cannot be sent as they are raise a TypeError that says what can be."""
    with pytest.raises(TypeError, match=words):
        client.predict(inputs)


def test_missing_file(client: Any) -> None:
    """A picture file that is not there raises the error that opening it raises."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        client.predict(["nowhere.png"])


@pytest.mark.parametrize("address", ["localhost", "http://127.0.0.1:8001", "", "127.0.0.1:", "a b:1"])
def test_address(connect: Callable[..., Any], address: str) -> None:
    """An address that is none is refused before anything is sent, with an example of a good one."""
    with pytest.raises(ValueError, match=r"expected HOST:PORT, such as 127\.0\.0\.1:8001"):
        connect(address)


@pytest.mark.parametrize("token", ["secret\n", "s\u00e9cret"])
def test_bad_token(connect: Callable[..., Any], token: str) -> None:
    """A token that cannot be sent is refused at once, in words that do not repeat it."""
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        connect("127.0.0.1:1", token=token)
    assert "cret" not in str(caught.value)


def test_closed(connect: Callable[..., Any], server: Any) -> None:
    """A closed client says that it is closed."""
    client = connect(server.address)
    client.predict(PICTURES)
    client.close()
    with pytest.raises(ValueError, match="this client is closed"):
        client.predict(PICTURES)


def test_bad_window_and_timeout(client: Any) -> None:
    """A window of nothing and a timeout of nothing are refused in words."""
    with pytest.raises(ValueError, match="the window is 0; it must be at least 1"):
        list(client.predict_many([PICTURES], window=0))
    with pytest.raises(ValueError, match="the timeout is 0 s; it must be more than 0"):
        client.predict(PICTURES, timeout=0)
