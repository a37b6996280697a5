"""Versions on disk and versions in memory: what is served, what is refused and why, what happens on a change."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper

from server.errors import StartError
from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, probabilities, tensor
from topclass.v1 import inference_pb2 as pb


def listed(server: LiveServer) -> dict[tuple[str, int], pb.Model]:
    """What ListModels says."""
    return {(m.name, m.version): m for m in server.stub.ListModels(pb.ListModelsRequest()).models}


def health(server: LiveServer, name: str = "") -> int:
    """The answer of grpc.health.v1."""
    stub = health_pb2_grpc.HealthStub(server.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=name)).status


def predict(server: LiveServer, model: str = "pets", version: int = 0, rows: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    """A prediction for two pictures."""
    chosen = pictures(2) if rows is None else rows
    return server.stub.Predict(pb.PredictRequest(model=model, version=version, tensor=tensor(chosen)))


def _with_output(kind: str) -> onnx.ModelProto:
    """A model whose output is no vector of probabilities."""
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["cast"], ["probabilities" if kind == "logits" else "flat"]),
    ]
    if kind == "logits":
        return models.model(nodes, [], (4, 4), 16)
    nodes.append(helper.make_node("ReduceMean", ["flat"], ["probabilities"], axes=[1], keepdims=1))
    return models.model(nodes, [], (4, 4), 1)


def _two_inputs() -> onnx.ModelProto:
    proto = models.classifier()
    proto.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 1]))
    return proto


def _fixed_batch() -> onnx.ModelProto:
    proto = models.classifier()
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return proto


def _flipped_weight() -> bytes:
    data = bytearray(models.with_card(models.classifier()).SerializeToString())
    at = data.find(models.weights(16, 3).tobytes())
    data[at + 2] ^= 1
    return bytes(data)


def _golden_off() -> onnx.ModelProto:
    return models.with_card(models.classifier(seed=1))  # the golden answers are those of seed 0


BROKEN = {
    "an empty file": (b"", "the file is empty"),
    "rubbish": (b"this is not ONNX", "not a whole ONNX file"),
    "a truncated file": (models.with_card(models.classifier()).SerializeToString()[:-40], "not a whole ONNX file"),
    "two inputs": (_two_inputs(), "it has 2 inputs (image, other); it must have one"),
    "no batch axis": (_fixed_batch(), "must be a symbolic batch axis: export it with one"),
    "a float64 input": (models.classifier(dtype=TensorProto.DOUBLE), "its input is tensor(double)"),
    "an open dimension": (models.classifier(("W", 4), features=16), "all dimensions but the batch must be fixed"),
    "logits": (_with_output("logits"), "is not probabilities: two rows sum to 0 and "),
    "one column": (_with_output("column"), "with at least two classes"),
    "one flipped weight": (_flipped_weight(), "the file was changed after it was exported"),
    "golden samples that are off": (_golden_off(), "its golden samples are off by"),
    "labels that are too few": (models.with_card(models.classifier(), ["cat"]), "1 labels for 3 classes"),
    "a card of tomorrow": (models.with_card(models.classifier(), schema=2), "schema 2; this server reads schema 1"),
    "a card that is a list": (models.with_card(models.classifier(), certificate=[]), "its card cannot be read"),
    "golden samples that do not fit": (
        models.with_card(models.classifier(), golden={"shape": [1, 3], "dtype": "uint8", "inputs_base64": "AAAA",
                                                      "probabilities": [[1, 0, 0]]}),
        "golden samples do not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused_with_its_reason_and_the_others_are_served(
    repository: Path, serve: Callable[..., LiveServer], case: str
) -> None:
    """The server starts, serves the others, and says which is broken and why: in ListModels and to its callers."""
    content, words = BROKEN[case]
    models.put(repository, "broken", 1, content)
    server = serve(models=repository)
    assert len(predict(server, "pets").predictions) == 2
    entry = listed(server)["broken", 1]
    assert entry.state == pb.MODEL_STATE_UNAVAILABLE
    assert words in entry.reason
    with pytest.raises(grpc.RpcError) as caught:
        predict(server, "broken")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "model 'broken' version 1 is not served: " in caught.value.details()
    assert words in caught.value.details()
    assert health(server) == health_pb2.HealthCheckResponse.SERVING


def test_a_version_without_a_file_is_refused(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """A version folder without model.onnx is listed with the reason."""
    (repository / "pets" / "2").mkdir()
    server = serve(models=repository)
    assert "cannot be read: No such file" in listed(server)["pets", 2].reason
    assert predict(server).version == 1


def test_a_missing_repository_is_a_clear_error_at_start(tmp_path: Path, serve: Callable[..., LiveServer]) -> None:
    """StartError names the folder and the cure."""
    with pytest.raises(StartError, match=r"there is no model repository .*nowhere: make the folder, or name it"):
        serve(models=tmp_path / "nowhere")


def test_an_empty_repository_is_not_ready_until_a_model_comes(tmp_path: Path, serve: Callable[..., LiveServer]) -> None:
    """NOT_SERVING, and UNAVAILABLE with words; when a model is published, SERVING and answers."""
    (tmp_path / "models").mkdir()
    server = serve()
    assert health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("pets", ""):
        with pytest.raises(grpc.RpcError) as caught:
            predict(server, name)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "no model yet:" in caught.value.details()
    models.put(server.models, "pets", 1, models.with_card(models.classifier()))
    server.refresh()
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    assert health(server, "topclass.v1.InferenceService") == health_pb2.HealthCheckResponse.SERVING
    assert predict(server).version == 1


def test_an_empty_repository_can_be_allowed(tmp_path: Path, serve: Callable[..., LiveServer]) -> None:
    """With allow_empty the server is ready at once."""
    (tmp_path / "models").mkdir()
    assert health(serve(allow_empty=True)) == health_pb2.HealthCheckResponse.SERVING


def test_a_repository_of_broken_models_only_is_not_ready(tmp_path: Path, serve: Callable[..., LiveServer]) -> None:
    """NOT_SERVING although something is there: nothing of it can answer."""
    models.put(tmp_path / "models", "broken", 1, b"rubbish")
    assert health(serve()) == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_new_version_takes_over_and_the_one_before_can_still_be_named(server: LiveServer) -> None:
    """After a publish the newest answers, the one before answers by number, and with latest:2 the third goes."""
    models.put(server.models, "pets", 2, models.classifier(seed=2))
    server.refresh()
    rows = pictures(3)
    newest = predict(server, rows=rows)
    assert newest.version == 2
    np.testing.assert_allclose(probabilities(newest), models.expected(rows, seed=2), atol=1e-6)
    np.testing.assert_allclose(probabilities(predict(server, version=1, rows=rows)), models.expected(rows), atol=1e-6)
    models.put(server.models, "pets", 10, models.classifier(seed=10))
    server.refresh()
    assert predict(server).version == 10
    assert {key[1]: entry.state for key, entry in listed(server).items()} == {
        1: pb.MODEL_STATE_UNAVAILABLE,
        2: pb.MODEL_STATE_READY,
        10: pb.MODEL_STATE_READY,
    }
    assert [key for key, entry in listed(server).items() if entry.newest] == [("pets", 10)]
    with pytest.raises(grpc.RpcError) as caught:
        predict(server, version=1)
    assert "version 1 is not served: the version policy is latest:2" in caught.value.details()


@pytest.mark.parametrize(
    ("policy", "ready"), [("latest:1", {3}), ("latest:2", {2, 3}), ("all", {1, 2, 3}), ("specific:1,3", {1, 3})]
)
def test_the_version_policy_says_which_versions_are_served(
    repository: Path, serve: Callable[..., LiveServer], policy: str, ready: set[int]
) -> None:
    """latest:N, all and specific:V,V serve just what they say."""
    models.put(repository, "pets", 2, models.classifier(seed=2))
    models.put(repository, "pets", 3, models.classifier(seed=3))
    server = serve(models=repository, version_policy=policy)
    assert {v for (_, v), entry in listed(server).items() if entry.state == pb.MODEL_STATE_READY} == ready


def test_a_bad_new_version_is_refused_and_the_old_one_stays(server: LiveServer) -> None:
    """The broken version is listed with its reason; the old one goes on answering; a good one after it takes over."""
    models.put(server.models, "pets", 2, b"rubbish")
    server.refresh()
    assert predict(server).version == 1
    assert "not a whole ONNX file" in listed(server)["pets", 2].reason
    models.put(server.models, "pets", 3, models.classifier(seed=3))
    server.refresh()
    assert predict(server).version == 3


def test_a_file_that_is_repaired_in_place_is_loaded_again(server: LiveServer) -> None:
    """A refused version whose file changes gets another chance."""
    file = models.put(server.models, "pets", 2, b"rubbish")
    server.refresh()
    file.write_bytes(models.classifier(seed=2).SerializeToString())
    server.refresh()
    assert predict(server).version == 2


def test_a_version_whose_folder_is_deleted_is_unloaded(server: LiveServer) -> None:
    """Deleting the newest version's folder brings the one before back; deleting the last leaves no model."""
    models.put(server.models, "pets", 2, models.classifier(seed=2))
    server.refresh()
    shutil.rmtree(server.models / "pets" / "2")
    server.refresh()
    assert predict(server).version == 1
    shutil.rmtree(server.models / "pets")
    server.refresh()
    assert health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not listed(server)


