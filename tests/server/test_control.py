"""LoadModel, UnloadModel, version policies by model, and what happens when the folder cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from server import policy
from server.errors import ConfigError
from tests import models
from tests.conftest import LiveServer
from tests.server.test_predict import pictures, tensor
from tests.server.test_repository import health, listed, predict
from topclass.v1 import inference_pb2 as pb


def ready(server: LiveServer, name: str = "pets") -> set[int]:
    """The versions of a model that answer."""
    return {v for (n, v), entry in listed(server).items() if n == name and entry.state == pb.MODEL_STATE_READY}


def problems(server: LiveServer) -> list[str]:
    """What ListModels says is wrong with the repository."""
    return list(server.stub.ListModels(pb.ListModelsRequest()).problems)


def load(server: LiveServer, model: str = "pets", version: int = 0) -> set[int]:
    """LoadModel; the versions that answer then."""
    response = server.stub.LoadModel(pb.LoadModelRequest(model=model, version=version))
    return {entry.version for entry in response.models if entry.state == pb.MODEL_STATE_READY}


def unload(server: LiveServer, model: str = "pets", version: int = 0) -> set[int]:
    """UnloadModel; the versions that answer then."""
    response = server.stub.UnloadModel(pb.UnloadModelRequest(model=model, version=version))
    return {entry.version for entry in response.models if entry.state == pb.MODEL_STATE_READY}


@pytest.fixture
def controlled(repository: Path, serve: Callable[..., LiveServer]) -> LiveServer:
    """A server of `pets` 1, 2, 3 with the policy latest:2, that does not look by itself and takes LoadModel."""
    models.put(repository, "pets", 2, models.classifier(seed=2))
    models.put(repository, "pets", 3, models.classifier(seed=3))
    return serve(models=repository, allow_control=True, watch="off", watch_seconds=1)


# ---- on request ----


def test_control_is_refused_unless_the_server_was_started_with_it(server: LiveServer) -> None:
    """Without --allow-control both are FAILED_PRECONDITION, the words name the flag, and nothing changes."""
    for call, request in (
        (server.stub.LoadModel, pb.LoadModelRequest(model="pets")),
        (server.stub.UnloadModel, pb.UnloadModelRequest(model="pets")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "it was not started with --allow-control" in caught.value.details()
    assert predict(server).version == 1


def test_an_unloaded_model_stays_unloaded_until_it_is_loaded_again(controlled: LiveServer) -> None:
    """Looks and new versions change nothing; the words say why, health follows; LoadModel brings it back."""
    assert unload(controlled) == set()
    models.put(controlled.models, "pets", 4, models.classifier(seed=4))
    controlled.refresh()
    assert ready(controlled) == set()
    with pytest.raises(grpc.RpcError) as caught:
        predict(controlled)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "version 4 is not served: it was unloaded on request, until LoadModel or a restart" in caught.value.details()
    assert health(controlled) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert load(controlled) == {3, 4}
    assert health(controlled) == health_pb2.HealthCheckResponse.SERVING
    assert predict(controlled).version == 4


def test_one_version_can_be_unloaded_and_the_one_before_takes_over(controlled: LiveServer) -> None:
    """Unloading the newest lets the policy's next one in at the next look; loading it brings it back."""
    assert unload(controlled, version=3) == {2}
    assert predict(controlled).version == 2
    controlled.refresh()
    assert ready(controlled) == {1, 2}
    assert load(controlled, version=3) == {2, 3}
    assert predict(controlled).version == 3


def test_without_watching_only_a_request_loads(controlled: LiveServer) -> None:
    """With --watch off a published version is not noticed until LoadModel, which answers when it is live."""
    models.put(controlled.models, "pets", 4, models.classifier(seed=4))
    assert predict(controlled).version == 3
    assert load(controlled) == {3, 4}
    assert predict(controlled).version == 4


def test_a_version_can_be_loaded_that_the_policy_leaves_out(controlled: LiveServer) -> None:
    """An explicit version is served beside the policy's, through later looks, until it is unloaded."""
    assert ready(controlled) == {2, 3}
    assert load(controlled, version=1) == {1, 2, 3}
    controlled.refresh()
    assert predict(controlled, version=1).version == 1
    assert unload(controlled, version=1) == {2, 3}


def test_a_refused_version_is_tried_again_on_request_and_the_reason_told(controlled: LiveServer) -> None:
    """LoadModel of a broken file is FAILED_PRECONDITION with the reason; the old versions stay."""
    models.put(controlled.models, "pets", 4, b"rubbish")
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            load(controlled, version=4)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "model 'pets' version 4 was refused: it is not a whole ONNX file" in caught.value.details()
    assert load(controlled) == {2, 3}
    assert predict(controlled).version == 3


