"""retrain.py: what is better goes live, what is worse does not, and one line says which."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import run_module
from tests.server.test_neighbours import until
from topclass import Client

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow]
QUICK = ["--", "--epochs=4", "--target=0.1"]
POOR = ["--", "--epochs=1", "--limit=40", "--target=0.01"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/ and models/, version 1 published by retrain.py where no server runs."""
    folder = tmp_path_factory.mktemp("first")
    line = retrain(folder, "--server", "none", "--data", "digits", "--seed", "1", more=QUICK)
    assert "digits-mlp: published" in line
    assert "models/digits-mlp/1/model.onnx: accuracy 0.9" in line
    assert "no server was watched, none was asked for" in line
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    shutil.copytree(first / "models", tmp_path / "models")
    return tmp_path


def retrain(folder: Path, *flags: str, more: list[str], expect: int = 0) -> str:
    """Runs retrain.py digits-mlp; its last line."""
    where = ["--models", str(folder / "models"), "--runs", str(folder / "runs")]
    return run_module("retrain.py", "digits-mlp", *where, *flags, *more, expect=expect)


def test_a_model_that_is_not_worse_goes_live(folder: Path, start_server: Callable[[Path], str]) -> None:
    """The running server answers with the new version before the command ends, and the line says so."""
    address = start_server(folder / "models")
    line = retrain(folder, "--server", address, "--seed", "1", more=["--", "--epochs=8"])
    assert f"digits-mlp: version 2 is live on {address}" in line
    assert "on the same 359 held-out rows" in line
    with Client(address) as client:
        assert client.predict(np.zeros((1, 28, 28), np.uint8)).version == 2


def test_a_named_champion_moves_with_it_and_rollback_leads_back(
    folder: Path, start_server: Callable[[Path], str]
) -> None:
    """With a champion the new version becomes it, the old one previous; `rollback` makes the old one answer again."""
    at = ["--models", str(folder / "models")]
    run_module("-m", "server", "alias", "digits-mlp", "champion", "1", *at)
    address = start_server(folder / "models")
    assert "version 2 is live" in retrain(folder, "--server", address, "--seed", "1", more=["--", "--epochs=8"])
    assert run_module("-m", "server", "rollback", "digits-mlp", *at) == "digits-mlp: champion 1, previous 2"
    with Client(address) as client:
        until(lambda: client.predict(np.zeros((1, 28, 28), np.uint8)).version == 1)


def test_a_worse_model_is_kept_back(folder: Path, start_server: Callable[[Path], str]) -> None:
    """Exit status 3, a line with both accuracies, and the old version goes on answering."""
    address = start_server(folder / "models")
    line = retrain(folder, "--server", address, more=POOR, expect=3)
    assert "digits-mlp: not published, the model now served is better: accuracy 0." in line
    assert not (folder / "models" / "digits-mlp" / "2").exists()
    with Client(address) as client:
        assert client.predict(np.zeros((1, 28, 28), np.uint8)).version == 1


def test_a_worse_model_is_kept_back_without_a_server_too(folder: Path) -> None:
    """The newest published version is the champion where no server runs."""
    line = retrain(folder, "--server", "none", more=POOR, expect=3)
    assert "not published, the model now served is better" in line


def test_a_server_of_another_repository_is_noticed(folder: Path, start_server: Callable[[Path], str]) -> None:
    """Exit status 4: published, but the server does not take it, with what it does instead."""
    shutil.copytree(folder / "models", folder / "other")
    address = start_server(folder / "other")
    line = retrain(folder, "--server", address, "--seed", "1", "--wait", "1", more=["--", "--epochs=8"], expect=4)
    assert "models/digits-mlp/2/model.onnx, but 127.0.0.1:" in line
    assert "does it serve another repository?" in line


def test_a_server_that_is_named_and_not_there_stops_it_before_training(folder: Path) -> None:
    """Exit status 1 at once."""
    line = retrain(folder, "--server", "127.0.0.1:1", more=[], expect=1)
    assert "failed: nothing was trained:" in line
    assert not (folder / "runs").exists()


def test_a_training_that_misses_its_target_publishes_nothing(folder: Path) -> None:
    """Exit status 1, and the step is named."""
    line = retrain(folder, "--server", "none", more=["--", "--epochs=1", "--limit=40", "--target=0.99"], expect=1)
    assert line == "digits-mlp: failed: train ended with status 1; its own words are above"
    assert not (folder / "models" / "digits-mlp" / "2").exists()


@pytest.mark.parametrize("name", ["../up", ".hidden", "a b"])
def test_a_wrong_name_is_a_usage_error(name: str) -> None:
    """Exit status 2, naming the name."""
    assert f"{name!r} is no model name" in run_module("retrain.py", name, expect=2)