def test_what_is_not_a_version_is_not_looked_at(server: LiveServer) -> None:
    """Hidden folders, half-published versions and stray files are ignored."""
    hidden = server.models / ".publishing-abc"
    hidden.mkdir()
    (hidden / "model.onnx").write_bytes(b"half")
    (server.models / "README").write_text("hello")
    (server.models / "pets" / "draft").mkdir()
    (server.models / "pets" / "007").mkdir()
    server.refresh()
    assert listed(server).keys() == {("pets", 1)}


def test_the_server_notices_a_new_version_by_itself(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """With watch_seconds it looks by itself."""
    from tests.server.test_neighbours import until

    server = serve(models=repository, watch_seconds=0.05)
    models.put(repository, "pets", 2, models.classifier(seed=2))
    until(lambda: predict(server).version == 2)


def test_a_call_in_progress_finishes_on_the_version_it_began_with(
    repository: Path, serve: Callable[..., LiveServer]
) -> None:
    """A request that waits while its version is swapped out and unloaded is answered by that version."""
    from tests.server.test_neighbours import Hold

    server = serve(models=repository, version_policy="latest:1")
    hold = Hold(server)
    rows = pictures(3)
    call = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(rows)))
    assert hold.entered.wait(10)
    models.put(repository, "pets", 2, models.classifier(seed=2))
    server.refresh()
    assert predict(server).version == 2
    hold.go.set()
    assert call.result().version == 1
    np.testing.assert_allclose(probabilities(call.result()), models.expected(rows), atol=1e-6)