CONTROL = {
    "load without a name": ("LoadModel", {}, grpc.StatusCode.INVALID_ARGUMENT, "LoadModel needs one"),
    "unload without a name": ("UnloadModel", {}, grpc.StatusCode.INVALID_ARGUMENT, "UnloadModel needs one"),
    "load what is not there": ("LoadModel", {"model": "x"}, grpc.StatusCode.NOT_FOUND, "holds no model 'x'"),
    "load a way out": ("LoadModel", {"model": "../pets"}, grpc.StatusCode.NOT_FOUND, "holds no model '../pets'"),
    "load no such version": (
        "LoadModel", {"model": "pets", "version": 9}, grpc.StatusCode.NOT_FOUND, "holds no model 'pets' version 9",
    ),
    "unload no such version": (
        "UnloadModel", {"model": "pets", "version": 9}, grpc.StatusCode.NOT_FOUND, "no model 'pets' version 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTROL)
def test_a_wrong_control_request_is_told_so(controlled: LiveServer, case: str) -> None:
    """The status and the words say what is wrong, and what is served stays."""
    method, fields, code, words = CONTROL[case]
    request = getattr(pb, f"{method}Request")(**fields)
    with pytest.raises(grpc.RpcError) as caught:
        getattr(controlled.stub, method)(request)
    assert caught.value.code() is code
    assert words in caught.value.details()
    assert ready(controlled) == {2, 3}


def test_a_call_in_progress_finishes_when_its_model_is_unloaded(
    repository: Path, serve: Callable[..., LiveServer]
) -> None:
    """A request that waits while UnloadModel takes its model away is answered all the same."""
    from tests.server.test_neighbours import Hold

    server = serve(models=repository, allow_control=True)
    hold = Hold(server)
    call = server.stub.Predict.future(pb.PredictRequest(tensor=tensor(pictures(3))))
    assert hold.entered.wait(10)
    assert unload(server) == set()
    hold.go.set()
    assert call.result().version == 1


# ---- policies ----


def test_each_model_may_have_its_own_policy(repository: Path, serve: Callable[..., LiveServer]) -> None:
    """latest:1;pets=all;birds=specific:1 serves all pets, the first of birds, and the newest of others."""
    for version in (2, 3):
        models.put(repository, "pets", version, models.classifier(seed=version))
    for name in ("birds", "fish"):
        for version in (1, 2):
            models.put(repository, name, version, models.classifier(seed=version))
    server = serve(models=repository, version_policy="latest:1; pets=all; birds=specific:1")
    assert {name: ready(server, name) for name in ("pets", "birds", "fish")} == {
        "pets": {1, 2, 3},
        "birds": {1},
        "fish": {2},
    }
    assert "the version policy is specific:1" in listed(server)["birds", 2].reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pets=latest:0", "in which 'latest:0' is wrong; it must be latest:N, all or specific:V,V…"),
        ("latest:1;all", "it has 2 rules without a name: put MODEL= before all but one"),
        ("pets=all;pets=latest:1", "it has two rules for 'pets'"),
        ("pets=", "in which '' is wrong"),
        ("latest:2;", "in which '' is wrong"),
        ("all;a/b=all", "in which 'a/b=all' is wrong"),
    ],
)
def test_a_wrong_policy_is_named(text: str, words: str) -> None:
    """ConfigError names the part that is wrong, and what it may be."""
    with pytest.raises(ConfigError) as caught:
        policy.parse(text)
    assert f"version_policy is {text!r}" in str(caught.value)
    assert words in str(caught.value)


def test_a_policy_for_one_model_leaves_the_usual_one_for_the_others() -> None:
    """Without a rule of their own the others have latest:2."""
    assert policy.parse("pets=all").of("birds").text == "latest:2"


# ---- a folder that cannot be read ----


def _gone(folder: Path) -> Path:
    return folder.rename(folder.with_name("elsewhere"))


def _unmounted(folder: Path) -> Path:
    elsewhere = _gone(folder)
    folder.mkdir()
    return elsewhere


@pytest.mark.parametrize(("vanish", "words"), [(_gone, "cannot be read: No such file"), (_unmounted, "and empty")])
def test_a_repository_that_vanishes_unloads_nothing(
    server: LiveServer, vanish: Callable[[Path], Path], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When the folder is missing, or another and empty as of a volume not mounted, what is loaded goes on answering;
    log and ListModels say why, once; when it is back, it is followed again."""
    elsewhere = vanish(server.models)
    for _ in range(3):
        server.refresh()
    assert predict(server).version == 1
    assert health(server) == health_pb2.HealthCheckResponse.SERVING
    assert [words in problem for problem in problems(server)] == [True]
    assert sum(words in record.getMessage() for record in caplog.records) == 1
    if server.models.exists():
        server.models.rmdir()
    elsewhere.rename(server.models)
    models.put(server.models, "pets", 2, models.classifier(seed=2))
    server.refresh()
    assert predict(server).version == 2
    assert problems(server) == []


def test_a_repository_that_is_swapped_for_another_is_followed(server: LiveServer, tmp_path: Path) -> None:
    """Another folder in its place that holds models is the repository from now on, as of a symbolic link that moves."""
    _gone(server.models)
    other = tmp_path / "other"
    models.put(other, "pets", 7, models.classifier(seed=7))
    other.rename(server.models)
    server.refresh()
    assert set(listed(server)) == {("pets", 7)}
    assert predict(server).version == 7


def test_a_model_whose_folder_gives_an_error_goes_on_being_served(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input/output error below one model's folder unloads nothing; the other models are followed."""
    from server import disk

    models.put(server.models, "birds", 1, models.classifier())
    real = disk._model

    def failing(folder: Path) -> Any:
        if folder.name == "pets":
            raise OSError(5, "Input/output error")
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_model", failing)
        server.refresh()
    assert predict(server, "pets").version == 1
    assert predict(server, "birds").version == 1
    [problem] = problems(server)
    assert "cannot be read: Input/output error" in problem
    server.refresh()
    assert problems(server) == []


def test_a_repository_whose_last_model_is_deleted_is_empty(server: LiveServer) -> None:
    """An emptied folder is no vanished one: it is the same folder."""
    shutil.rmtree(server.models / "pets")
    server.refresh()
    assert listed(server) == {}
    assert problems(server) == []
