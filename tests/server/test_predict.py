"""Predict, GetModel and ListModels over a real channel: good answers."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from tests import models
from tests.conftest import LiveServer
from topclass.v1 import inference_pb2 as pb


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Random uint8 [count, 4, 4]."""
    return np.random.default_rng(seed).integers(0, 256, (count, models.SIDE, models.SIDE), np.uint8)


def tensor(array: np.ndarray) -> pb.Tensor:
    """The array on the wire."""
    dtype = {"uint8": pb.DATA_TYPE_UINT8, "float32": pb.DATA_TYPE_FLOAT32}[array.dtype.name]
    return pb.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def probabilities(response: pb.PredictResponse) -> np.ndarray:
    """float32 [n, C] of a response."""
    return np.array([prediction.probabilities for prediction in response.predictions], np.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 31, 1000, 5000])
def test_every_row_gets_its_own_probabilities_in_order(server: LiveServer, count: int) -> None:
    """A batch of any size is answered row by row, in order, as numpy computes it."""
    rows = pictures(count)
    response = server.stub.Predict(pb.PredictRequest(model="pets", tensor=tensor(rows)))
    np.testing.assert_allclose(probabilities(response), models.expected(rows), atol=1e-6)


def test_a_prediction_says_what_a_person_would_write_down(server: LiveServer) -> None:
    """Each prediction names the top class, its label and its probability, which are those of the probabilities."""
    rows = pictures(20)
    response = server.stub.Predict(pb.PredictRequest(tensor=tensor(rows)))
    for prediction, row in zip(response.predictions, models.expected(rows), strict=True):
        assert prediction.top_class == row.argmax()
        assert prediction.label == models.LABELS[row.argmax()]
        assert prediction.probability == max(prediction.probabilities)


def test_a_response_says_where_it_comes_from(server: LiveServer) -> None:
    """A response names model, version, the file's sha256, the provider really used, and where the time went."""
    response = server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(2))))
    file = server.models / "pets/1/model.onnx"
    assert (response.model, response.version) == ("pets", 1)
    assert response.model_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert response.provider == "CPUExecutionProvider"
    assert response.timing.batch_rows >= 2
    assert response.timing.compute_us > 0


def test_top_k_lists_the_most_probable_classes_first(server: LiveServer) -> None:
    """top_k=2 gives the two most probable classes; more than there are gives all; 0 gives none."""
    rows = pictures(3)
    for k, length in [(0, 0), (2, 2), (99, 3)]:
        response = server.stub.Predict(pb.PredictRequest(tensor=tensor(rows), top_k=k))
        for prediction, row in zip(response.predictions, models.expected(rows), strict=True):
            assert [c.class_index for c in prediction.top_k] == list(np.argsort(-row)[:length])
            assert [c.label for c in prediction.top_k] == [models.LABELS[i] for i in np.argsort(-row)[:length]]


def test_probabilities_can_be_left_out_and_labels_asked_for(server: LiveServer) -> None:
    """omit_probabilities leaves them out of each row; include_labels adds all labels once."""
    request = pb.PredictRequest(tensor=tensor(pictures(2)), omit_probabilities=True, include_labels=True)
    response = server.stub.Predict(request)
    assert [list(p.probabilities) for p in response.predictions] == [[], []]
    assert tuple(response.labels) == models.LABELS
    assert not server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(2)))).labels


def test_a_pinned_sha256_that_is_served_is_answered(server: LiveServer) -> None:
    """Pinning the file that is served changes nothing."""
    sha = server.stub.GetModel(pb.GetModelRequest()).model.sha256
    response = server.stub.Predict(pb.PredictRequest(tensor=tensor(pictures(1)), model_sha256=sha))
    assert response.model_sha256 == sha


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def test_encoded_pictures_of_the_right_size_come_through_unchanged(server: LiveServer) -> None:
    """PNG files of the model's size give the same probabilities as the array itself."""
    rows = pictures(5)
    files = pb.EncodedImages(images=[encoded(row) for row in rows])
    response = server.stub.Predict(pb.PredictRequest(images=files))
    np.testing.assert_allclose(probabilities(response), models.expected(rows), atol=1e-6)


def test_the_model_can_be_asked_what_it_takes(server: LiveServer) -> None:
    """GetModel gives input, labels, card and limit."""
    details = server.stub.GetModel(pb.GetModelRequest(model="pets", version=1))
    assert (details.input.name, details.input.dtype) == ("image", pb.DATA_TYPE_UINT8)
    assert list(details.input.shape) == [-1, 4, 4]
    assert tuple(details.labels) == models.LABELS
    assert '"schema": 1' in details.card_json
    assert details.max_rows == server.app.config.max_request_rows


def test_a_stream_answers_each_request_with_its_id(server: LiveServer) -> None:
    """A stream of good and bad requests gives each id its own answer or its own error, and stays open."""
    batches = {f"r{n}": pictures(n % 7 + 1, n) for n in range(300)}

    def requests():  # type: ignore[no-untyped-def]
        for name, rows in batches.items():
            good = tensor(rows)
            bad = pb.Tensor(dtype=1, shape=[1, 4, 4], data=b"short")
            chosen = bad if name.endswith("3") else good
            yield pb.PredictStreamRequest(id=name, request=pb.PredictRequest(tensor=chosen))

    replies = {reply.id: reply for reply in server.stub.PredictStream(requests())}
    assert replies.keys() == batches.keys()
    for name, reply in replies.items():
        if name.endswith("3"):
            assert reply.error.code == 3
            assert "holds 5 bytes" in reply.error.message
        else:
            np.testing.assert_allclose(probabilities(reply.response), models.expected(batches[name]), atol=1e-6)


def test_table_models_take_floats(server: LiveServer) -> None:
    """A float32 model [N, F] without a card is served, with indices as labels."""
    from onnx import TensorProto

    models.put(server.models, "table", 1, models.classifier((5,), classes=2, dtype=TensorProto.FLOAT))
    server.refresh()
    rows = np.random.default_rng(3).normal(0, 100, (4, 5)).astype(np.float32)
    response = server.stub.Predict(pb.PredictRequest(model="table", tensor=tensor(rows)))
    np.testing.assert_allclose(probabilities(response), models.expected(rows, 2), atol=1e-6)
    assert {p.label for p in response.predictions} <= {"0", "1"}
